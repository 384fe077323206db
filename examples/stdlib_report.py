"""CPU-bound work on real input: reads the standard library's own source and reports on it, package by package.

It holds the same function twice: ``measure_all_old``, written against ``concurrent.futures`` with the usual fallback
around it, and ``measure_all``, written against unirun. The report is the same.

    python examples/stdlib_report.py               # all of it
    python examples/stdlib_report.py --limit 100   # the first 100 files
    python examples/stdlib_report.py --old         # the hand-rolled fallback

The report goes to standard output and depends on the source alone; what was decided, and the time that it took, go to
standard error.
"""

import argparse
import ast
import os
import sys
import sysconfig
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unirun import Run, RuntimeConfig, last_decision, map

#: Not read: tests hold files that are broken on purpose, and what others have installed is not the standard library.
SKIPPED = {"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"}
#: Packages, and functions, that the report shows.
SHOWN = 10
#: Files that travel to a worker at once.
CHUNK = 8


@dataclass(frozen=True, slots=True, order=True)
class Function:
    """A function and its length. They sort longest first, then by place."""

    minus_lines: int
    file: str
    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What one file holds.

    Attributes:
        file: Its path below the standard library's folder.
        definitions: Classes and functions, nested ones and methods included.
        branches: Places where the flow may go one of two ways.
        longest: Its longest functions.
        error: Why it could not be read or parsed, or ``None``.
    """

    file: str
    definitions: int = 0
    branches: int = 0
    longest: tuple[Function, ...] = ()
    error: str | None = None


def measure(root: Path, path: Path) -> Measured:
    """Parse one file and count. This is what runs in the workers, so it stands at module level."""
    file = path.relative_to(root).as_posix()
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError) as error:  # ValueError: a file that does not decode
        return Measured(file=file, error=type(error).__name__)
    definitions = branches = 0
    functions: list[Function] = []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                definitions += 1
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append(Function(-lines, file, node.lineno, node.name))
            case ast.ClassDef():
                definitions += 1
            case ast.If() | ast.IfExp() | ast.For() | ast.AsyncFor() | ast.While():
                branches += 1
            case ast.ExceptHandler() | ast.match_case():
                branches += 1
            case ast.BoolOp():
                branches += len(node.values) - 1
            case ast.comprehension():
                branches += len(node.ifs)
    return Measured(file, definitions, branches, tuple(sorted(functions)[:SHOWN]))


def measure_all_old(root: Path, files: Sequence[Path], workers: int | None) -> list[Measured]:
    """The code that many projects have. The README says what is wrong with it."""
    roots = [root] * len(files)
    try:
        with ProcessPoolExecutor(max_workers=workers) as pool:
            return list(pool.map(measure, roots, files, chunksize=CHUNK))
    except OSError:
        with ThreadPoolExecutor(max_workers=workers) as fallback:
            return list(fallback.map(measure, roots, files))


def measure_all(root: Path, files: Sequence[Path], workers: int | None) -> list[Measured]:
    """The same with unirun."""
    roots = [root] * len(files)
    with Run(flavor="processes", config=RuntimeConfig(cpu_bound=True, max_workers=workers)) as executor:
        return list(map(executor, measure, roots, files, chunksize=CHUNK))


def find_sources(limit: int | None = None) -> tuple[Path, list[Path]]:
    """Return the standard library's folder and its source files, sorted, at most ``limit`` of them."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        # Only packages: beside them lie folders of build files, and on some systems of other people's code.
        subfolders[:] = [name for name in subfolders if name not in SKIPPED and name.isidentifier()]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return root, sorted(found)[:limit]


class Row(NamedTuple):
    """A line of the table."""

    name: str
    files: int
    definitions: int
    branches: int


def _sum(name: str, files: Sequence[Measured]) -> Row:
    return Row(name, len(files), sum(each.definitions for each in files), sum(each.branches for each in files))


def render(measured: Sequence[Measured]) -> str:
    """Return the report."""
    packages: dict[str, list[Measured]] = {}
    for each in measured:
        package, slash, _ = each.file.partition("/")
        packages.setdefault(package if slash else "(modules)", []).append(each)
    rows = [_sum(name, files) for name, files in packages.items()]
    rows.sort(key=lambda row: (-row.definitions, row.name))
    shown = rows[:SHOWN]
    if rest := rows[SHOWN:]:
        shown.append(_sum(f"({len(rest)} more)", [each for row in rest for each in packages[row.name]]))
    shown.append(_sum("all", measured))

    lines = [f"{'package':<20} {'files':>6} {'definitions':>12} {'branches':>9}"]
    lines += [f"{row.name:<20} {row.files:>6} {row.definitions:>12} {row.branches:>9}" for row in shown]
    lines += ["", f"{'longest functions':<20} {'lines':>6}"]
    longest = sorted(function for each in measured for function in each.longest)[:SHOWN]
    lines += [f"{f.name:<20} {-f.minus_lines:>6}  {f.file}:{f.line}" for f in longest]
    failed = [f"{each.file} ({each.error})" for each in measured if each.error]
    lines += ["", f"files that could not be parsed: {len(failed)}", *failed]
    return "\n".join(lines)


def main() -> int:
    """Measure, and print the report."""
    parser = argparse.ArgumentParser(description="Report on the source of Python's standard library.")
    parser.add_argument("--old", action="store_true", help="use concurrent.futures and the hand-rolled fallback")
    parser.add_argument("--limit", type=int, metavar="N", help="read the first N files only")
    parser.add_argument("--workers", type=int, metavar="N", help="default: what each of the two libraries chooses")
    arguments = parser.parse_args()

    root, files = find_sources(arguments.limit)
    if not files:
        print(f"there is no source of the standard library in {root}", file=sys.stderr)
        return 1
    begin = time.perf_counter()
    measured = (measure_all_old if arguments.old else measure_all)(root, files, arguments.workers)
    seconds = time.perf_counter() - begin

    print(render(measured), flush=True)
    decision = last_decision()
    print(f"\ndecision: {decision.render() if decision else 'none; --old cannot tell'}", file=sys.stderr)
    print(f"time: {seconds:.2f} s for {len(files)} files", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

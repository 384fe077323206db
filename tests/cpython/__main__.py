"""Compares CPython's own tests with and without the hook, on several interpreters: minutes for each.

python -m tests.cpython [--no-passthrough] [PYTHON...]      default: those of 3.13 to 3.15 that are on the PATH
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.autopatch import venvs
from tests.cpython import suites

PYTHONS = ("python3.13", "python3.13t", "python3.14", "python3.15")


def main(arguments: Sequence[str]) -> int:
    """Print a table per interpreter, and return 1 if anything differs."""
    modes = [mode for mode in suites.MODES if f"--no-{mode}" not in arguments]
    named = [name for name in arguments if not name.startswith("--no-")]
    paths = [shutil.which(name) for name in named or PYTHONS]
    pythons = [path for path in paths if path]
    if not pythons or (named and None in paths):
        print(__doc__, file=sys.stderr)
        return 2
    same = different = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        wheels = venvs.build_wheels(Path(scratch, "built"))
        for number, python in enumerate(pythons):
            folders = suites.environments(Path(scratch, str(number)), python, wheels)
            reports: dict[suites.Mode, suites.Report] = {}
            for mode in modes:
                print(f"{python}, {mode} the hook" if mode != "passthrough" else f"{python}, {mode}", flush=True)
                reports[mode] = suites.run(folders[mode], mode, suites.ALL, hang=300)
            _print_table(reports)
            for mode, report in reports.items():
                lines = suites.differences(reports["without"], report, mode)
                print("".join(f"  {mode}: {line}\n" for line in lines), end="")
                same += not lines
                different += bool(lines)
    print(f"{same} passed, {different} failed")
    return int(different > 0)


def _print_table(reports: dict[suites.Mode, suites.Report]) -> None:
    print(f"  {'tests run/skipped/failed':48}" + "".join(f"{mode:>16}" for mode in reports))
    for file in sorted({file for report in reports.values() for file in report.files}):
        cells = ["/".join(map(str, report.counts(file))) for report in reports.values()]
        print(f"  {file:48}" + "".join(f"{cell:>16}" for cell in cells))
    for mode, report in reports.items():
        again = f"; run twice: {', '.join(report.again)}" if report.again else ""
        print(f"  {mode}: {report.total}{again}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

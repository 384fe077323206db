"""Runs parts of CPython's test suite as `python -m test` does, and compares what came of it with and without the hook.

    environment ─► python -m test -j2 ─► a child per file ─┬─► JUnit file ─► each test: passed, skipped or failed
                                                           └─► witness ────► the classes that the child had

Many of the tests race against the clock, which a busy machine loses. So a file in which a test failed is run once more,
by itself; that one counts, and the report tells.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from xml.etree import ElementTree

from tests.autopatch import venvs
from tests.autopatch.venvs import Venv
from tests.cpython import witness

__all__ = ["ALL", "MODES", "Mode", "Report", "differences", "environments", "run"]

#: What the hook can break: the pools themselves, and what of the stdlib uses them.
ALL: Final = (
    "test_concurrent_futures",
    "test_asyncio.test_futures",
    "test_asyncio.test_base_events",
    "test_compileall",
)

Outcome = Literal["passed", "skipped", "failed"]
#: without: unirun is not installed. passthrough: it is, with the hook, and told to hand out the stdlib's classes.
Mode = Literal["without", "with", "passthrough"]
MODES: Final[tuple[Mode, ...]] = ("without", "with", "passthrough")
_SETTINGS: Final[Mapping[Mode, dict[str, str]]] = {
    "without": {},
    "with": {},
    "passthrough": {"UNIRUN_COMPAT_MODE": "passthrough"},
}


@dataclass(slots=True, kw_only=True)
class Report:
    """What came of a run.

    Attributes:
        files: Each test file that ran, with the outcome of each of its tests.
        homes: By test file, the modules that the pool classes were from in the process that ran it.
        failed: The files in which a test failed, or that hung.
        again: Those of them that were run once more; the report has what came of that.
        total: The last lines of `python -m test`.
        output: All that it printed.
    """

    files: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    homes: dict[str, dict[str, str | None]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    total: str = ""
    output: str = ""

    def counts(self, file: str) -> tuple[int, int, int]:
        """Return how many tests of a file ran, were skipped and failed; the skipped ones count as run, as there."""
        found = Counter(self.files.get(file, {}).values())
        return found.total(), found["skipped"], found["failed"]


def environments(folder: Path, python: str, wheels: Path) -> dict[Mode, Venv]:
    """Make an environment without unirun and one with the hook, both with the witness."""
    plain = venvs.create(folder / "plain", python)
    hooked = venvs.create(folder / "hooked", python)
    venvs.install(hooked, "unirun[autopatch]", find_links=wheels)
    for venv in (plain, hooked):
        shutil.copy(witness.__file__, venv.site / "pool_witness.py")
        # Read before unirun's own file: also there the hook must not come too late.
        (venv.site / "pool_witness.pth").write_text("import pool_witness\n")
    return {"without": plain, "with": hooked, "passthrough": hooked}


def run(
    venv: Venv,
    mode: Mode,
    suites: Sequence[str],
    *,
    timeout: float = 900,
    hang: float | None = None,
    choose: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> Report:
    """Run suites in one of ``environments``, two files at a time.

    Args:
        venv: The environment.
        mode: What is on in it.
        suites: Test files, named as `python -m test` takes them.
        timeout: Seconds for each run.
        hang: Seconds after which a file counts as failed, as `test_deadlock` of 3.13.0 may, which hangs by itself.
        choose: Options of `python -m test` that choose among the tests of the files.
        settings: Environment variables.
    """
    env = {**_SETTINGS[mode], **(settings or {})}
    if hang is not None:
        choose = ["--timeout", str(hang), *choose]
    report = _once(venv, mode, suites, ["-j2", *choose], env, timeout)
    for file in report.failed:
        second = _once(venv, mode, [file], ["-j1", *choose], env, timeout)
        report.files.update(second.files)
        report.homes.update(second.homes)
        report.output += second.output
        report.again.append(file)
    return report


def differences(expected: Report, found: Report, mode: Mode) -> list[str]:
    """Say what came out in ``found``, a report of ``mode``, that did not in ``expected``, one of "without".

    The tests that did not end the same way, and the processes whose classes were not those that the mode hands out.
    """
    lines = []
    for file in sorted({*expected.files, *found.files}):
        before, after = expected.files.get(file, {}), found.files.get(file, {})
        lines += [
            f"{test}: {after.get(test, 'not run')}, but {before.get(test, 'not run')} without the hook"
            for test in sorted({*before, *after})
            if before.get(test) != after.get(test)
        ]
    if expected.homes.keys() != found.homes.keys():
        lines.append(f"pools were loaded for {sorted(found.homes)}, but for {sorted(expected.homes)} without the hook")
    prefix = "unirun." if mode == "with" else "concurrent.futures."
    for where, homes in found.homes.items():
        lines += [
            f"{where}: {name} is of {home}" for name, home in homes.items() if not (home or "").startswith(prefix)
        ]
    return lines


def _once(
    venv: Venv, mode: Mode, suites: Sequence[str], options: Sequence[str], settings: Mapping[str, str], timeout: float
) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        results, testimony = Path(folder, "results.xml"), Path(folder, "testimony")
        env = {**settings, "POOL_WITNESS": str(testimony)}
        arguments = ("-m", "test", "--junit-xml", str(results), *options, *suites)
        try:
            done = venv.run(*arguments, env=env, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{mode}: {' '.join(suites)}\n{error.stdout!r}") from None
        report = Report(output=done.stdout + done.stderr)
        if not results.exists():
            raise RuntimeError(f"{' '.join(arguments)}\n{report.output}")
        hung = re.search(r"^\d+ tests? failed:\n((?:    .+\n)+)", done.stdout, re.MULTILINE)
        report.failed = hung.group(1).split() if hung else []
        report.total = " ".join(re.findall(r"^Total tests: (.*)$", done.stdout, re.MULTILINE))
        _read_results(results, report)
        if testimony.exists():
            _read_testimony(testimony, report)
    return report


def _read_results(file: Path, report: Report) -> None:
    for suite in ElementTree.parse(file).getroot():
        names = [case.get("name", "") for case in suite]
        whole = [name for name in names if "(" not in name]  # others are of setUpClass and the like
        if not whole:
            continue
        tests = report.files.setdefault(whole[0].rsplit(".", 2)[0].removeprefix("test."), {})
        for case in suite:
            tags = {child.tag for child in case}
            outcome: Outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
            tests[case.get("name", "").removeprefix("test.")] = outcome


def _read_testimony(file: Path, report: Report) -> None:
    for line in file.read_text().splitlines():
        argv, homes = json.loads(line)
        (name,) = json.loads(argv[1])["tests"]
        report.homes[name] = homes

"""A part of CPython's own tests, small enough for each run; `python -m tests.cpython` runs it all."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.cpython import suites

#: Every kind of pool, what the event loop does with their futures, and a program of the stdlib's with a pool.
QUICK = (
    "test_concurrent_futures.test_future",
    "test_concurrent_futures.test_init",
    "test_concurrent_futures.test_thread_pool",
    "test_asyncio.test_futures",
)
#: How pools end, and how they could hang: without `passthrough`, in which they are the stdlib's.
ENDING = ("test_concurrent_futures.test_deadlock", "test_concurrent_futures.test_shutdown")


@pytest.mark.timeout(600)  # eight files, each once or twice
@pytest.mark.skipif(sys.version_info < (3, 13), reason="before 3.13 these tests do not all pass by themselves")
@pytest.mark.skipif(
    sys.implementation.name != "cpython" or not importlib.util.find_spec("test.libregrtest"),
    reason="this interpreter does not ship CPython's tests",
)
def test_they_pass_as_they_do_without_the_hook(wheels: Path, tmp_path: Path) -> None:
    """The same tests run, are skipped and pass, in processes that have the hook on; and in passthrough."""
    venvs = suites.environments(tmp_path, sys.executable, wheels)
    reports = {mode: suites.run(venvs[mode], mode, QUICK, timeout=80) for mode in suites.MODES}
    without = reports["without"]
    assert set(QUICK) == set(without.files) == set(without.homes)
    assert sum(without.counts(file)[0] for file in QUICK) > 200
    for mode, report in reports.items():
        assert suites.differences(without, report, mode) == [], report.output
    assert len(suites.differences(without, without, "with")) >= len(without.homes), "it would not be noticed"
    modes: tuple[suites.Mode, ...] = ("without", "with")
    ending = {mode: suites.run(venvs[mode], mode, ENDING, timeout=200, hang=90) for mode in modes}
    assert sum(ending["without"].counts(file)[0] for file in ENDING) > 30
    assert suites.differences(ending["without"], ending["with"], "with") == [], ending["with"].output

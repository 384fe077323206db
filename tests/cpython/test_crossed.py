"""CPython's own executor tests, crossed with the pool over pipes as CPython crosses them with its own pools.

They run under the hook with ``UNIRUN_LADDER=pipes``: in each of their classes, one for each start method, and in the
programs that they start, ``ProcessPoolExecutor`` is then that pool.
"""

import importlib
import importlib.util
import json
import sys
import unittest
from pathlib import Path
from typing import Final

import pytest

from tests.cpython import suites

_MANAGER: Final = "joins the stdlib's private `_executor_manager_thread`"
#: The tests that are left out, and why.
LEFT_OUT: Final = {
    "test_shutdown.ProcessPoolShutdownTest.test_del_shutdown": _MANAGER,
    "test_shutdown.ProcessPoolShutdownTest.test_shutdown_no_wait": _MANAGER,
    "test_shutdown.ProcessPoolShutdownTest.test_shutdown_gh_132969_case_1": _MANAGER,
    "test_shutdown.ProcessPoolShutdownTest.test_shutdown_gh_132969_case_2": _MANAGER,
    "test_shutdown.ProcessPoolShutdownTest.test_processes_terminate": (
        "counts the private `_processes` right after submit; where workers do not fork, ours start on another thread"
    ),
    "test_shutdown.ProcessPoolShutdownTest.test_cancel_futures": (
        "wants a task to have begun by then; ours takes back what a worker was given and has not begun, which may be "
        "all on a busy machine"
    ),
    "test_deadlock.ExecutorDeadlockTest.test_shutdown_deadlock_pickle": _MANAGER,
    "test_init.FailingInitializerMixin.test_initializer": "reads the stdlib's private `_broken`",
}
#: Of `test_process_pool`, only what all executors share: its own tests are about the stdlib's processes and threads.
SHARED: Final = "executor.ExecutorTest"
FILES: Final = ("test_shutdown", "test_wait", "test_as_completed", "test_init", "test_deadlock", "test_process_pool")
PACKAGE: Final = "test.test_concurrent_futures"


def class_of(name: str) -> type:
    """Return a class of CPython's tests by its file and its name."""
    module, _, kind = name.partition(".")
    found: type = getattr(importlib.import_module(f"{PACKAGE}.{module}"), kind)
    return found


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before 3.14 these tests do not all pass by themselves")
@pytest.mark.skipif(
    sys.implementation.name != "cpython" or not importlib.util.find_spec("test.libregrtest"),
    reason="this interpreter does not ship CPython's tests",
)
@pytest.mark.timeout(420)  # a file in which a test fails is run once more
def test_they_pass_over_pipes(wheels: Path, tmp_path: Path) -> None:
    venv = suites.environments(tmp_path, sys.executable, wheels)["with"]
    choose = []
    for file in FILES[:-1]:
        choose += ["-m", f"{PACKAGE}.{file}.ProcessPool*"]
    shared = unittest.TestLoader().getTestCaseNames(class_of(SHARED))
    for test in shared:
        choose += ["-m", f"{PACKAGE}.{FILES[-1]}.ProcessPool*.{test}"]
    for name in LEFT_OUT:
        file, kind, test = name.split(".")
        assert hasattr(class_of(f"{file}.{kind}"), test), f"{name} is left out, and is not there"
        base = kind.removesuffix("Mixin").removesuffix("Tests").removesuffix("Test")
        choose += ["-i", f"{PACKAGE}.{file}.ProcessPool*{base}*.{test}"]
    trace = tmp_path / "trace.jsonl"
    settings = {"UNIRUN_LADDER": "pipes", "UNIRUN_TRACE": str(trace)}
    names = [f"test_concurrent_futures.{file}" for file in FILES]
    report = suites.run(venv, "with", names, choose=choose, settings=settings, timeout=200)
    outcomes = {test: outcome for tests in report.files.values() for test, outcome in tests.items()}
    assert {test for test, outcome in outcomes.items() if outcome == "failed"} == set(), report.output
    passed = [test for test, outcome in outcomes.items() if outcome == "passed"]
    assert len(passed) > 150, report.output
    for file in FILES:
        for method in ("Fork", "Forkserver", "Spawn"):
            assert any(f".{file}.ProcessPool{method}" in test for test in passed), f"nothing of {file} by {method}"
    served = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {each["backend"] for each in served if each["asked"] == "processes" and each["settled"]} == {"pipes"}

"""A program that runs CPython's own tests of thread pools, and prints each one's outcome as JSON.

They are those of ``_TestPool`` as CPython itself runs them for ``multiprocessing.dummy``: that is, for ``ThreadPool``.
None is left out. The other classes of pool tests in that file are for processes only.
"""

import io
import json
import sys
import unittest
from typing import Any

from test import support  # type: ignore[import-not-found]


class Outcomes(unittest.TextTestResult):
    """Writes down the outcome of each test."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.found: dict[str, str] = {}

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        super().startTest(test)
        self.found[test.id().rpartition(".")[2]] = "passed"

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self.found[test.id().rpartition(".")[2]] = f"skipped: {reason}"

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self.found[test.id().rpartition(".")[2]] = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self.found[test.id().rpartition(".")[2]] = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]


def main() -> None:
    # Without it, the whole file skips itself where there are no semaphores.
    support.skip_if_broken_multiprocessing_synchronize = lambda: None
    # How long `test_terminate` lets each thread sleep that has begun a task. From 3.13 on it is a second for threads.
    support.LONG_TIMEOUT = 1
    from test import _test_multiprocessing as theirs

    assert "threads" in theirs._TestPool.ALLOWED_TYPES
    # As `install_tests_in_module_dict` does it, but for the module's set-up, which skips likewise.
    kind = type("WithThreadsTestPool", (theirs._TestPool, theirs.ThreadsMixin, unittest.TestCase), {})
    names = unittest.TestLoader().getTestCaseNames(kind)
    said = io.StringIO()
    runner = unittest.TextTestRunner(said, resultclass=Outcomes)
    result = runner.run(unittest.TestSuite(map(kind, names)))
    assert isinstance(result, Outcomes)
    print(said.getvalue(), file=sys.stderr)
    print(json.dumps(result.found))


if __name__ == "__main__":
    main()

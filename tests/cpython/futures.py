"""Runs CPython's own tests of ``Future`` with the future of the pool over pipes in its place."""

import importlib
import unittest
from typing import Any

from tests.pipes.stub import deaf
from unirun.backends.pipes.future import PipeFuture

__all__ = ["Future", "main"]


class Future(PipeFuture):
    """With the name that the tests want to read."""

    def __init__(self) -> None:
        super().__init__(deaf())


def main() -> None:
    """Run them; exit with status 1 if one fails."""
    tests: Any = importlib.import_module("test.test_concurrent_futures.test_future")
    util: Any = importlib.import_module("test.test_concurrent_futures.util")
    for home in (tests, util):
        home.Future = Future
    for name, constant in list(vars(tests).items()):
        if name.endswith("_FUTURE"):
            same = Future()
            same._state, same._result, same._exception = constant._state, constant._result, constant._exception
            setattr(tests, name, same)
    unittest.main(tests, argv=["futures", "FutureTests"])


if __name__ == "__main__":
    main()

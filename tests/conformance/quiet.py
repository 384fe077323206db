"""A quiet process around pools: nothing of an earlier one left, and a main module that costs workers nothing."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import pytest

from tests.conformance.tasks import PATIENCE, TICK

__all__ = ["await_quiet", "exit_status", "light_main"]


def exit_status(child: int, patience: float = PATIENCE) -> int:
    """Wait for the end of a forked child, and kill it if that does not come; return its exit status."""
    end = time.monotonic() + patience
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(TICK)
    return os.waitstatus_to_exitcode(ended[1])


def await_quiet(before: Set[threading.Thread]) -> None:
    """Wait until all threads but those of ``before`` and all worker processes have ended; fail if they do not.

    A pool that was told to shut down without waiting, or that was collected, takes a moment; and a process that is to
    fork had better not have threads.
    """
    if set(threading.enumerate()) - before:
        gc.collect()  # the frames of an exception that a test looked at may hold a pool
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread!r} is left"
    left = {child.sentinel: child for child in multiprocessing.active_children()}
    while left:
        ended = wait_for(list(left), PATIENCE)
        assert ended, f"{list(left.values())!r} are left"
        for sentinel in ended:
            assert isinstance(sentinel, int)
            del left[sentinel]


@contextmanager
def light_main() -> Iterator[None]:
    """Let workers find a main module that costs nothing to import.

    Workers that do not fork import the program's main module. Pytest's would take them longer than everything else.
    """
    main = sys.modules["__main__"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "__spec__", None)
        patch.setattr(main, "__file__", str(Path(__file__).with_name("__init__.py")), raising=False)
        yield

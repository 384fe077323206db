"""What the stdlib's process pools get from us, at the moments at which the stdlib's own would fail, or ours."""

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.conformance.quiet import exit_status
from tests.pipes import jobs
from unirun.backends.processes import BrokenProcessPool, GuardedProcessPool

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork server here"),
]


def construct(method: str) -> GuardedProcessPool:
    pool = GuardedProcessPool.__new__(GuardedProcessPool)
    pool._unirun_construct(2, multiprocessing.get_context(method), None, (), None)
    return pool


def fill(pipe: int) -> None:
    os.set_blocking(pipe, False)
    try:
        while True:
            os.write(pipe, bytes(4))  # what a wakeup writes
    except BlockingIOError:
        os.set_blocking(pipe, True)


def until_taken(lock: Any) -> None:
    """Wait until another thread has it."""
    while lock.acquire(blocking=False):
        lock.release()
        time.sleep(0.001)


def test_what_wakes_the_thread_is_not_closed_while_it_writes() -> None:
    """As the exit of the interpreter does without the pool's lock, while the pool's thread ends."""
    pool: Any = construct("fork")
    wakeup = pool._executor_manager_thread_wakeup
    fill(wakeup._writer.fileno())
    errors: list[BaseException] = []

    def wake() -> None:
        try:
            wakeup.wakeup()
        except BaseException as error:
            errors.append(error)

    waker = threading.Thread(target=wake, daemon=True)
    waker.start()
    until_taken(wakeup._unirun_lock)  # it waits for room in the pipe
    closer = threading.Thread(target=wakeup.close, daemon=True)
    closer.start()
    time.sleep(0.1)
    assert not wakeup._writer.closed
    os.read(wakeup._reader.fileno(), 1 << 16)  # a pipe has room again when a whole page was read
    waker.join(10)
    closer.join(10)
    assert errors == []
    assert wakeup._writer.closed
    wakeup.wakeup()  # does nothing
    pool._unirun_release()


def test_a_pool_is_not_collected_while_its_thread_is_woken() -> None:
    """At its end it is woken with the pool's lock held, with which the thread may wait to close the pipe."""
    pool: Any = construct("fork")
    wakeup: Any = pool._executor_manager_thread_wakeup
    watched = weakref.ref(pool)
    stdlibs: Any = type(wakeup).__base__
    pool._unirun_ready.close()
    held, seen = [pool], []
    del pool

    def collect(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is stdlibs.wakeup.__code__:
            held.clear()
            gc.collect()
            seen.append(watched() is not None)

    sys.setprofile(collect)
    try:
        wakeup.wakeup()
    finally:
        sys.setprofile(None)
    assert seen == [True]
    gc.collect()
    assert watched() is None


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_does_not_wake_the_thread_of_its_parent() -> None:
    """What locks there are may have been held by a thread that it does not have."""
    pool: Any = construct("fork")
    wakeup = pool._executor_manager_thread_wakeup
    wakeup._unirun_owner = os.getpid()  # as if there were the thread
    fill(wakeup._writer.fileno())
    waker = threading.Thread(target=wakeup.wakeup, daemon=True)
    waker.start()
    until_taken(wakeup._unirun_lock)
    child = os.fork()
    if not child:
        wakeup.wakeup()
        os._exit(0)
    assert exit_status(child) == 0
    os.read(wakeup._reader.fileno(), 1 << 16)
    waker.join(10)
    pool._unirun_release()


def test_a_worker_that_is_started_while_the_pool_breaks() -> None:
    """Before 3.12 the pool's thread closes the queue while `submit` hands it to one worker more."""
    pool = construct("forkserver")
    pool._broken = "a worker ended"
    pool._call_queue._reader.close()  # type: ignore[attr-defined]
    with pytest.raises(BrokenProcessPool, match="a worker ended"):
        pool._spawn_process()
    pool._unirun_release()


WAITING = """
import fcntl, multiprocessing
from unirun.backends import ready
from unirun.compat.concurrent.futures import ProcessPoolExecutor

ready.PATIENCE = 0.5
lock = open({lock!r}, "w")
fcntl.flock(lock, fcntl.LOCK_EX)  # as every worker does that imports this module
fcntl.flock(lock, fcntl.LOCK_UN)
if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        future = pool.submit(abs, -3)
        fcntl.flock(lock, fcntl.LOCK_UN)
        print(future.result(), list(pool.map(abs, [-1, -2])), pool.decision.backend)
"""


def test_a_main_module_that_needs_what_the_caller_holds(tmp_path: Path) -> None:
    """The first `submit` does not wait for it for ever."""
    program = tmp_path / "program.py"
    program.write_text(WAITING.format(lock=str(tmp_path / "lock")), encoding="utf-8")
    done = jobs.run(program)
    assert (done.stdout, done.stderr) == ("3 [1, 2] processes\n", "")


PROGRAM = """
import multiprocessing, resource, sys
from unirun import Run, RuntimeConfig
from unirun.compat.concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    method = sys.argv[1]
    if sys.argv[2:]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    said = []
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        said += [pool.submit(abs, -3).result(20), pool.decision.backend]
    with Run(flavor="processes", max_workers=1, config=RuntimeConfig(start_method=method)) as pool:
        said += [pool.submit(abs, -3).result(20), pool.decision.backend]
    print(*said)
"""


@pytest.mark.parametrize("long", [True, False], ids=["a long path", "no byte in a file"])
def test_hosts_on_which_pools_raise_errors_of_other_kinds(long: bool, tmp_path: Path) -> None:
    """A folder for temporary files whose name is too long for the fork server's socket; files that must be empty."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), *(["forkserver"] if long else ["spawn", "limited"])],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | ({"TMPDIR": str(folder)} if long else {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    # From 3.14 on the socket is elsewhere then.
    expected = {"3 threads 3 threads\n", "3 processes 3 pipes\n"} if long else {"3 pipes 3 pipes\n"}
    assert run.stdout in expected, run.stderr

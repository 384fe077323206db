"""Workers of the stdlib's pool that are lost: its own waits for them for ever in most of these cases."""

import concurrent.futures.process as stdlib
import errno
import multiprocessing
import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.pipes import jobs
from tests.unit.moments import PATIENCE, in_time, until
from unirun.backends import repairs
from unirun.backends.processes import BrokenProcessPool
from unirun.compat.concurrent.futures import ProcessPoolExecutor

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def forking(workers: int) -> Any:
    """Return a pool that has done a task."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))
    assert pool.submit(abs, -3).result(PATIENCE) == 3
    return pool


@FORKING
@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_that_is_killed_once_it_was_told_to_end(killed: int) -> None:
    """One of the two has the lock of the queue, for which the other waits to hear the same; who knows which."""
    pool = forking(2)
    workers, lock = list(pool._processes.values()), pool._call_queue._rlock
    while lock.acquire(block=False):
        lock.release()
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    thread, words = pool._executor_manager_thread, pool._call_queue._reader
    pool.shutdown(wait=False)
    until(lambda: words.closed or words.poll())
    os.kill(workers[killed].pid, signal.SIGKILL)
    os.kill(workers[1 - killed].pid, signal.SIGCONT)
    thread.join(PATIENCE)
    alive = thread.is_alive()
    workers[1 - killed].kill()  # the program would wait for it at its exit
    assert not alive


def end_while_sending(length: int, sent: int, status: int | None) -> bytes:
    """End by a signal, or with a status, when so many bytes of a result are sent, which has that length."""

    def send_part(self: Any, buffer: Any) -> None:
        nonlocal sent
        sent -= os.write(self.fileno(), memoryview(buffer)[:sent])
        if sent <= 0:
            if status is not None:
                os._exit(status)
            os.kill(os.getpid(), signal.SIGKILL)

    Connection._send = send_part  # type: ignore[attr-defined]
    more = len(ForkingPickler.dumps(stdlib._ResultItem(1, result=bytes(1000)))) - 1000
    return bytes(length - more)


def end_before_the_length() -> None:
    """End when it was said that there are more than 2 GB, and not how many."""

    def send_part(self: Any, buffer: Any) -> None:
        os.write(self.fileno(), struct.pack("!i", -1))
        os._exit(0)

    Connection._send = send_part  # type: ignore[attr-defined]


@FORKING
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "task",
    [
        partial(end_while_sending, 1 << 20, 1000, None),
        partial(end_while_sending, 1 << 20, 1000, 0),
        partial(end_while_sending, 1 << 20, 4, None),
        partial(end_while_sending, 4094, 1000, None),
        end_before_the_length,
    ],
    ids=["killed", "exit", "nothing but the length", "just not in one piece", "length"],
)
def test_a_worker_that_ends_in_the_middle_of_its_result(workers: int, task: Callable[[], object]) -> None:
    with forking(workers) as pool:
        futures = [pool.submit(task), pool.submit(abs, -3)]
        assert isinstance(futures[0].exception(PATIENCE), BrokenProcessPool)
        assert isinstance(futures[1].exception(PATIENCE), (BrokenProcessPool, type(None)))


@FORKING
def test_a_callback_may_submit_to_a_pool_that_breaks() -> None:
    """As who tries again does. From 3.12 on the stdlib's thread has the lock that this needs, and waits for itself."""
    errors: list[BaseException | None] = []

    def try_again(future: Future[None]) -> None:
        try:
            errors.append(pool.submit(abs, -3).exception(PATIENCE))
        except BrokenProcessPool as error:
            errors.append(error)

    with forking(2) as pool:
        futures = [pool.submit(time.sleep, 2 * PATIENCE) for _ in range(3)]
        for future in futures:
            future.add_done_callback(try_again)
        os.kill(next(iter(pool._processes)), signal.SIGKILL)
        assert {type(future.exception(PATIENCE)) for future in futures} == {BrokenProcessPool}
        until(lambda: len(errors) == 3)
        with pytest.raises(BrokenProcessPool):
            pool.submit(abs, -3)
    assert {type(error) for error in errors} == {BrokenProcessPool}


class Unpicklable:
    """Cannot be pickled, as turns out some time after something has happened."""

    def __init__(self, happened: Callable[[], bool]) -> None:
        self.happened = happened

    def __reduce__(self) -> Any:
        until(self.happened)
        time.sleep(0.1)  # until who made that happen waits
        raise ValueError("cannot be pickled")


@FORKING
@pytest.mark.parametrize("late", ["pickling", "callback"])
@pytest.mark.parametrize("end", ["breaks", "ends"])
def test_a_task_that_cannot_be_pickled(end: str, late: str) -> None:
    """The pool's end waits for the thread that pickles, which tells of it all the same, and whose callbacks submit."""
    pool = forking(1)
    errors: list[Exception] = []

    def ends() -> bool:
        return bool(pool._broken if end == "breaks" else pool._shutdown_thread)

    def try_again(future: Future[int]) -> None:
        if late == "callback":
            until(ends)
            time.sleep(0.1)
        try:
            pool.submit(abs, -3)
        except RuntimeError as error:
            errors.append(error)

    future = pool.submit(abs, Unpicklable(ends if late == "pickling" else lambda: True))
    future.add_done_callback(try_again)
    if end == "breaks":
        if late == "callback":
            until(future.done)
        os.kill(next(iter(pool._processes)), signal.SIGKILL)
        until(ends)
    in_time(pool.shutdown)
    assert len(errors) == 1
    expected = BrokenProcessPool if (end, late) == ("breaks", "pickling") else ValueError
    assert type(future.exception(0)) is expected


@FORKING
def test_a_cancelled_task_of_a_pool_that_breaks() -> None:
    """Up to 3.11 the stdlib's thread ends by it, and those behind it wait for ever."""
    with forking(1) as pool:
        futures = [pool.submit(time.sleep, 2 * PATIENCE), *(pool.submit(abs, -3) for _ in range(8))]
        assert futures[5].cancel()
        os.kill(next(iter(pool._processes)), signal.SIGKILL)
        errors = [future.exception(PATIENCE) for future in futures if not future.cancelled()]
    assert {type(error) for error in errors} == {BrokenProcessPool}
    assert not multiprocessing.active_children()


def leave_a_child(reader: int, writer: int) -> None:
    """As a task that starts a daemon does: that has what tells that its parent has ended, which takes a moment."""
    Finalize(None, time.sleep, (0.3,), exitpriority=0)
    if not os.fork():
        os.close(writer)
        os.read(reader, 1)  # until the test is over
        os._exit(0)


@FORKING
def test_a_child_of_a_worker_s_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    pool = forking(2)
    try:
        pool.submit(leave_a_child, reader, writer).result(PATIENCE)
        in_time(pool.shutdown)
    finally:
        os.close(writer)
        os.close(reader)


NOBODY_WAITS = """
import multiprocessing, signal
from tests.unit.test_losses import end_while_sending
from unirun.compat.concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for method in ("fork", "spawn", "forkserver"):
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            print(pool.submit(abs, -3).result(), pool.decision.backend)
    pool = ProcessPoolExecutor(2)
    print(repr(pool.submit(end_while_sending, 1 << 20, 1000, None).exception(60))[:17])
    pool.shutdown()
"""


def test_workers_for_which_the_system_waits(tmp_path: Path) -> None:
    """They have ended, and count as alive."""
    program = tmp_path / "program.py"
    program.write_text(NOBODY_WAITS, encoding="utf-8")
    done = jobs.run(program)
    assert (done.returncode, done.stdout) == (0, "3 processes\n" * 3 + "BrokenProcessPool\n"), done.stderr


def test_a_worker_that_has_had_its_tasks() -> None:
    """Up to 3.13 another one counts as idle, by the tasks that this one has ended."""
    with ProcessPoolExecutor(1, max_tasks_per_child=2) as pool:
        futures = [pool.submit(abs, -number) for number in range(7)]
        assert [future.result(PATIENCE) for future in futures] == list(range(7))


@pytest.mark.parametrize("held", [True, False], ids=["held", "let go of"])
def test_workers_that_have_had_their_tasks_when_nobody_waits_for_the_end(held: bool) -> None:
    """Up to 3.13 the pool has forgotten where its workers are, or is gone."""
    pool: Any = ProcessPoolExecutor(2, max_tasks_per_child=1)
    futures = [pool.submit(abs, -number) for number in range(7)]
    thread = pool._executor_manager_thread
    pool.shutdown(wait=False)
    if not held:
        del pool
    assert [future.result(PATIENCE) for future in futures] == list(range(7))
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize("tasks", [None, 1000], ids=["any number of tasks", "so many tasks"])
def test_a_callback_that_submits_starts_no_needless_worker(tasks: int | None) -> None:
    """It runs in the very thread that replaces workers. One task at a time needs one worker; 3.11 starts a second."""
    left, done = [20], threading.Event()

    def go_on(future: Future[int]) -> None:
        left[0] -= 1
        if not left[0]:
            done.set()
        else:
            pool.submit(abs, -3).add_done_callback(go_on)

    pool: Any = ProcessPoolExecutor(8, multiprocessing.get_context("spawn"), max_tasks_per_child=tasks)
    with pool:
        pool.submit(abs, -3).add_done_callback(go_on)
        assert done.wait(PATIENCE)
        assert len(pool._processes) <= 2


def test_who_replaces_a_worker_sees_to_its_start_and_needs_nothing_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a `shutdown` that does not wait may make forget all at that moment."""
    ensure = repairs.ensure_descriptors
    seen: list[threading.Thread] = []

    def forget(context: Any) -> None:
        ensure(context)
        if (thread := threading.current_thread()) is manager:
            seen.append(thread)
            pool._processes = pool._call_queue = pool._result_queue = None

    pool: Any = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    first = pool.submit(abs, -3)
    manager = pool._executor_manager_thread
    monkeypatch.setattr(repairs, "ensure_descriptors", forget)
    others = [pool.submit(abs, -number) for number in range(3)]
    assert first.result(PATIENCE) == 3
    assert [future.result(PATIENCE) for future in others] == [0, 1, 2]
    pool.shutdown()
    assert len(seen) >= 2
    assert not multiprocessing.active_children()


def wait_for(path: Path) -> None:
    until(path.exists)


def test_a_worker_that_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a callback has submitted, which no worker was to get yet, fails with the rest."""
    context = multiprocessing.get_context("spawn")
    started, start = [0], context.Process.start
    others: list[Future[int]] = []
    tried: list[Future[int]] = []
    errors: list[threading.ExceptHookArgs] = []

    def refuse(worker: Any) -> None:
        started[0] += 1
        if started[0] > 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        start(worker)

    def go_on(future: Future[int]) -> None:
        others.extend(pool.submit(abs, -number) for number in range(12))
        for other in others:
            other.add_done_callback(try_again)

    def try_again(future: Future[int]) -> None:
        with pytest.raises(BrokenProcessPool):
            pool.submit(abs, -3)
        tried.append(future)

    monkeypatch.setattr(context.Process, "start", refuse)
    monkeypatch.setattr(threading, "excepthook", errors.append)
    pool: Any = ProcessPoolExecutor(1, context, max_tasks_per_child=1)
    first = pool.submit(wait_for, tmp_path / "gate")
    first.add_done_callback(go_on)
    (tmp_path / "gate").touch()
    assert first.exception(PATIENCE) is None
    pool._executor_manager_thread.join(PATIENCE)
    assert len(others) == 12
    assert {type(future.exception(PATIENCE)) for future in others} == {BrokenProcessPool}
    pool.shutdown()
    assert len(tried) == 12
    assert not errors
    assert not multiprocessing.active_children()

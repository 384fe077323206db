"""The contract of the end: shutdown, the context manager, collection, crashes, and the ends that are forced."""

import gc
import multiprocessing
import os
import re
import signal
import threading
import weakref
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import unirun
from tests.conformance import tasks
from tests.conformance.columns import NOTHING_PENDING, Column, across
from tests.conformance.conftest import Make
from tests.conformance.tasks import PATIENCE, Gate, Journal
from tests.conformance.test_futures import BEHIND, queue_up

REFUSED = "^cannot schedule new futures after shutdown$"


def end_of(future: Future[Any]) -> BaseException | None:
    """Wait for the end of a future; return its exception.

    Not by ``wait``: that never returns for what ``shutdown`` cancelled, since no worker comes upon it any more.
    """
    try:
        return future.exception(PATIENCE)
    except CancelledError as cancelled:
        return cancelled


# ----------------------------------------------------------------------------------------------------------- shutdown


@across()
def test_shutdown_waits_for_every_task(pool: Executor, journal: Journal) -> None:
    """After it all have run, and nothing else is accepted."""
    futures = [pool.submit(tasks.noted, journal, number) for number in range(10)]
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert sorted(map(int, journal.read())) == list(range(10))
    with pytest.raises(RuntimeError, match=REFUSED):
        pool.submit(tasks.add, 2, 3)


@across()
def test_the_block_waits_for_every_task(make: Make, journal: Journal) -> None:
    """``with`` gives the executor itself."""
    pool = make()
    with pool as entered:
        assert entered is pool
        futures = [pool.submit(tasks.noted, journal, number) for number in range(10)]
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match=REFUSED):
        pool.submit(tasks.add, 2, 3)


@across()
def test_an_exception_in_the_block_comes_through(make: Make, journal: Journal) -> None:
    """The tasks are waited for all the same."""
    with pytest.raises(LookupError, match="of the block"), make() as pool:  # noqa: PT012 - the block is the point
        pool.submit(tasks.noted, journal, "ran")
        raise LookupError("of the block")
    assert journal.read() == ["ran"]


@across()
def test_shutdown_may_be_repeated(pool: Executor) -> None:
    """In any form."""
    future = pool.submit(tasks.add, 2, 3)
    pool.shutdown()
    pool.shutdown()
    pool.shutdown(wait=False, cancel_futures=True)
    pool.shutdown(True)
    assert future.result(0) == 5


@across()
def test_a_pool_that_had_no_task_is_shut_down(pool: Executor) -> None:
    """It has started nothing, and does not start anything any more."""
    before = threading.active_count()
    pool.shutdown()
    pool.shutdown()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match=REFUSED):
        pool.submit(tasks.add, 2, 3)


@across(skip=NOTHING_PENDING)
def test_shutdown_need_not_wait(single: Executor, gate: Gate, journal: Journal) -> None:
    """What was accepted still runs, pending tasks included."""
    held, behind = queue_up(single, gate, journal)
    single.shutdown(wait=False)
    assert not held.done()
    with pytest.raises(RuntimeError, match=REFUSED):
        single.submit(tasks.add, 2, 3)
    gate.open()
    assert held.result(PATIENCE) == "holder"
    assert [future.result(PATIENCE) for future in behind] == list(range(BEHIND))


@across(skip=NOTHING_PENDING)
def test_shutdown_can_cancel_what_is_pending(single: Executor, gate: Gate, journal: Journal) -> None:
    """What has started goes on; each of the others ran or was cancelled, and not both."""
    held, behind = queue_up(single, gate, journal)
    single.shutdown(wait=False, cancel_futures=True)
    assert isinstance(end_of(behind[-1]), CancelledError)
    gate.open()
    assert held.result(PATIENCE) == "holder"
    ran = {future.result(0) for future in behind if end_of(future) is None}
    assert ran == set(map(int, journal.read()))


@across(without=("stdlib",), skip=NOTHING_PENDING)  # whose thread pool waits for itself
def test_a_callback_of_what_shutdown_cancels_may_submit(single: Executor, gate: Gate, journal: Journal) -> None:
    """And hears that nothing more is taken."""
    _, behind = queue_up(single, gate, journal)
    refused: SimpleQueue[BaseException] = SimpleQueue()

    def again(_: object) -> None:
        try:
            single.submit(tasks.add, 2, 3)
        except RuntimeError as error:
            refused.put(error)

    behind[-1].add_done_callback(again)
    single.shutdown(wait=False, cancel_futures=True)
    assert re.search(REFUSED, str(refused.get(timeout=PATIENCE)))
    assert behind[-1].cancelled()


@across(skip=NOTHING_PENDING)
def test_shutdown_can_cancel_and_wait(single: Executor, gate: Gate, journal: Journal) -> None:
    """It returns when the task that was running has ended."""
    held, behind = queue_up(single, gate, journal)
    closing = threading.Thread(target=single.shutdown, kwargs={"wait": True, "cancel_futures": True})
    closing.start()
    assert isinstance(end_of(behind[-1]), CancelledError)
    assert not held.done()
    assert closing.is_alive()
    gate.open()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert held.result(0) == "holder"
    assert all(future.done() for future in behind)


@across()
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists what a process has open")
def test_a_pool_that_was_shut_down_holds_nothing_open(make: Make) -> None:
    """However long it is kept, and whether or not it was ever used."""
    with make() as pool:  # what is started once for all pools, such as the fork server, is started here
        pool.submit(tasks.add, 2, 3).result(PATIENCE)
    before = number_of_open_files()
    with make() as pool:
        pool.submit(tasks.add, 2, 3).result(PATIENCE)
    make().shutdown()
    assert number_of_open_files() == before


def number_of_open_files() -> int:
    for _ in range(3):  # PyPy closes files when it collects them, and does so step by step
        gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_a_scope_on_a_borrowed_executor_ends_although_its_owner_cancels(tmp_path: Path) -> None:
    """What the owner cancels is over for the scope, too, which may be waiting for it."""
    owned = ThreadPoolExecutor(1)
    gate = Gate(str(tmp_path))
    scope = unirun.Run(flavor="threads", executor=owned)
    borrowed = scope.__enter__()
    borrowed.submit(tasks.hold, gate)
    gate.await_arrival("holder")

    def refuses() -> bool:
        try:
            borrowed.submit(tasks.add, 2, 3)
        except RuntimeError:
            return True
        return False

    assert not refuses()
    leaving = threading.Thread(target=scope.__exit__, args=(None, None, None))
    leaving.start()
    tasks.until(refuses, "the end of the scope's block")
    owned.shutdown(wait=False, cancel_futures=True)
    gate.open()
    leaving.join(PATIENCE)
    assert not leaving.is_alive()


# --------------------------------------------------------------------------------------------------------- collection


def await_collection(reference: weakref.ref[Executor]) -> None:
    """Wait until an executor is gone. Its manager thread may hold it for a moment, PyPy collects when it likes."""

    def collected() -> bool:
        gc.collect()
        return reference() is None

    tasks.until(collected, "the collection of the executor")


@across()
def test_an_executor_that_nobody_holds_is_collected(column: Column, journal: Journal) -> None:
    """Its tasks run all the same, and then its workers end: the fixture ``nothing_left`` waits for that."""
    pool = column.open()
    futures = [pool.submit(tasks.noted, journal, number) for number in range(5)]
    reference = weakref.ref(pool)
    del pool
    assert [future.result(PATIENCE) for future in futures] == list(range(5))
    await_collection(reference)


@across(skip={"on-inline": "there is no worker to end; the exception's frames are those of its caller"})
def test_the_workers_of_a_collected_executor_end_although_an_exception_is_held(column: Column) -> None:
    """A task's exception, with its frames, is not the pool's owner."""
    threads = set(threading.enumerate())
    pool = column.open()
    errors = [pool.submit(tasks.fail, ValueError("held")).exception(PATIENCE)]
    reference = weakref.ref(pool)
    del pool
    try:
        await_collection(reference)

        def ended() -> bool:
            gc.collect()  # on PyPy what an executor held, such as that of a lower rung, goes one collection later
            return set(threading.enumerate()) <= threads

        tasks.until(ended, "the end of the threads", patience=5)
        tasks.until(lambda: not multiprocessing.active_children(), "the end of the workers")
    finally:
        errors.clear()


@across()
def test_an_executor_that_had_no_task_is_collected(column: Column) -> None:
    """With what its constructor opened."""
    await_collection(weakref.ref(column.open()))


# ------------------------------------------------------------------------------------------------------------ crashes


@across("on-processes")
def test_a_first_task_that_crashes_its_worker_breaks_the_pool(pool: Executor, journal: Journal) -> None:
    """A crash is a crash, also while the pool is still being opened: never a reason to try the task elsewhere."""
    future = pool.submit(tasks.crash, os.getpid(), journal)
    assert isinstance(future.exception(PATIENCE), BrokenProcessPool)
    assert journal.read() == ["crash"]
    with pytest.raises(BrokenProcessPool):
        pool.submit(tasks.add, 2, 3)
    pool.shutdown()
    assert journal.read() == ["crash"]


@across("on-processes")
def test_a_crash_fails_every_task_that_is_not_done(single: Executor, journal: Journal) -> None:
    """None is lost; what was done before stays done."""
    before = single.submit(tasks.add, 2, 3)
    assert before.result(PATIENCE) == 5
    futures: list[Future[Any]] = [single.submit(tasks.crash, os.getpid(), journal)]
    while len(futures) < BEHIND:
        try:
            futures.append(single.submit(tasks.noted, journal, len(futures)))
        except BrokenProcessPool:
            break
    assert all(isinstance(future.exception(PATIENCE), BrokenProcessPool) for future in futures)
    assert before.result(0) == 5
    assert journal.read() == ["crash"]


@across("on-processes")
def test_a_worker_that_is_killed_breaks_the_pool(pool: Executor, gate: Gate) -> None:
    """Its task fails; so does everything after."""
    process, _ = pool.submit(tasks.whereabouts).result(PATIENCE)
    held = [pool.submit(tasks.hold, gate, name) for name in ("one", "two")]
    gate.await_arrival("one")
    os.kill(process, signal.SIGKILL)
    assert [type(future.exception(PATIENCE)) for future in held] == [BrokenProcessPool, BrokenProcessPool]
    with pytest.raises(BrokenProcessPool):
        pool.submit(tasks.add, 2, 3)


@across("for-processes", without=("on-processes", "on-pipes"))
def test_what_would_crash_a_worker_is_the_program_s_business_on_a_lower_rung(pool: Executor) -> None:
    """There is no worker to crash; the task sees that it runs in the program."""
    error = pool.submit(tasks.crash, os.getpid()).exception(PATIENCE)
    assert isinstance(error, AssertionError)
    assert not isinstance(error, BrokenExecutor)


# -------------------------------------------------------------------------------------------------------- forced ends


@across("for-processes")
@pytest.mark.parametrize("verb", ["terminate_workers", "kill_workers"])
def test_workers_can_be_ended_by_force(column: Column, pool: Executor, gate: Gate, verb: str) -> None:
    """The pool is not usable any more, and no future is left without an end."""
    if not hasattr(pool, verb):
        pytest.skip(f"this Python's process pools have no {verb}")
    if column.rung == "inline":
        gate.open()
    futures = [pool.submit(tasks.hold, gate, str(number)) for number in range(6)]
    gate.await_arrival("0")
    getattr(pool, verb)()
    with pytest.raises(RuntimeError):  # BrokenProcessPool is one too
        pool.submit(tasks.add, 2, 3)
    if not column.imitated:
        assert isinstance(end_of(futures[0]), BrokenProcessPool)
        assert all(isinstance(end_of(future), (BrokenProcessPool, CancelledError)) for future in futures)
    else:
        # A thread cannot be ended: its task goes on, what is pending is cancelled.
        gate.open()
        assert end_of(futures[0]) is None
        assert isinstance(end_of(futures[-1]), CancelledError) == (column.rung != "inline")
    getattr(pool, verb)()


@across("for-processes")
@pytest.mark.parametrize("verb", ["terminate_workers", "kill_workers"])
def test_a_pool_without_workers_can_be_ended_by_force(pool: Executor, verb: str) -> None:
    """There is nobody to end, but it is shut down."""
    if not hasattr(pool, verb):
        pytest.skip(f"this Python's process pools have no {verb}")
    getattr(pool, verb)()
    with pytest.raises(RuntimeError, match=REFUSED):
        pool.submit(tasks.add, 2, 3)

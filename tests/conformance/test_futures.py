"""The contract of futures: their states, cancelling, callbacks, and waiting for many."""

import logging
import os
import threading
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    as_completed,
    wait,
)
from queue import SimpleQueue
from typing import Any

import pytest

from tests.conformance import tasks
from tests.conformance.columns import NOTHING_PENDING, Column, across
from tests.conformance.tasks import PATIENCE, Gate, Journal

#: Tasks to submit behind one that holds the only worker, so that the last of them has certainly not been given to a
#: worker: process pools hand out a few more than they have workers, and those cannot be cancelled.
BEHIND = 6


def queue_up(single: Executor, gate: Gate, journal: Journal) -> tuple[Future[Any], list[Future[Any]]]:
    """Hold the only worker; return the future of what holds it, and those of what waits behind."""
    held = single.submit(tasks.hold, gate)
    gate.await_arrival("holder")
    return held, [single.submit(tasks.noted, journal, number) for number in range(BEHIND)]


# ------------------------------------------------------------------------------------------------------------- states


@across(skip=NOTHING_PENDING)
def test_a_future_says_what_state_it_is_in(single: Executor, gate: Gate, journal: Journal) -> None:
    """Running, pending, done."""
    held, behind = queue_up(single, gate, journal)
    assert (held.running(), held.done(), held.cancelled()) == (True, False, False)
    assert (behind[-1].running(), behind[-1].done(), behind[-1].cancelled()) == (False, False, False)
    gate.open()
    held.result(PATIENCE)
    assert (held.running(), held.done(), held.cancelled()) == (False, True, False)
    assert behind[-1].result(PATIENCE) == BEHIND - 1


@across(skip=NOTHING_PENDING)
def test_waiting_for_a_result_can_be_limited(single: Executor, gate: Gate) -> None:
    """The task does not notice."""
    held = single.submit(tasks.hold, gate)
    with pytest.raises(TimeoutError):
        held.result(0)
    with pytest.raises(TimeoutError):
        held.exception(0.01)
    gate.open()
    assert held.result(PATIENCE) == "holder"


# --------------------------------------------------------------------------------------------------------- cancelling


@across(skip=NOTHING_PENDING)
def test_a_pending_task_can_be_cancelled(single: Executor, gate: Gate, journal: Journal) -> None:
    """It never runs; asking twice is no mistake; the others are not touched."""
    held, behind = queue_up(single, gate, journal)
    last = behind.pop()
    assert last.cancel()
    assert last.cancel()
    assert (last.cancelled(), last.done(), last.running()) == (True, True, False)
    for ask in (last.result, last.exception):
        with pytest.raises(CancelledError):
            ask(PATIENCE)
    gate.open()
    assert held.result(PATIENCE) == "holder"
    assert [future.result(PATIENCE) for future in behind] == list(range(BEHIND - 1))
    single.shutdown()
    assert sorted(map(int, journal.read())) == list(range(BEHIND - 1))


@across(skip=NOTHING_PENDING)
def test_a_running_task_cannot_be_cancelled(single: Executor, gate: Gate) -> None:
    """Its result comes."""
    held = single.submit(tasks.hold, gate)
    gate.await_arrival("holder")
    assert not held.cancel()
    gate.open()
    assert held.result(PATIENCE) == "holder"


@across()
def test_a_finished_task_cannot_be_cancelled(pool: Executor) -> None:
    """Neither with a result nor with an exception."""
    futures: list[Future[Any]] = [pool.submit(tasks.add, 2, 3), pool.submit(tasks.fail, ValueError())]
    for future in futures:
        wait([future], PATIENCE)
        assert not future.cancel()
        assert not future.cancelled()


# ---------------------------------------------------------------------------------------------------------- callbacks


@across()
def test_callbacks_are_called_in_order_with_their_future(column: Column, pool: Executor, gate: Gate) -> None:
    """Each once, in the order in which they were added, and at once on a future that is done."""
    if column.rung == "inline":
        gate.open()
    future = pool.submit(tasks.hold, gate)
    calls: SimpleQueue[tuple[int, Future[str]]] = SimpleQueue()
    for number in range(5):
        future.add_done_callback(lambda done, number=number: calls.put((number, done)))  # type: ignore[misc]
    gate.open()
    assert [calls.get(timeout=PATIENCE) for _ in range(5)] == [(number, future) for number in range(5)]
    future.add_done_callback(lambda done: calls.put((5, done)))
    assert calls.get_nowait() == (5, future)
    assert calls.empty()


@across()
def test_callbacks_are_called_in_this_process_by_whoever_ends_the_task(
    column: Column, pool: Executor, gate: Gate
) -> None:
    """A thread of the pool's where it has any, else the caller's."""
    if column.rung == "inline":
        gate.open()
    places: SimpleQueue[tuple[int, int]] = SimpleQueue()
    future = pool.submit(tasks.hold, gate)
    future.add_done_callback(lambda _: places.put((os.getpid(), threading.get_ident())))
    gate.open()
    process, thread = places.get(timeout=PATIENCE)
    assert process == os.getpid()
    assert (thread == threading.get_ident()) == (column.rung == "inline")


@across()
def test_a_callback_that_raises_is_logged_and_disturbs_nobody(
    column: Column, pool: Executor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the next callback, nor the thread that calls it, nor the future."""
    if column.rung == "inline":
        gate.open()
    threads: SimpleQueue[int] = SimpleQueue()

    def broken(_: object) -> None:
        threads.put(threading.get_ident())
        raise LookupError("in a callback")

    future = pool.submit(tasks.hold, gate)
    future.add_done_callback(broken)
    future.add_done_callback(lambda _: threads.put(threading.get_ident()))
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.open()
        first, second = (threads.get(timeout=PATIENCE) for _ in range(2))
    assert first == second
    assert [record.name for record in caplog.records] == ["concurrent.futures"]
    assert "LookupError: in a callback" in caplog.text
    assert future.result(PATIENCE) == "holder"
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across(skip=NOTHING_PENDING)
def test_cancelling_calls_the_callbacks(single: Executor, gate: Gate, journal: Journal) -> None:
    """In the thread that cancels, before ``cancel`` returns."""
    _, behind = queue_up(single, gate, journal)
    threads: SimpleQueue[int] = SimpleQueue()
    behind[-1].add_done_callback(lambda _: threads.put(threading.get_ident()))
    assert behind[-1].cancel()
    assert threads.get_nowait() == threading.get_ident()
    gate.open()
    single.shutdown()
    assert threads.empty()


# --------------------------------------------------------------------------------------------------- waiting for many


@across()
def test_waiting_for_all(pool: Executor) -> None:
    """Also with some that failed, some given twice, and none at all."""
    futures: list[Future[Any]] = [pool.submit(tasks.square, number) for number in range(6)]
    futures.append(pool.submit(tasks.fail, ValueError("one of many")))
    done, rest = wait([*futures, futures[0]], timeout=PATIENCE, return_when=ALL_COMPLETED)
    assert (done, rest) == (set(futures), set())
    assert wait([]) == (set(), set())


@across(skip=NOTHING_PENDING)
def test_waiting_for_the_first(pool: Executor, gate: Gate) -> None:
    """The one that is held does not keep the other's result back."""
    held: Future[Any] = pool.submit(tasks.hold, gate)
    quick: Future[Any] = pool.submit(tasks.add, 2, 3)
    done, rest = wait([held, quick], timeout=PATIENCE, return_when=FIRST_COMPLETED)
    assert (done, rest) == ({quick}, {held})
    assert wait([held], timeout=0) == (set(), {held})
    gate.open()
    assert wait([held], timeout=PATIENCE) == ({held}, set())


@across(skip=NOTHING_PENDING)
def test_waiting_for_the_first_exception(pool: Executor, gate: Gate) -> None:
    """A result does not end the wait, an exception does."""
    held: Future[Any] = pool.submit(tasks.hold, gate)
    quick: Future[Any] = pool.submit(tasks.add, 2, 3)
    failing: Future[Any] = pool.submit(tasks.fail, ValueError())
    done, rest = wait([held, quick, failing], timeout=PATIENCE, return_when=FIRST_EXCEPTION)
    assert failing in done
    assert rest == {held}


@across()
def test_as_completed_yields_each_future_once(pool: Executor) -> None:
    """Also those that were done before, and those given twice."""
    futures: list[Future[Any]] = [pool.submit(tasks.square, number) for number in range(8)]
    futures.append(pool.submit(tasks.fail, ValueError()))
    futures[0].result(PATIENCE)
    seen = list(as_completed([*futures, futures[0]], timeout=PATIENCE))
    assert len(seen) == len(futures)
    assert set(seen) == set(futures)


@across(skip=NOTHING_PENDING)
def test_as_completed_yields_whoever_is_done_first(pool: Executor, gate: Gate) -> None:
    """The quick one although it was submitted, and given, later; a time limit ends it."""
    held: Future[Any] = pool.submit(tasks.hold, gate)
    quick: Future[Any] = pool.submit(tasks.add, 2, 3)
    order = as_completed([held, quick], timeout=PATIENCE)
    assert next(order) is quick
    with pytest.raises(TimeoutError):
        list(as_completed([held], timeout=0.01))
    gate.open()
    assert list(order) == [held]


@across(skip=NOTHING_PENDING)
def test_cancelled_futures_are_done(single: Executor, gate: Gate, journal: Journal) -> None:
    """Whoever waits for one gets it, although no worker ever sees it."""
    held, behind = queue_up(single, gate, journal)
    assert behind[-1].cancel()
    gate.open()
    done, rest = wait([held, *behind], timeout=PATIENCE)
    assert (len(done), rest) == (BEHIND + 1, set())
    assert set(as_completed([held, *behind], timeout=PATIENCE)) == done

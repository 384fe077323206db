"""The contract of initializers, of workers that end after some tasks, and of the program's own signal handlers."""

import decimal
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.thread import BrokenThreadPool
from itertools import count
from queue import SimpleQueue
from typing import Any

import pytest

from tests.conformance import tasks
from tests.conformance.columns import FORKING, Column, across
from tests.conformance.conftest import Make
from tests.conformance.tasks import PATIENCE, Gate, Journal, Unusual

pytestmark = pytest.mark.usefixtures("state")

LOWERED = pytest.mark.parametrize(
    "column",
    [
        Column(maker="compat", flavor="processes", rung="threads"),
        Column(maker="compat", flavor="processes", rung="inline"),
    ],
    ids=lambda column: column.name,
)


# ---------------------------------------------------------------------------------------------------------- that work


@across(without=("run",))
def test_it_runs_before_the_first_task_of_each_worker(column: Column, make: Make, journal: Journal) -> None:
    """With its arguments; once for each worker, but once for the whole pool where it is served by threads or inline."""
    pool = make(initializer=tasks.set_up, initargs=(journal, 42))
    futures = [pool.submit(tasks.read_state) for _ in range(20)]
    assert [future.result(PATIENCE) for future in futures] == [42] * 20
    pool.shutdown()
    assert 1 <= len(journal.read()) <= (1 if column.imitated and column.rung != "interpreters" else 2)


@across(without=("run",))
def test_it_does_not_run_without_a_task(make: Make, journal: Journal) -> None:
    """Pools start when they are used."""
    make(initializer=tasks.set_up, initargs=(journal, 42)).shutdown()
    assert journal.read() == []


@across("for-processes", without=("run", "on-inline"))
def test_it_runs_outside_of_the_program(make: Make) -> None:
    """What it sets is for tasks to see; on a lower rung the program sees it too, which cannot be helped."""
    pool = make(initializer=tasks.set_up, initargs=(Journal(os.devnull), 42))
    assert pool.submit(tasks.read_state).result(PATIENCE) == 42


@across(without=("run",))
def test_what_it_sets_in_its_context_is_there_for_each_task(make: Make) -> None:
    """Whichever thread runs it, and only there."""
    pool = make(initializer=tasks.set_precision, initargs=(40,))
    futures = [pool.submit(tasks.third, 0.01) for _ in range(10)]
    assert {future.result(PATIENCE) for future in futures} == {"0." + 40 * "3"}
    assert tasks.third() == "0." + 28 * "3"


@pytest.mark.parametrize("method", ["fork", "spawn"])
@LOWERED
def test_tasks_have_the_context_that_workers_would_inherit(column: Column, make: Make, method: str) -> None:
    """That of who submits the first one, where they are forked."""
    with decimal.localcontext() as context:
        context.prec = 40
        pool = make(mp_context=multiprocessing.get_context(method))
        digits = len(pool.submit(tasks.third).result(PATIENCE)) - 2
    assert digits == (40 if method == "fork" else 28)


@across("for-processes", without=("run",))
def test_its_arguments_are_copies(column: Column, make: Make) -> None:
    """A list that it changes stays as it was in the program; fork copies everything, the others pickle."""
    items: list[Any] = []
    pool = make(initializer=tasks.append_in_set_up, initargs=(items,))
    assert pool.submit(tasks.read_state).result(PATIENCE) == ["set up"]
    assert items == []


@LOWERED
def test_its_arguments_are_pickled_where_the_start_method_would(column: Column, make: Make) -> None:
    """A pool asked for with spawn and served from a lower rung: the same copy, and the same error."""
    spawn = multiprocessing.get_context("spawn")
    items: list[Any] = []
    pool = make(mp_context=spawn, initializer=tasks.append_in_set_up, initargs=(items,))
    assert pool.submit(tasks.read_state).result(PATIENCE) == ["set up"]
    assert items == []
    unpicklable = tasks.Unpicklable(KeyError("k"))
    pool = make(mp_context=spawn, initializer=tasks.append_in_set_up, initargs=(unpicklable,))
    with pytest.raises(KeyError, match="k"):
        pool.submit(tasks.read_state)


@pytest.mark.parametrize(
    "column", [Column(maker="compat", flavor="processes", rung="threads")], ids=lambda column: column.name
)
def test_a_submit_that_is_refused_for_its_arguments_starts_nothing(column: Column, make: Make) -> None:
    """However often it is tried."""
    unpicklable = tasks.Unpicklable(KeyError("k"))
    pool = make(
        mp_context=multiprocessing.get_context("spawn"), initializer=tasks.append_in_set_up, initargs=(unpicklable,)
    )
    before = threading.active_count()
    errors = []
    for _ in range(3):
        with pytest.raises(KeyError, match="k") as raised:
            pool.submit(tasks.read_state)
        errors.append(raised.value)
    started = threading.active_count() - before
    errors.clear()
    del raised
    unpicklable.error = KeyError()
    assert started == 0


@across("for-processes", "spawn", without=("run",))
def test_arguments_that_cannot_be_pickled_are_refused_by_submit(make: Make) -> None:
    """The worker cannot be started without them. An OSError of their own is theirs, not the host's."""
    pool = make(initializer=tasks.append_in_set_up, initargs=(tasks.Unpicklable(OSError(11, "of the argument")),))
    with pytest.raises(BlockingIOError, match="of the argument"):
        pool.submit(tasks.read_state)


# ---------------------------------------------------------------------------------------------------------- that fail


@across(without=("run",))
@pytest.mark.parametrize(
    "error", [OSError(11, "its own"), SystemExit(1), Unusual("u")], ids=lambda error: type(error).__name__
)
def test_a_pool_whose_initializer_fails_is_broken(
    column: Column, make: Make, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Its tasks fail with the error of the pool asked for, and it takes no more. No other rung is tried."""
    pool = make(initializer=tasks.fail_to_set_up, initargs=(error,))
    with caplog.at_level(logging.CRITICAL, "concurrent.futures"):
        first = pool.submit(tasks.add, 2, 3)
        assert type(first.exception(PATIENCE)) is column.broken
        with pytest.raises(column.broken):
            pool.submit(tasks.add, 2, 3)
    if column.rung not in ("processes", "pipes"):  # a worker process says it on its own standard error
        assert [record.getMessage() for record in caplog.records][:1] == ["Exception in initializer:"]


@across(without=("run",), skip={"on-inline": "each task has run before the next is submitted"})
def test_tasks_that_wait_for_a_failing_initializer_fail_with_it(column: Column, make: Make, gate: Gate) -> None:
    """However many there are; none of them runs."""
    pool = make(1, initializer=hold_and_fail, initargs=(gate,))
    futures = [pool.submit(tasks.add, 2, number) for number in range(5)]
    gate.await_arrival("initializer")
    gate.open()
    assert {type(future.exception(PATIENCE)) for future in futures} == {column.broken}


@across(without=("run", "stdlib"), skip={"on-inline": "each task has run before the next is submitted"})
def test_a_callback_of_a_task_that_fails_with_it_may_submit(column: Column, make: Make, gate: Gate) -> None:
    """As who tries again does. In the stdlib a thread waits for itself then; with processes too, from 3.12 on."""
    pool = make(1, initializer=hold_and_fail, initargs=(gate,))
    refused: SimpleQueue[BaseException] = SimpleQueue()

    def again(_: object) -> None:
        try:
            pool.submit(tasks.add, 2, 3)
        except RuntimeError as error:
            refused.put(error)

    futures = [pool.submit(tasks.add, 2, number) for number in range(5)]
    for future in futures:
        future.add_done_callback(again)
    gate.await_arrival("initializer")
    gate.open()
    assert {type(refused.get(timeout=PATIENCE)) for _ in futures} == {column.broken}


@across("for-threads", without=("run", "stdlib"), skip={"on-inline": "each task has run before the next is submitted"})
def test_a_cancelled_task_keeps_no_other_from_failing_with_it(column: Column, make: Make, gate: Gate) -> None:
    """In the stdlib those behind it wait for ever."""
    pool = make(1, initializer=hold_and_fail, initargs=(gate,))
    futures = [pool.submit(tasks.add, 2, number) for number in range(5)]
    gate.await_arrival("initializer")
    assert futures[1].cancel()
    gate.open()
    assert {type(future.exception(PATIENCE)) for future in futures if not future.cancelled()} == {column.broken}


@across("for-threads", "on-threads", without=("stdlib", "run"))
def test_one_that_fails_after_the_shutdown_lets_the_other_threads_end(make: Make) -> None:
    """What tells them to end is among what it takes out. In the stdlib they wait for ever."""
    calls = count()
    busy, starting, failing, held = (threading.Event() for _ in range(4))

    def fail_the_second_time() -> None:
        if next(calls):
            starting.set()
            failing.wait(PATIENCE)
            raise ValueError

    def hold() -> None:
        busy.set()
        held.wait(PATIENCE)

    pool: Any = make(2, initializer=fail_the_second_time)
    first = pool.submit(hold)
    assert busy.wait(PATIENCE)
    second = pool.submit(tasks.add, 2, 3)
    assert starting.wait(PATIENCE)
    pool.shutdown(wait=False)
    failing.set()
    assert type(second.exception(PATIENCE)) is BrokenThreadPool
    threads = [thread for thread in pool._threads if thread.is_alive()]
    while len([thread for thread in threads if thread.is_alive()]) > 1:
        time.sleep(tasks.TICK)  # until the one has ended whose initializer failed
    held.set()
    assert first.result(PATIENCE) is None
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def hold_and_fail(gate: Gate) -> None:
    gate.pass_through("initializer")
    raise ValueError("after the gate")


@across("on-processes", without=("run",))
def test_an_initializer_that_crashes_its_worker_breaks_the_pool(column: Column, make: Make, journal: Journal) -> None:
    """It is the user's code, and was run in a worker that had started: no reason for another rung."""
    pool = make(1, initializer=tasks.crash, initargs=(os.getpid(), journal))
    future = pool.submit(tasks.noted, journal, "task")
    assert type(future.exception(PATIENCE)) is column.broken
    with pytest.raises(column.broken):
        pool.submit(tasks.noted, journal, "task")
    pool.shutdown()
    assert journal.read() == ["crash"]


# ------------------------------------------------------------------------------------------------------------ signals


@pytest.fixture
def interrupts() -> Iterator[Callable[[], bool]]:
    """Give a handler of the program's own to SIGINT, and a question whether it still hears."""
    heard: list[int] = []

    def own(number: int, _: object) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGINT, own)

    def hears() -> bool:
        heard.clear()
        signal.raise_signal(signal.SIGINT)
        return heard == [signal.SIGINT] and signal.getsignal(signal.SIGINT) is own

    yield hears
    signal.signal(signal.SIGINT, before)


@across("for-processes", without=("run",))
@pytest.mark.parametrize("initializer", [tasks.ignore_interrupts, tasks.ignore_interrupts_by_name])
def test_an_initializer_that_ignores_interrupts_works_and_leaves_the_program_alone(
    make: Make, interrupts: Callable[[], bool], initializer: Callable[[], None]
) -> None:
    """The usual idiom: on a lower rung that call is skipped, the rest of the initializer is not."""
    pool = make(initializer=initializer)
    assert pool.submit(tasks.read_state).result(PATIENCE) == "ready"
    assert interrupts()
    pool.shutdown()
    assert interrupts()


@LOWERED
def test_it_does_so_in_any_thread(column: Column, make: Make, interrupts: Callable[[], bool]) -> None:
    """Off the main thread Python would refuse to set a handler, and the pool would be broken by it."""
    results: list[object] = []

    def use() -> None:
        pool = make(initializer=tasks.ignore_interrupts)
        results.append(pool.submit(tasks.read_state).result(PATIENCE))
        pool.shutdown()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(PATIENCE)
    assert results == ["ready"]
    assert interrupts()


@LOWERED
def test_the_skipped_call_answers_as_the_real_one(column: Column, make: Make, interrupts: Callable[[], bool]) -> None:
    """With the handler in place, which some initializers keep."""
    pool = make(initializer=tasks.ignore_interrupts)
    pool.submit(tasks.add, 2, 3).result(PATIENCE)
    assert tasks.read_state("before") is signal.getsignal(signal.SIGINT)


@pytest.mark.parametrize(
    "column", [Column(maker="compat", flavor="processes", rung="threads")], ids=lambda column: column.name
)
def test_the_program_may_set_handlers_meanwhile(column: Column, make: Make, gate: Gate) -> None:
    """Two initializers are at work in two pools, one ends before the other: only their own calls are skipped."""
    before = signal.getsignal(signal.SIGUSR2)
    pools = [make(1, initializer=tasks.ignore_terminations, initargs=(gate, name)) for name in ("first", "second")]
    futures = [pool.submit(tasks.add, 2, 3) for pool in pools]
    gate.await_arrival("first")
    gate.await_arrival("second")

    def own(*_: object) -> None:
        pass

    try:
        assert signal.signal(signal.SIGUSR2, own) == before
        assert signal.getsignal(signal.SIGUSR2) is own
        gate.open()
        assert [future.result(PATIENCE) for future in futures] == [5, 5]
        assert signal.getsignal(signal.SIGUSR2) is own
    finally:
        assert signal.signal(signal.SIGUSR2, before) is own


@LOWERED
def test_a_failing_initializer_leaves_the_program_s_signals_alone(
    column: Column, make: Make, interrupts: Callable[[], bool]
) -> None:
    """What is put aside while it runs is put back."""
    pool = make(initializer=ignore_and_fail)
    assert type(pool.submit(tasks.add, 2, 3).exception(PATIENCE)) is column.broken
    assert interrupts()
    assert signal.signal(signal.SIGUSR2, signal.getsignal(signal.SIGUSR2)) == signal.getsignal(signal.SIGUSR2)


def ignore_and_fail() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise ValueError("after the handler")


@across("for-threads", "compat")
def test_a_thread_pool_s_initializer_is_not_a_worker_process_s(
    column: Column, make: Make, interrupts: Callable[[], bool]
) -> None:
    """Whoever asks for threads means this process: nothing is skipped, off the main thread Python refuses as ever."""
    pool = make(initializer=tasks.ignore_interrupts)
    if column.rung == "threads":
        assert type(pool.submit(tasks.read_state).exception(PATIENCE)) is column.broken
        assert interrupts()
    else:
        assert pool.submit(tasks.read_state).result(PATIENCE) == "ready"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


# ------------------------------------------------------------------------------------------------ max_tasks_per_child


@across("for-processes", without=("run", "fork"))
@pytest.mark.parametrize("limit", [1, 2])
def test_a_worker_is_replaced_after_so_many_tasks(column: Column, make: Make, limit: int, journal: Journal) -> None:
    """A lower rung accepts the number: it has no worker to replace, and the program to lose."""
    pool = make(1, max_tasks_per_child=limit, initializer=tasks.set_up, initargs=(journal, 42))
    # One after the other: with tasks waiting, several versions of CPython do not replace the worker at all.
    processes = [pool.submit(tasks.whereabouts).result(PATIENCE)[0] for _ in range(4)]
    assert pool.submit(tasks.read_state).result(PATIENCE) == 42
    pool.shutdown()
    if not column.imitated:
        assert processes[0] != processes[-1]
        assert len(set(processes)) == 4 // limit
        assert len(journal.read()) >= 5 // limit
    else:
        assert set(processes) == {os.getpid()}
        assert len(journal.read()) == 1


@FORKING
@pytest.mark.parametrize(
    "column", [Column(maker=maker, flavor="processes", rung="processes") for maker in ("stdlib", "compat")]
)
def test_workers_that_are_replaced_are_spawned_unless_told_otherwise(column: Column, make: Make) -> None:
    """The stdlib's choice: a pool with running threads must not fork."""
    pool: Any = make(1, max_tasks_per_child=1)
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5
    if column.maker == "compat":
        assert pool.decision.start_method == "spawn"

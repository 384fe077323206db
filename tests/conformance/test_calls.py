"""The contract of ``submit``: what is called, how often, with what, and what comes back of it."""

import decimal
import functools
import os
import threading
from concurrent.futures import CancelledError, Executor, Future
from queue import SimpleQueue
from typing import Any

import pytest

from tests.conformance import tasks
from tests.conformance.columns import NOTHING_PENDING, Column, across
from tests.conformance.tasks import PATIENCE, DetailedError, Gate, Journal, Unusual


@across()
def test_a_result_comes_back(pool: Executor) -> None:
    """The least that a pool can do."""
    future = pool.submit(tasks.add, 2, 3)
    assert future.result(PATIENCE) == 5
    assert future.exception(PATIENCE) is None
    assert future.done()


@across()
def test_every_task_runs_once(pool: Executor, journal: Journal) -> None:
    """None is lost, and none is run twice."""
    futures = [pool.submit(tasks.noted, journal, number) for number in range(40)]
    assert [future.result(PATIENCE) for future in futures] == list(range(40))
    assert sorted(map(int, journal.read())) == list(range(40))


@across()
def test_arguments_arrive_as_they_were_given(pool: Executor) -> None:
    """Keywords may have any name, also those of the parameters that the way to the worker has itself."""
    names = (
        "fn",
        "self",
        "args",
        "kwargs",
        "func",
        "task",
        "payload",
        "initializer",
        "max_workers",
        "executor",
        "callable",
    )
    keywords: dict[str, Any] = {name: index for index, name in enumerate(names)}
    assert pool.submit(tasks.arguments, 1, [2], **keywords).result(PATIENCE) == ((1, [2]), keywords)
    assert pool.submit(tasks.arguments).result(PATIENCE) == ((), {})


@across()
def test_whatever_is_callable_is_a_task(pool: Executor) -> None:
    """Partials, builtins, classes and bound methods, which take their object along."""
    assert pool.submit(functools.partial(tasks.add, 40), 2).result(PATIENCE) == 42
    assert pool.submit(tasks.twice, 40).result(PATIENCE) == 42
    assert pool.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert pool.submit(tasks.Counter, 3).result(PATIENCE).count == 3
    assert pool.submit(tasks.Counter(40).increase, 2).result(PATIENCE) == 42


@across()
def test_what_is_not_callable_fails_as_a_task(pool: Executor) -> None:
    """It is called, as any task is, and its error is on its future."""
    no_function: Any = "no function"
    future = pool.submit(no_function, 1)
    assert isinstance(future.exception(PATIENCE), TypeError)
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across()
def test_submit_needs_a_function_by_position(pool: Executor) -> None:
    """As the stdlib's: ``fn`` as a keyword would be the task's."""
    with pytest.raises(TypeError):
        pool.submit()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        pool.submit(fn=tasks.add)  # type: ignore[call-arg]


@across()
def test_a_large_value_goes_both_ways(pool: Executor) -> None:
    """More than any pipe takes at once."""
    large = b"x" * 3_000_000
    assert pool.submit(tasks.identity, large).result(PATIENCE) == large


@across("on-processes")
def test_processes_are_other_processes(pool: Executor) -> None:
    """A process pool that starts is one."""
    assert pool.submit(tasks.whereabouts).result(PATIENCE)[0] != os.getpid()


@across("on-threads")
def test_threads_are_other_threads(pool: Executor) -> None:
    """In this process, beside the caller."""
    process, thread = pool.submit(tasks.whereabouts).result(PATIENCE)
    assert process == os.getpid()
    assert thread != threading.get_ident()


@across("on-inline")
def test_inline_runs_in_the_calling_thread_at_the_call(pool: Executor, journal: Journal) -> None:
    """What the points skipped for inline are skipped for: its future is done before anybody has it."""
    future = pool.submit(tasks.noted, journal, "here")
    assert future.done()
    assert journal.read() == ["here"]
    assert not future.running()
    assert not future.cancel()
    assert pool.submit(tasks.whereabouts).result(0) == (os.getpid(), threading.get_ident())


@across()
def test_one_worker_takes_tasks_in_their_order(single: Executor, journal: Journal) -> None:
    """First come, first served."""
    for number in range(10):
        single.submit(tasks.noted, journal, number)
    single.shutdown()
    assert list(map(int, journal.read())) == list(range(10))


@across("for-processes", without=("run",))
def test_a_task_may_have_a_pool_of_its_own(column: Column, pool: Executor) -> None:
    """Workers are processes like others, and so may have workers."""
    assert pool.submit(tasks.map_in_a_pool, column.kind, [1, 2, 3]).result(PATIENCE) == [1, 4, 9]


@across(skip=NOTHING_PENDING)
def test_two_workers_work_at_once(pool: Executor, gate: Gate) -> None:
    """Both are at the gate before it opens."""
    futures = [pool.submit(tasks.hold, gate, name) for name in ("first", "second")]
    gate.await_arrival("first")
    gate.await_arrival("second")
    gate.open()
    assert [future.result(PATIENCE) for future in futures] == ["first", "second"]


# --------------------------------------------------------------------------------------------------------- exceptions


@across()
def test_an_exception_keeps_its_class_and_arguments(pool: Executor) -> None:
    """It is the future's exception, and what ``result`` raises."""
    future = pool.submit(tasks.fail, OSError(11, "of the task, not of the host"))
    error = future.exception(PATIENCE)
    assert type(error) is BlockingIOError
    assert error.args == (11, "of the task, not of the host")
    with pytest.raises(BlockingIOError) as raised:
        future.result(PATIENCE)
    assert raised.value is error
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across()
def test_an_exception_keeps_its_attributes_and_notes(pool: Executor) -> None:
    """Notes are what people add where they know more than the one who raised."""
    error = pool.submit(tasks.fail_in_detail).exception(PATIENCE)
    assert isinstance(error, DetailedError)
    assert (error.args, error.code, error.__notes__) == (("with details",), 7, ["noted in the worker"])


@across("for-processes")
def test_the_cause_shows_where_a_worker_failed(pool: Executor) -> None:
    """A traceback does not travel; its text does, as the cause, chained exceptions and all."""
    error = pool.submit(tasks.fail_from_another).exception(PATIENCE)
    assert isinstance(error, ValueError)
    cause = str(error.__cause__)
    for part in (tasks.__file__, "in fail_from_another", "KeyError: 'the first'", "ValueError: the second"):
        assert part in cause


@across(without=("for-processes",))
def test_the_traceback_shows_where_a_thread_failed(pool: Executor) -> None:
    """In this process the exception itself has it all."""
    error = pool.submit(tasks.fail_from_another).exception(PATIENCE)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)
    names = []
    traceback = error.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "fail_from_another"


@across()
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), GeneratorExit("g"), Unusual("u"), StopIteration(4), CancelledError("by itself")],
    ids=lambda error: type(error).__name__,
)
def test_no_exception_is_too_special_for_a_future(pool: Executor, error: BaseException) -> None:
    """Those that end programs and loops end neither the worker nor the pool."""
    future = pool.submit(tasks.fail, error)
    raised = future.exception(PATIENCE)
    assert type(raised) is type(error)
    assert raised.args == error.args
    assert not future.cancelled()
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across(skip={"on-inline": "it is the program's own Ctrl-C there, and also leaves submit: the test below"})
def test_a_keyboard_interrupt_of_a_task_is_on_its_future(pool: Executor) -> None:
    """A worker's Ctrl-C is not the program's."""
    assert isinstance(pool.submit(tasks.fail, KeyboardInterrupt()).exception(PATIENCE), KeyboardInterrupt)
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across("on-inline")
def test_a_keyboard_interrupt_leaves_an_inline_submit(pool: Executor) -> None:
    """Nobody may ever look at a future; Ctrl-C must not wait for that. The executor stays usable."""
    with pytest.raises(KeyboardInterrupt):
        pool.submit(tasks.fail, KeyboardInterrupt())
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


# ------------------------------------------------------------------------------------------- submitting from anywhere


@across()
def test_several_threads_may_make_the_first_submit(make: Any, journal: Journal) -> None:
    """One opens the pool, all get served by it, each task once."""
    pool = make()
    start = threading.Barrier(4)
    futures: SimpleQueue[Future[object]] = SimpleQueue()

    def submit(first: int) -> None:
        start.wait(PATIENCE)
        for number in range(first, first + 5):
            futures.put(pool.submit(tasks.noted, journal, number))

    threads = [threading.Thread(target=submit, args=(first,)) for first in range(0, 20, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    results = {futures.get(timeout=PATIENCE).result(PATIENCE) for _ in range(20)}
    assert results == set(range(20))
    assert sorted(map(int, journal.read())) == list(range(20))


@across()
def test_a_done_callback_may_submit(pool: Executor) -> None:
    """From whichever thread it is called in."""
    seconds: SimpleQueue[Future[int]] = SimpleQueue()
    pool.submit(tasks.add, 1, 1).add_done_callback(lambda done: seconds.put(pool.submit(tasks.square, done.result())))
    assert seconds.get(timeout=PATIENCE).result(PATIENCE) == 4


@across(without=("for-processes",))
def test_a_task_may_submit_to_its_own_executor(pool: Executor) -> None:
    """And wait for it, as long as a worker is free."""

    def nested() -> int:
        return pool.submit(tasks.add, 2, 3).result(PATIENCE)

    assert pool.submit(nested).result(PATIENCE) == 5


@across(without=("for-none",))  # which is a call in this thread, as asked for
def test_the_context_of_the_caller_is_its_own(pool: Executor) -> None:
    assert pool.submit(tasks.precise_third, 40).result(PATIENCE) == "0." + 40 * "3"
    assert tasks.third() == "0." + 28 * "3"


@across("for-none")
def test_a_call_has_the_context_of_the_caller(pool: Executor) -> None:
    with decimal.localcontext() as context:
        context.prec = 40
        assert pool.submit(tasks.third).result(PATIENCE) == "0." + 40 * "3"

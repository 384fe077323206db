"""The contract of pickling: what a process request copies, and what becomes of that which cannot be copied.

It holds for a request for processes on every rung: a program that works where processes start gives the same answers
where they do not.
"""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest

import unirun
from tests.conformance import tasks
from tests.conformance.columns import NOTHING_PENDING, Column, across
from tests.conformance.conftest import Make
from tests.conformance.tasks import PATIENCE, Gate, Unloadable, Unpicklable

LOWERED = ("compat-processes-on-threads", "compat-processes-on-inline")


def pickling_error(value: object) -> type[BaseException]:
    """Return what pickling ``value`` raises on this Python; the class differs between versions."""
    try:
        ForkingPickler.dumps(value)
    except Exception as error:
        return type(error)
    raise AssertionError(f"{value!r} can be pickled")


# ------------------------------------------------------------------------------------------------------------- copies


@across("for-processes")
def test_a_task_gets_copies_of_its_arguments(pool: Executor) -> None:
    """What it does to them stays with it, and comes back only as its result."""
    items = [1]
    assert pool.submit(tasks.append, items, 2).result(PATIENCE) == [1, 2]
    assert items == [1]
    counter = tasks.Counter()
    assert pool.submit(counter.increase, 3).result(PATIENCE) == 3
    assert counter.count == 0


@across("for-processes")
def test_map_copies_too(pool: Executor) -> None:
    """Each item."""
    lists: list[list[int]] = [[1], [2]]
    assert list(pool.map(tasks.append, lists, [3, 4])) == [[1, 3], [2, 4]]
    assert lists == [[1], [2]]


@across("for-processes")
def test_a_result_is_a_copy(pool: Executor) -> None:
    """Nobody else has it."""
    items = ["an item"]
    result = pool.submit(tasks.identity, items).result(PATIENCE)
    assert result == items
    assert result is not items


@across("for-processes")
def test_an_exception_is_a_copy(pool: Executor) -> None:
    """As any other result."""
    error = ValueError("raised by the task")
    raised = pool.submit(tasks.fail, error).exception(PATIENCE)
    assert raised is not error
    assert error.__traceback__ is None


@across()
def test_the_arguments_of_one_task_stay_related(pool: Executor) -> None:
    """They travel together: what was one object is one object."""
    item = ["an item"]
    assert pool.submit(tasks.same, item, item).result(PATIENCE)
    assert pool.submit(tasks.same, left=item, right=item).result(PATIENCE)


@across(without=("for-processes",))
def test_without_processes_nothing_is_copied(pool: Executor) -> None:
    """Who asks for threads, or for none, shares."""
    items = [1]
    assert pool.submit(tasks.append, items, 2).result(PATIENCE) is items
    assert items == [1, 2]


@across("for-processes", "compat", without=("on-processes", "on-pipes", "on-interpreters"))
def test_copying_can_be_turned_off(make: Make) -> None:
    """``isolation="share"``: the lower rung as it is, for arguments that are too large, or cannot be pickled."""
    pool = make(config=unirun.RuntimeConfig(isolation="share"))
    items: list[Any] = [1]
    assert pool.submit(tasks.append, items, lambda: None).result(PATIENCE) is items
    assert len(items) == 2
    error = ValueError("raised by the task")
    assert pool.submit(tasks.fail, error).exception(PATIENCE) is error


# --------------------------------------------------------------------------------------------------- on the way there


@across("for-processes")
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_what_cannot_be_pickled_fails_its_own_task(pool: Executor, first: bool) -> None:
    """With the error of pickling, on the future; the pool and the tasks after it are fine."""
    if not first:
        assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5
    lock = threading.Lock()  # not a local function: where cloudpickle is installed, that may travel
    assert type(pool.submit(lock.acquire).exception(PATIENCE)) is pickling_error(lock)
    assert type(pool.submit(tasks.identity, lock).exception(PATIENCE)) is pickling_error(lock)
    assert type(pool.submit(tasks.arguments, keyword=lock).exception(PATIENCE)) is pickling_error(lock)
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across("for-processes")
def test_the_cause_shows_what_could_not_be_pickled(pool: Executor) -> None:
    """As text, since it may come from another thread or process."""
    error = pool.submit(tasks.identity, Unpicklable(ValueError("mine"))).exception(PATIENCE)
    assert isinstance(error, ValueError)
    assert "in __reduce__" in str(error.__cause__)


@across("for-processes")
@pytest.mark.parametrize(
    "error", [OSError(11, "mine"), EOFError("mine"), RuntimeError("can't start new thread")], ids=repr
)
def test_pickling_may_fail_in_the_words_of_a_refusing_host(column: Column, pool: Any, error: Exception) -> None:
    """It is the argument's error all the same: raised by its own code, it says nothing about the host."""
    failed = pool.submit(tasks.identity, Unpicklable(error)).exception(PATIENCE)
    assert type(failed) is type(error)
    assert failed.args == error.args
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5
    if column.maker != "stdlib":
        assert pool.decision.backend == column.rung


# Without the stdlib's: the thread that pickles ends by it, and the pool waits for ever.
@across("for-processes", without=("on-processes",), skip=NOTHING_PENDING)
def test_pickling_may_fail_with_an_error_that_cannot_be_changed(single: Executor, gate: Gate) -> None:
    """Also in the thread of the pool's that has just heard of another task, which is done all the same."""
    held = single.submit(tasks.hold, gate)
    failing = single.submit(tasks.identity, Unpicklable(tasks.FrozenError("mine")))
    last = single.submit(tasks.add, 2, 3)
    gate.open()
    assert held.result(PATIENCE) == "holder"
    # From 3.14 on pickle itself adds a note to it.
    assert type(failing.exception(PATIENCE)) in (tasks.FrozenError, dataclasses.FrozenInstanceError)
    assert last.result(PATIENCE) == 5


@across(
    "for-processes",
    without=("on-processes", "on-pipes"),
)
def test_ctrl_c_while_arguments_are_pickled_leaves_submit(pool: Executor) -> None:
    """A lower rung pickles in the caller's thread, so it is the caller whom Ctrl-C meets."""
    with pytest.raises(KeyboardInterrupt):
        pool.submit(tasks.identity, Unpicklable(KeyboardInterrupt()))
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across("for-processes")
def test_what_may_only_be_inherited_cannot_be_sent(pool: Executor) -> None:
    """Locks and queues of multiprocessing: they say so, on every rung."""
    error = pool.submit(tasks.identity, tasks.make_lock()).exception(PATIENCE)
    assert isinstance(error, RuntimeError)
    assert "inheritance" in str(error)


@across("for-processes")
@pytest.mark.parametrize("value", [Unloadable(), tasks.HalfMade()], ids=lambda value: type(value).__name__)
def test_what_cannot_be_loaded_by_the_worker_ends_it(column: Column, pool: Executor, value: object, capfd: Any) -> None:
    """The future has the pool's own error. Where there is a worker that it ends, the pool is broken."""
    assert type(pool.submit(tasks.identity, value).exception(PATIENCE)) is column.broken
    if column.rung == "processes":
        with pytest.raises(column.broken):
            pool.submit(tasks.add, 2, 3)
    else:
        assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5
    capfd.readouterr()  # the worker has said on its standard error what it could not load


# ---------------------------------------------------------------------------------------------------- on the way back


@across("for-processes")
@pytest.mark.parametrize("task", [tasks.return_unpicklable, tasks.return_iterator, tasks.make_lock])
def test_a_result_that_cannot_be_pickled_fails_its_task(pool: Executor, task: Callable[[], object]) -> None:
    """With the error of pickling, and what the worker knows about it as the cause."""
    error = pool.submit(task).exception(PATIENCE)
    assert type(error) is pickling_error(task())
    assert str(error) in str(error.__cause__)
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across("for-processes")
def test_an_exception_that_cannot_be_pickled_fails_its_task_with_that(pool: Executor) -> None:
    """Something was wrong, and the future says so one way or another."""
    error = pool.submit(tasks.fail_unpicklably).exception(PATIENCE)
    assert type(error) is pickling_error(ValueError(lambda: None))
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across("for-processes")
@pytest.mark.parametrize("task", [tasks.fail_unloadably, tasks.return_unloadable, tasks.return_half_made])
def test_what_cannot_be_loaded_here_fails_with_the_pool_s_error(
    column: Column, pool: Executor, task: Callable[[], object]
) -> None:
    """The stdlib's pool is broken by it, as the thread that reads results cannot go on; other rungs need not be."""
    assert type(pool.submit(task).exception(PATIENCE)) is column.broken
    if column.rung == "processes":
        with pytest.raises(column.broken):
            pool.submit(tasks.add, 2, 3)
    else:
        assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5

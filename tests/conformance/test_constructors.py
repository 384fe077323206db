"""The contract of constructors: the arguments that are refused, and the defaults, are the running Python's own."""

import inspect
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import pytest

import unirun
from tests.conformance import tasks
from tests.conformance.columns import Column, across
from tests.conformance.conftest import Make
from tests.conformance.tasks import PATIENCE

pytestmark = pytest.mark.usefixtures("state")

BAD_FOR_BOTH: dict[str, dict[str, Any]] = {
    "no workers": {"max_workers": 0},
    "fewer than no workers": {"max_workers": -2},
    "workers in words": {"max_workers": "2"},
    "an initializer that cannot be called": {"initializer": 5},
    "an initializer that is its name": {"initializer": "tasks.set_up"},
    "an unknown keyword": {"no_such_keyword": 1},
}
BAD_FOR_PROCESSES: dict[str, dict[str, Any]] = {
    "no task for a child": {"max_tasks_per_child": 0},
    "fewer than no tasks": {"max_tasks_per_child": -1},
    "tasks in words": {"max_tasks_per_child": "1"},
    "half a task": {"max_tasks_per_child": 1.5},
    "tasks for a forked child": {"max_tasks_per_child": 1, "mp_context": "fork"},
    "a context by its name": {"mp_context": "the name"},
    "no context": {"mp_context": object()},
    "several mistakes": {"max_workers": 0, "initializer": 5, "max_tasks_per_child": 0},
}


def construct(column: Column, arguments: dict[str, Any]) -> Executor:
    if arguments.get("mp_context") == "fork":  # made here: not every platform has it
        arguments = {**arguments, "mp_context": multiprocessing.get_context("fork")}
    arguments = {"max_workers": 2, **arguments}
    return column.open(arguments.pop("max_workers"), **arguments)


def refusal(column: Column, arguments: dict[str, Any]) -> Exception:
    """Return what the constructor raises."""
    try:
        construct(column, arguments).shutdown()
    except Exception as error:
        return error
    raise AssertionError(f"{column.name} accepts {arguments}")


def refused_alike(column: Column, arguments: dict[str, Any]) -> None:
    """Compare with the stdlib: the class always, the words where they are about the argument and not about its code."""
    expected, raised = refusal(column.control, arguments), refusal(column, arguments)
    assert type(raised) is type(expected)
    if isinstance(expected, ValueError) or "must be" in str(expected):
        assert str(raised) == str(expected)


# A context is asked for by most cases; those of the columns would only hide it.
PROCESSES = pytest.mark.parametrize(
    "column",
    [Column(maker="compat", flavor="processes", rung=rung) for rung in ("processes", "threads", "inline")],
    ids=lambda column: column.name,
)
THREADS = pytest.mark.parametrize(
    "column",
    [Column(maker="compat", flavor="threads", rung=rung) for rung in ("threads", "inline")],
    ids=lambda column: column.name,
)


@PROCESSES
@pytest.mark.parametrize("case", [*BAD_FOR_BOTH, *BAD_FOR_PROCESSES])
def test_a_process_pool_refuses_what_the_stdlib_s_refuses(column: Column, case: str) -> None:
    """With the same class of error, and the same words."""
    refused_alike(column, {**BAD_FOR_BOTH, **BAD_FOR_PROCESSES}[case])


@THREADS
@pytest.mark.parametrize("case", BAD_FOR_BOTH)
def test_a_thread_pool_refuses_what_the_stdlib_s_refuses(column: Column, case: str) -> None:
    """Likewise."""
    refused_alike(column, BAD_FOR_BOTH[case])


@pytest.mark.parametrize("name", ["ProcessPoolExecutor", "ThreadPoolExecutor"])
def test_positional_arguments_are_counted(name: str) -> None:
    """``max_tasks_per_child`` is a keyword only."""
    flavor: Any = "processes" if name.startswith("Process") else "threads"
    column = Column(maker="compat", flavor=flavor, rung=flavor)
    with pytest.raises(TypeError, match="positional argument"):
        column.kind(1, None, None, (), 1)  # type: ignore[call-arg]


@PROCESSES
def test_a_process_pool_takes_its_arguments_by_position(column: Column) -> None:
    """In the stdlib's order."""
    before = unirun.configure(ladder=(column.rung,))
    try:
        make: Any = column.kind
        pool: Executor = make(1, multiprocessing.get_context("spawn"), tasks.append_in_set_up, ([7],))
    finally:
        unirun.configure(before)
    assert pool.submit(tasks.read_state).result(PATIENCE) == [7, "set up"]
    pool.shutdown()


@across("compat")
def test_the_default_number_of_workers_is_the_stdlib_s(column: Column, make: Make) -> None:
    """Other libraries read it."""
    pool: Any = make(None)
    own: Any = column.control.open(None)
    assert pool._max_workers == own._max_workers
    own.shutdown()


@across("compat")
def test_the_signature_is_the_stdlib_s(column: Column) -> None:
    """Of the constructor, and but for annotations of each method."""
    own = column.control.kind
    assert inspect.signature(column.kind) == inspect.signature(own)
    for name in (name for name, value in vars(own).items() if inspect.isfunction(value) and name[0] != "_"):
        assert shape(getattr(column.kind, name)) == shape(getattr(own, name)), name


def shape(function: Callable[..., object]) -> list[tuple[str, object, object]]:
    """Return the names, kinds and defaults of the parameters of a function."""
    return [(name, each.kind, each.default) for name, each in inspect.signature(function).parameters.items()]


@across("for-threads", "on-threads", without=("run",))
def test_threads_have_the_names_that_were_asked_for(make: Make) -> None:
    """A prefix, and a number."""
    assert make(thread_name_prefix="crew").submit(thread_name).result(PATIENCE) == "crew_0"
    assert make().submit(thread_name).result(PATIENCE).startswith("ThreadPoolExecutor-")


def thread_name() -> str:
    import threading

    return threading.current_thread().name

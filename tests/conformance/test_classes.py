"""The contract of classes: they are the stdlib's, for ``isinstance`` and for those who derive from them."""

import abc
import concurrent.futures
import concurrent.futures.process
import concurrent.futures.thread
import copy
import pickle
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from tests.conformance import tasks
from tests.conformance.columns import Column, across
from tests.conformance.tasks import PATIENCE
from unirun.compat.concurrent import futures as compat_futures


@across()
def test_every_executor_is_one(column: Column, pool: Executor) -> None:
    """And the flavor asked for shows in its class, whichever rung serves."""
    assert isinstance(pool, Executor)
    assert isinstance(pool, concurrent.futures.ProcessPoolExecutor) == (column.flavor in ("processes", "interpreters"))
    assert isinstance(pool, concurrent.futures.ThreadPoolExecutor) == (column.flavor == "threads")
    assert isinstance(pool.submit(tasks.add, 2, 3), Future)


@across("compat")
def test_a_managed_class_is_a_subclass_of_the_stdlib_s(column: Column) -> None:
    """Of the same name."""
    own = column.control.kind
    assert issubclass(column.kind, own)
    assert column.kind is not own
    assert column.kind.__name__ == own.__name__
    assert not issubclass(own, column.kind)


def test_errors_and_helpers_are_the_stdlib_s_own() -> None:
    """An ``except`` clause written against either catches both."""
    for name in ("BrokenExecutor", "CancelledError", "Executor", "Future", "TimeoutError", "as_completed", "wait"):
        assert getattr(compat_futures, name) is getattr(concurrent.futures, name)
    modules: Any = compat_futures
    assert modules.process.BrokenProcessPool is concurrent.futures.process.BrokenProcessPool
    assert modules.thread.BrokenThreadPool is concurrent.futures.thread.BrokenThreadPool


@across("compat")
def test_a_managed_class_pickles_by_its_name(column: Column) -> None:
    """Classes are arguments, too."""
    assert pickle.loads(pickle.dumps(column.kind)) is column.kind


@across(without=("run",))
@pytest.mark.parametrize("used", ["", "submit", "map"])
def test_it_can_be_constructed_again(used: str, column: Column) -> None:
    """By its constructor, when it was shut down: so programs restart a pool that others hold."""

    def twice(*arguments: Any, **more: Any) -> Executor:
        pool: Any = column.kind
        pool = pool(*arguments, **more)
        if used == "submit":
            pool.submit(tasks.add, 2, 3).result(PATIENCE)
        elif used == "map":
            pool.map(tasks.add, [1] * 50, [2] * 50)
        pool.shutdown()
        pool.__init__(*arguments, **more)
        return pool  # type: ignore[no-any-return]

    make: Any = twice
    with column.open(kind=make) as pool:
        assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5
        assert list(pool.map(tasks.add, [1], [2], timeout=PATIENCE)) == [3]


class Touchy:
    """A global of a program's, which nobody is to pickle or to copy."""

    touched = False

    def __reduce__(self) -> Any:
        Touchy.touched = True
        return Touchy, ()


TOUCHY = Touchy()


@across(without=("run",))
def test_who_pickles_one_fails_at_itself(column: Column, pool: Executor) -> None:
    """As by sending a bound method of an object that holds a pool: with the error of a lock, and nothing else."""
    with pytest.raises((TypeError, pickle.PicklingError), match=r"lock|object"):
        pickle.dumps(pool)
    assert not Touchy.touched


@across("compat")
@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy])
def test_who_copies_one_does_it_no_harm(way: Any, column: Column, pool: Executor) -> None:
    """Where the stdlib's pool loses a pipe."""
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5
    with pytest.raises((TypeError, pickle.PicklingError), match="lock"):
        way(pool)
    assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5


@across("for-threads", without=("run",))
def test_a_derived_class_may_be_pickled(column: Column) -> None:
    """If it leaves out what cannot be, of the stdlib's attributes, and makes it anew."""
    base: Any = column.kind
    with column.open(kind=type("Pool", (base,), {"__getstate__": _state, "__setstate__": _make_anew})) as pool:
        other = copy.deepcopy(pool)
        with other:
            assert other.submit(tasks.add, 2, 3).result(PATIENCE) == 5


def _state(pool: Any) -> dict[str, Any]:
    state = dict(vars(pool))
    for name in set(vars(concurrent.futures.ThreadPoolExecutor(1))) - {"_max_workers"}:
        state.pop(name, None)
    return state


def _make_anew(pool: Any, state: dict[str, Any]) -> None:
    pool.__init__(state["_max_workers"])


# ---------------------------------------------------------------------------------------------------- derived classes


@across(without=("run",))
def test_a_derived_class_may_add_to_submit(column: Column) -> None:
    """What ``map`` submits goes through it."""
    base: Any = column.kind

    class Counting(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.submitted = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            self.submitted += 1
            future: Future[Any] = super().submit(fn, *args, **kwargs)
            return future

    with column.open(kind=Counting) as pool:
        assert list(pool.map(tasks.square, range(4))) == [0, 1, 4, 9]
        assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5
    assert pool.submitted == 5  # type: ignore[attr-defined]


@across(without=("run",))
def test_a_derived_class_may_add_to_the_end(column: Column) -> None:
    """``with`` calls its ``shutdown``."""
    base: Any = column.kind
    closed: list[tuple[bool, bool]] = []

    class Closing(base):  # type: ignore[misc]
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            closed.append((wait, cancel_futures))
            super().shutdown(wait, cancel_futures=cancel_futures)

    with column.open(kind=Closing) as pool:
        future = pool.submit(tasks.add, 2, 3)
    assert future.result(0) == 5
    assert closed[0] == (True, False)


@across(without=("run",))
def test_a_derived_class_may_have_other_bases(column: Column) -> None:
    """A mixin in front, with abstract methods; and a constructor of its own."""
    base: Any = column.kind

    class Named(abc.ABC):
        @property
        @abc.abstractmethod
        def name(self) -> str: ...

    class Abstract(Named, base):  # type: ignore[misc]
        pass

    class Concrete(Abstract):
        def __init__(self, max_workers: int, *, name: str, **arguments: Any) -> None:
            super().__init__(max_workers=max_workers, **arguments)
            self._name = name

        @property
        def name(self) -> str:
            return self._name

    with pytest.raises(TypeError, match="abstract"):
        column.open(kind=Abstract)
    with column.open(kind=Concrete, name="crew") as pool:
        assert pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5
        assert pool.name == "crew"  # type: ignore[attr-defined]
        assert isinstance(pool, Named)


@across(without=("run",))
def test_a_derived_class_may_map_in_its_own_way(column: Column) -> None:
    """And build on the original."""
    base: Any = column.kind

    class Listing(base):  # type: ignore[misc]
        def map(self, fn: Any, *iterables: Any, **options: Any) -> Any:
            return list(super().map(fn, *iterables, **options))

    with column.open(kind=Listing) as pool:
        results: object = pool.map(tasks.square, range(4))
        assert results == [0, 1, 4, 9]

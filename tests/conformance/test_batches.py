"""What short items that travel together still owe each other: nothing. The stdlib's pool is the control."""

import gc
import itertools
import threading
import traceback
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor
from functools import partial
from typing import Any

import pytest

from tests.conformance import items, tasks
from tests.conformance.columns import COUNTED, NOTHING_PENDING
from tests.conformance.columns import across as across_all
from tests.conformance.tasks import PATIENCE, Journal


def across(*traits: str, without: tuple[str, ...] = (), skip: Mapping[str, str] | None = None) -> pytest.MarkDecorator:
    """Leave out start methods: items travel when workers run, however these were started, as the first test shows."""
    return across_all(*traits, without=(*without, "by-spawn", "by-forkserver"), skip=skip)


#: So many that most of them travel in batches, if any do.
MANY = 500


@across_all()
@pytest.mark.parametrize(
    "source", [list, tuple, iter, lambda numbers: numbers], ids=["list", "tuple", "iterator", "range"]
)
def test_many_short_items(pool: Executor, source: Any) -> None:
    """All of them, in order, from whatever they are in; and again, when the pool knows how long they take."""
    many = 20 * MANY if hasattr(pool, "decision") else MANY  # the stdlib's takes seconds for as many
    for _ in range(3):
        assert list(pool.map(tasks.square, source(range(many)))) == [n * n for n in range(many)]


@across()
@pytest.mark.parametrize("item", ["text", b"bytes", "x" * 20_000, 2j], ids=["str", "bytes", "long", "complex"])
def test_items_of_any_plain_type(pool: Executor, item: Any) -> None:
    for _ in range(2):
        assert list(pool.map(tasks.identity, [item] * MANY)) == [item] * MANY


@across()
def test_several_iterables(pool: Executor) -> None:
    """One item of each for a call, the shortest ends it."""
    assert list(pool.map(tasks.add, range(MANY), itertools.count(5))) == [n + n + 5 for n in range(MANY)]


@across()
def test_each_item_is_called_once(pool: Executor, journal: Journal) -> None:
    """Also when nobody asks for results, and the pool is shut down at once."""
    pool.map(partial(items.note, journal), range(MANY))
    pool.shutdown(wait=True)
    assert sorted(map(int, journal.read())) == list(range(MANY))


@across("for-processes")
def test_items_are_copies(pool: Executor) -> None:
    """The same list in the place of each item is another one for each call."""
    item: list[int] = []
    assert list(pool.map(items.append, [item] * MANY)) == [[1]] * MANY
    assert item == []


@across("for-processes")
def test_items_among_numbers_are_copies(pool: Executor) -> None:
    """Of which it would not matter who else has the same one."""
    item: list[int] = []
    values = [0, item, 1.5, item, None, True] * MANY
    for _ in range(2):
        results = list(pool.map(items.appended, values))
        assert results == [0, [1], 1.5, [1], None, True] * MANY
        assert list(map(type, results)) == list(map(type, values))


@across("for-processes")
@pytest.mark.parametrize("bound", [False, True], ids=["callable", "method"])
def test_the_function_is_a_copy(pool: Executor, bound: bool) -> None:
    """Its own state is that of the call."""
    counter = items.Counter()
    function = counter.method if bound else counter
    assert list(pool.map(function, range(MANY))) == [(number, 1) for number in range(MANY)]
    assert counter.calls == 0


@across("for-processes")
def test_a_result_is_what_was_returned_then(pool: Executor) -> None:
    """Not what became of the object in the course of the next item."""
    assert list(pool.map(items.share, range(MANY))) == [[number] for number in range(MANY)]


@across()
@COUNTED
def test_nothing_waits_for_the_garbage_collector(pool: Executor) -> None:
    """When results are let go of, they are gone; also those that were not taken."""
    source = [items.Large(number) for number in range(3)] * 20
    gc.collect()
    gc.disable()
    try:
        for taken in (60, 1):
            results: Any = pool.map(tasks.identity, source)
            seen = [weakref.ref(result) for result in itertools.islice(results, taken)]
            results.close()
            del results
            tasks.until(partial(_gone, seen, source), "the end of the results")
        pool.shutdown()
        tasks.until(lambda: sum(type(each) is items.Large for each in gc.get_objects()) == 3, "the end of the results")
    finally:
        gc.enable()


def _gone(seen: list[weakref.ref[Any]], kept: list[Any]) -> bool:
    return all(each() is None or each() in kept for each in seen)


@across()
@pytest.mark.parametrize("place", [0, 1, MANY // 2, MANY - 1])
def test_an_exception_comes_after_all_earlier_results(pool: Executor, place: int) -> None:
    """Then the iterator has ended."""
    results = pool.map(partial(items.fail_at, place), range(MANY), timeout=PATIENCE)
    assert list(itertools.islice(results, place)) == list(range(place))
    with pytest.raises(ValueError, match=f"item {place}") as raised:
        next(results)
    assert "in fail_at" in "".join(traceback.format_exception(raised.value))
    assert list(results) == []


@across()
def test_others_run_although_one_fails(pool: Executor, journal: Journal) -> None:
    """Before it and after it."""
    pool.map(partial(items.noted_unless, journal, MANY // 2), range(MANY))
    pool.shutdown(wait=True)
    assert sorted(map(int, journal.read())) == [number for number in range(MANY) if number != MANY // 2]


@across()
def test_stop_iteration_among_short_items(pool: Executor) -> None:
    """Is an error as any other."""
    results = pool.map(partial(items.stop_at, MANY // 2), range(MANY))
    assert list(itertools.islice(results, MANY // 2)) == list(range(MANY // 2))
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(results)


@across("for-processes")
def test_what_cannot_be_pickled_fails_at_its_place(pool: Executor) -> None:
    """An item, a result, an exception: only itself."""
    values: list[Any] = [[number] for number in range(MANY)]
    values[MANY // 2] = tasks.Unpicklable(TypeError("cannot be pickled"))
    for results in (
        pool.map(items.kind, values),
        pool.map(partial(items.unpicklable_at, MANY // 2), range(MANY)),
        pool.map(partial(items.stubborn_at, MANY // 2), range(MANY)),
    ):
        assert len(list(itertools.islice(results, MANY // 2))) == MANY // 2
        with pytest.raises(TypeError, match="cannot be pickled"):
            next(results)


# Without the control: in 3.11 its manager thread may die of a future that the iterator cancels meanwhile.
@across("for-processes", without=("stdlib",))
def test_a_result_that_cannot_be_unpickled(pool: Executor) -> None:
    """Is a broken pool's error, as it is of the stdlib's."""
    results = pool.map(partial(items.fragile_at, MANY // 2), range(MANY))
    seen: list[object] = []
    with pytest.raises(BrokenExecutor):
        seen.extend(results)
    assert seen == list(range(len(seen)))
    assert len(seen) <= MANY // 2  # the stdlib's pool ends for all who wait


@across("for-processes", without=("stdlib",))
def test_an_item_that_cannot_be_unpickled(pool: Executor) -> None:
    """So is this, whether it travels alone or with others: what it raises there is not what the function raises."""
    values: list[Any] = [[number] for number in range(MANY)]
    values[MANY // 2] = tasks.Unloadable()
    seen: list[object] = []
    with pytest.raises(BrokenExecutor):
        seen.extend(pool.map(items.kind, values))
    assert len(seen) <= MANY // 2


@across("for-processes")
def test_an_item_whose_class_cannot_be_hashed(pool: Executor) -> None:
    """Cannot be pickled; the others can."""
    values: list[Any] = [[number] for number in range(MANY)]
    values[MANY // 2] = tasks.Unfit()
    results = pool.map(items.kind, values)
    assert len(list(itertools.islice(results, MANY // 2))) == MANY // 2
    with pytest.raises(TypeError, match="unhashable"):
        next(results)


@across("for-processes", without=("stdlib", "on-interpreters", "on-threads", "on-inline"))
def test_a_crash_ends_the_iterator_and_not_the_program(pool: Executor) -> None:
    """Results of batches before it come first; the rest does not hang."""
    seen: list[int] = []
    with pytest.raises(BrokenExecutor):  # also from the call, if the crash comes while that submits
        seen.extend(pool.map(partial(items.die_at, MANY // 2), range(MANY), timeout=PATIENCE))
    assert seen == list(range(len(seen)))
    assert len(seen) <= MANY // 2
    pool.shutdown(wait=True)


@across("for-processes", without=("on-inline",))
def test_an_interrupt_of_an_item_is_raised_at_its_place(pool: Executor) -> None:
    """Where it hits a worker, it is no other item's."""
    results: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        results.extend(pool.map(partial(items.interrupted_at, 40), range(60)))
    assert results == list(range(40))


@across("for-processes", without=("on-interpreters", "on-threads", "on-inline"))
def test_long_items_behind_short_ones_are_shared(pool: Executor) -> None:
    """The batch that meets the first long one leaves the others to whoever is idle."""
    list(pool.map(partial(items.slow_from, 10**9), range(MANY)))
    results = list(pool.map(partial(items.slow_from, MANY), range(MANY + 8)))
    by_worker: dict[int, int] = {}
    for pid, _, _ in results[MANY:]:
        by_worker[pid] = by_worker.get(pid, 0) + 1
    assert len(by_worker) > 1, by_worker


@across(skip=NOTHING_PENDING)
def test_closing_takes_back_what_has_not_begun(pool: Executor, journal: Journal) -> None:
    """Of so many, some."""
    results: Any = pool.map(partial(items.noted_slowly, journal), range(4 * MANY))
    next(results)
    results.close()
    gc.collect()  # a process pool's iterator stands on another, which PyPy closes when it collects it
    pool.shutdown(wait=True)
    assert 1 <= len(journal.read()) < 4 * MANY


@across(skip=NOTHING_PENDING)
def test_dropping_takes_back_what_has_not_begun(pool: Executor, journal: Journal) -> None:
    """As closing does."""
    results: Any = pool.map(partial(items.noted_slowly, journal), range(4 * MANY))
    next(results)
    del results
    gc.collect()
    pool.shutdown(wait=True)
    assert 1 <= len(journal.read()) < 4 * MANY


@across()
def test_cancelled_at_shutdown(pool: Executor, journal: Journal) -> None:
    """What has run is delivered, what has not is cancelled, and nothing hangs."""
    results = pool.map(partial(items.noted_slowly, journal), range(MANY))
    pool.shutdown(wait=True, cancel_futures=True)
    delivered: list[int] = []
    try:
        delivered.extend(results)
    except CancelledError:
        assert len(delivered) < MANY
    else:
        assert len(delivered) == MANY
    assert delivered == list(range(len(delivered)))


@across()
def test_shutdown_without_waiting_ends_later(pool: Executor, journal: Journal) -> None:
    """All items are done all the same, and no new work is taken."""
    results = pool.map(partial(items.note, journal), range(20 * MANY))
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(tasks.square, 2)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.map(tasks.square, [2])
    assert list(results) == list(range(20 * MANY))


@across()
def test_what_is_submitted_later_begins_later(single: Executor, journal: Journal) -> None:
    """With one worker the order can be seen."""
    first = single.map(partial(items.note, journal), range(MANY))
    second = single.map(partial(items.note, journal), range(MANY, 2 * MANY))
    last = single.submit(items.note, journal, 2 * MANY)
    assert last.result(PATIENCE) == 2 * MANY
    assert list(first) + list(second) == list(range(2 * MANY))
    assert list(map(int, journal.read())) == list(range(2 * MANY + 1))


@across()
def test_maps_of_several_threads(pool: Executor) -> None:
    """At once, and each gets its own."""
    wrong: list[object] = []

    def ask(first: int) -> None:
        for _ in range(5):
            results = list(pool.map(tasks.square, range(first, first + MANY)))
            if results != [number * number for number in range(first, first + MANY)]:
                wrong.append(results)
            if pool.submit(tasks.square, first).result(PATIENCE) != first * first:
                wrong.append(first)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 4000, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong


@across()
def test_an_iterable_that_fails_on_the_way(pool: Executor, journal: Journal) -> None:
    """The error is raised at the call, and what was taken before runs."""

    def numbers() -> Iterator[int]:
        yield from range(MANY)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pool.map(partial(items.note, journal), numbers())
    pool.shutdown(wait=True)
    assert sorted(map(int, journal.read())) == list(range(MANY))

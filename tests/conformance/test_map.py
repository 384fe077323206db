"""The contract of ``map``: order, laziness, chunks, time limits, and an exception at its place."""

import copy
import functools
import gc
import inspect
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

import unirun
from tests.conformance import items, tasks
from tests.conformance.columns import NOTHING_PENDING, across
from tests.conformance.tasks import PATIENCE, Gate, Journal

BUFFERED = pytest.mark.skipif(
    "buffersize" not in inspect.signature(Executor.map).parameters, reason="this Python's map has no buffersize"
)


class Source:
    """An iterable that counts what was taken from it."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.length):
            self.taken += 1
            yield number


@across()
def test_results_come_in_the_order_of_the_items(pool: Executor) -> None:
    """Whoever finishes first."""
    assert list(pool.map(tasks.square, range(30), timeout=PATIENCE)) == [number * number for number in range(30)]


@across(skip=NOTHING_PENDING)
def test_an_early_item_that_ends_late_still_comes_first(pool: Executor, gate: Gate, journal: Journal) -> None:
    """The gate opens only when a later item has ended."""
    results = pool.map(tasks.hold_one, [gate] * 4, [journal] * 4, [0] * 4, range(4), timeout=PATIENCE)
    tasks.until(lambda: "3" in journal.read(), "the end of the last item")
    gate.open()
    assert list(results) == [0, 1, 2, 3]
    assert journal.read()[-1] == "0"


@across()
def test_the_shortest_iterable_ends_it(pool: Executor) -> None:
    """As the builtin's: one item from each, until one has no more."""
    assert list(pool.map(tasks.add, [1, 2, 3], iter([10, 20]))) == [11, 22]
    assert list(pool.map(tasks.add, [], [1])) == []
    assert list(pool.map(tasks.add)) == []


@across()
@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_chunks_change_nothing(pool: Executor, chunksize: int, journal: Journal) -> None:
    """Each item is still called once, and comes back by itself."""
    results = pool.map(tasks.noted, [journal] * 10, range(10), chunksize=chunksize, timeout=PATIENCE)
    assert list(results) == list(range(10))
    assert sorted(map(int, journal.read())) == list(range(10))


@across("for-processes")
@pytest.mark.parametrize("chunksize", [0, -1])
def test_a_chunk_has_at_least_one_item(pool: Executor, chunksize: int) -> None:
    """Refused at the call; thread pools ignore the argument."""
    with pytest.raises(ValueError, match=r"^chunksize must be >= 1\.$"):
        pool.map(tasks.square, [1], chunksize=chunksize)


@across()
def test_all_items_are_taken_and_submitted_at_the_call(pool: Executor, journal: Journal) -> None:
    """They run, whether or not anybody asks for a result."""
    source = Source(6)
    results = pool.map(tasks.noted, [journal] * 6, source)
    assert source.taken == 6
    pool.shutdown(wait=True)
    assert sorted(map(int, journal.read())) == list(range(6))
    assert list(results) == list(range(6))


SHORT = {"on-inline": "short items wait for others where none is done beside the caller"}


@across(skip=SHORT)
@pytest.mark.parametrize("lead", [1, 6])
@pytest.mark.parametrize("way", ["Executor.map", "unirun.map"])
def test_an_iterable_that_waits_for_what_its_own_items_do(pool: Executor, tmp_path: Path, way: str, lead: int) -> None:
    """As a crawler takes the next page from what the others have found, or who is only so far ahead of them."""
    mapped: Any = pool.map if way == "Executor.map" else functools.partial(unirun.map, pool)
    results = mapped(tasks.mark, itertools.repeat(str(tmp_path)), following(tmp_path, lead), itertools.repeat(0))
    assert list(results) == list(range(60))


@across()
def test_an_iterable_that_waits_for_what_long_items_do(pool: Executor, tmp_path: Path) -> None:
    results = pool.map(tasks.mark, itertools.repeat(str(tmp_path)), following(tmp_path, 1), itertools.repeat(0.003))
    assert list(results) == list(range(60))


@across(without=("on-inline",))
def test_both_workers_have_an_item_while_an_iterable_waits(pool: Executor, gate: Gate) -> None:
    """For something that needs both of them."""

    def items() -> Iterator[str]:
        yield from ("first", "second")
        gate.await_arrival("first")
        gate.await_arrival("second")
        gate.open()

    assert list(pool.map(tasks.hold, itertools.repeat(gate), items())) == ["first", "second"]


@across("for-processes")
def test_an_iterable_does_not_wait_for_an_item_that_was_refused(pool: Executor, tmp_path: Path) -> None:
    assert pool.submit(tasks.square, 3).result() == 9
    pool.shutdown(wait=True)
    items = following(tmp_path, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.map(tasks.mark, itertools.repeat(str(tmp_path)), items, itertools.repeat(0))


@across()
@pytest.mark.parametrize("chunksize", [1, 7])
def test_items_that_wait_for_earlier_ones(pool: Executor, tmp_path: Path, chunksize: int) -> None:
    """Some take so long that batches leave what they hold to others, and tasks are taken back from workers."""
    naps = [0.004 if number % 7 < 2 else 0 for number in range(150)]
    results = pool.map(tasks.follow_two, [str(tmp_path)] * 150, range(150), naps, chunksize=chunksize)
    assert list(results) == list(range(150))


@across()
def test_tasks_that_wait_for_earlier_ones(pool: Executor, tmp_path: Path) -> None:
    naps = [0.004 if number % 7 < 2 else 0 for number in range(150)]
    futures = [pool.submit(tasks.follow_two, str(tmp_path), number, nap) for number, nap in enumerate(naps)]
    assert [future.result() for future in futures] == list(range(150))


@across()
@pytest.mark.parametrize(("seconds", "chunksize"), [(0, 1), (0, 5), (0.001, 1), (0.003, 1)])
def test_items_that_wait_for_those_of_an_earlier_map(
    pool: Executor, tmp_path: Path, seconds: float, chunksize: int
) -> None:
    """All of that begin first."""
    folder = str(tmp_path)
    first = pool.map(tasks.mark, [folder] * 40, range(40), [seconds] * 40, chunksize=chunksize)
    second = pool.map(tasks.follow, [folder] * 40, reversed(range(40)))
    assert (list(second), list(first)) == (list(reversed(range(40))), list(range(40)))


@across(skip=NOTHING_PENDING)
def test_items_that_wait_for_what_was_taken_of_an_earlier_lazy_map(single: Executor, tmp_path: Path) -> None:
    """With one worker, where the order in which tasks begin can be seen."""
    folder = str(tmp_path)
    first = unirun.map(single, tasks.mark, [folder] * 10, iter(range(10)), [0.003] * 10, buffersize=10)
    assert list(single.map(tasks.follow, [folder], [1])) == [1]
    assert list(first) == list(range(10))


@across()
def test_a_map_beside_one_that_waits_for_it(pool: Executor) -> None:
    """In the iterable, or in an item that another thread does at the call; in the stdlib's pools neither waits."""
    over, begun = threading.Event(), threading.Event()

    def items() -> Iterator[float]:
        while not over.is_set():
            yield 0.002
            begun.set()
            time.sleep(0.0005)  # so that some have not begun, and not many

    other = threading.Thread(target=lambda: list(pool.map(tasks.doze, items())), daemon=True)
    other.start()
    assert begun.wait(PATIENCE)
    assert list(pool.map(tasks.square, range(3), timeout=PATIENCE)) == [0, 1, 4]
    over.set()
    other.join(PATIENCE)
    assert not other.is_alive()


@across(skip=NOTHING_PENDING)
def test_a_map_goes_on_when_an_earlier_one_is_given_up(pool: Executor, gate: Gate) -> None:
    first: Any = pool.map(tasks.hold, [gate] * 500, ["held"] * 500)
    second = pool.map(tasks.square, range(500))
    first.close()
    gate.open()
    assert list(second) == [number * number for number in range(500)]


def following(folder: Path, lead: int) -> Iterator[int]:
    """Iterate over 60 numbers; each comes when the one that many before it has left its mark."""
    for number in range(60):
        if number >= lead:
            tasks.until(Path(folder, str(number - lead)).exists, f"the item {number - lead}")
        yield number


@across()
def test_an_exception_is_raised_at_its_place(pool: Executor) -> None:
    """After the results before it; then the iterator has ended, and the pool has not."""
    results = pool.map(tasks.fail_if, range(5), [2] * 5, timeout=PATIENCE)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="2") as raised:
        next(results)
    assert raised.value.args == (2,)
    assert list(results) == []
    assert list(pool.map(tasks.square, [3])) == [9]


@across("for-processes")
def test_an_exception_takes_its_chunk_along(pool: Executor) -> None:
    """The third of four fails, in chunks of two: the chunk before it is delivered, of its own nothing is."""
    results = pool.map(tasks.fail_if, range(4), [3] * 4, chunksize=2, timeout=PATIENCE)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="3"):
        next(results)


@across()
def test_stop_iteration_of_a_task_does_not_end_the_results(pool: Executor) -> None:
    """Silently losing the rest would be the alternative."""
    results = pool.map(tasks.fail, [StopIteration(), StopIteration()])
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(results)


@across(skip=NOTHING_PENDING)
def test_time_runs_out_for_a_result_that_is_not_there(pool: Executor, gate: Gate) -> None:
    """The tasks go on all the same."""
    results = pool.map(tasks.hold, [gate] * 2, ["first", "second"], timeout=0.01)
    gate.await_arrival("first")
    with pytest.raises(TimeoutError):
        next(results)


@across()
def test_time_is_no_matter_to_a_result_that_is_there(pool: Executor) -> None:
    """The limit has passed, but nobody has to wait."""
    results = pool.map(tasks.square, [1, 2, 3], timeout=0)
    pool.shutdown(wait=True)
    assert list(results) == [1, 4, 9]


@across(skip=NOTHING_PENDING)
def test_closing_the_iterator_cancels_the_rest(single: Executor, gate: Gate, journal: Journal) -> None:
    """What has started goes on; what certainly has not, behind a worker that is held, never does."""
    count = 1000  # more than half of them travel after the first ones were heard of, however short these were
    results = single.map(tasks.hold_one, [gate] * count, [journal] * count, [1] * count, range(count))
    assert next(results) == 0
    gate.await_arrival("1")
    assert isinstance(results, Iterator)
    results.close()  # type: ignore[attr-defined]
    gc.collect()  # a process pool's iterator stands on another, which PyPy closes when it collects it
    gate.open()
    single.shutdown(wait=True)
    noted = list(map(int, journal.read()))
    assert noted[:2] == [0, 1]
    assert count - 1 not in noted


@across(skip=NOTHING_PENDING)
def test_an_exception_cancels_the_rest(single: Executor, gate: Gate, journal: Journal) -> None:
    """Whoever gets it has stopped asking."""
    failing = single.map(tasks.fail_if, range(2), [0] * 2)
    count = 12
    held = single.submit(tasks.hold, gate)
    rest = single.map(tasks.noted, [journal] * count, range(count), timeout=0)
    with pytest.raises(ValueError, match="0"):
        next(failing)
    with pytest.raises(TimeoutError):
        next(rest)
    gate.open()
    single.shutdown(wait=True)
    assert held.result(0) == "holder"
    assert str(count - 1) not in journal.read()


@across("for-processes")
def test_an_item_that_cannot_be_pickled_fails_at_its_place(pool: Executor) -> None:
    """Not at the call, and nobody else."""
    results = pool.map(tasks.identity, [1, tasks.Unpicklable(OSError(11, "mine")), 3], timeout=PATIENCE)
    assert next(results) == 1
    with pytest.raises(BlockingIOError, match="mine"):
        next(results)


@across()
def test_nothing_is_mapped_after_shutdown(pool: Executor) -> None:
    """It says so at the call."""
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.map(tasks.square, [1])


@across()
def test_nothing_to_map_is_no_matter_after_shutdown(pool: Executor) -> None:
    """Nothing is submitted then."""
    pool.shutdown()
    assert list(pool.map(tasks.square, [])) == []
    with pytest.raises(TypeError):
        pool.map(tasks.square, 5)  # type: ignore[arg-type]


@across()
def test_items_may_be_parts_of_what_the_function_belongs_to(pool: Executor) -> None:
    """They are so in the worker, as they are sent in one piece: also when it is known that they are short."""
    graph = items.Graph(100)
    for _ in range(2):
        assert list(pool.map(graph.place, graph.nodes, timeout=PATIENCE)) == [[place] for place in range(100)]
        assert list(pool.map(graph.place, graph.nodes, graph.nodes, timeout=PATIENCE)) == [[n, n] for n in range(100)]


@across("for-processes", skip=NOTHING_PENDING)
def test_arguments_that_are_nearly_right(pool: Executor) -> None:
    """The default number of items in a chunk is a whole number, and no time is left where it is no number."""
    with pytest.raises((TypeError, ValueError)):
        list(pool.map(tasks.square, range(3), chunksize=1.0))  # type: ignore[arg-type]
    with pytest.raises((TimeoutError, ValueError)):
        list(pool.map(tasks.doze, [0.5], timeout=float("nan")))


@across("for-processes")
def test_results_cannot_be_copied(pool: Executor) -> None:
    """Nor half of what they are."""
    results = pool.map(tasks.square, range(3))
    with pytest.raises(TypeError):
        copy.copy(results)
    assert list(results) == [0, 1, 4]


# --------------------------------------------------------------------------------------------------------- buffersize


@across()
@BUFFERED
@pytest.mark.parametrize("buffersize", [1, 3, 50])
def test_a_buffer_changes_no_result(pool: Executor, buffersize: int) -> None:
    """Whether it is smaller or larger than what there is."""
    options: dict[str, Any] = {"buffersize": buffersize}
    assert list(pool.map(tasks.square, range(20), **options)) == [number * number for number in range(20)]


@across()
@BUFFERED
def test_a_buffer_bounds_what_is_taken_ahead(pool: Executor) -> None:
    """Items are taken as results are asked for."""
    source = Source(20)
    options: dict[str, Any] = {"buffersize": 4}
    results = pool.map(tasks.square, source, **options)
    assert source.taken == 4
    assert next(results) == 0
    assert source.taken == 5
    assert list(results) == [number * number for number in range(1, 20)]


@across()
@BUFFERED
@pytest.mark.parametrize(
    ("buffersize", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError), (1.5, TypeError)]
)
def test_a_buffer_has_a_whole_size(pool: Executor, buffersize: Any, error: type[Exception]) -> None:
    """Refused at the call, before anything is taken."""
    source = Source(3)
    options: dict[str, Any] = {"buffersize": buffersize}
    with pytest.raises(error, match=r"^buffersize must be"):
        pool.map(tasks.square, source, **options)
    assert source.taken == 0


MEETING = '''
import os, sys, time

FOLDER, KIND = sys.argv[1:]

def meet():
    """Tell whether all three workers import this at the same time."""
    open(os.path.join(FOLDER, str(os.getpid())), "w").close()
    end = time.monotonic() + 30
    while (there := len(os.listdir(FOLDER))) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    return there == 3

MET = __name__ == "__main__" or meet()

def met(_):
    return MET

if __name__ == "__main__":
    import multiprocessing
    if KIND == "stdlib":
        from concurrent.futures import ProcessPoolExecutor
    else:
        from unirun.compat.concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        print(*pool.map(met, range(3)), len(pool._processes))
'''


@pytest.mark.parametrize("kind", ["stdlib", "compat"])
def test_workers_for_all_items_start_at_once(tmp_path: Path, kind: str) -> None:
    """And no more of them, though the call waits for the first one. What the main module imports may take long."""
    program, folder = tmp_path / "program.py", tmp_path / "here"
    program.write_text(MEETING)
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(Path(unirun.__file__).parents[1])}
    command = [sys.executable, str(program), str(folder), kind]
    outcome = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert outcome.stdout == "True True True 3\n", outcome.stderr

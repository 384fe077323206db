"""`unirun.map` and the end of maps: windows, endless iterables, shutdown, the exit of the program."""

import gc
import itertools
import math
import multiprocessing
import os
import queue
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, assert_type

import pytest

import unirun
from tests.conformance.columns import FORKING
from tests.conformance.quiet import exit_status
from tests.conformance.tasks import Gate, until
from tests.pipes.jobs import Large
from tests.unit.moments import asked
from unirun import Run, RuntimeConfig, clock, configure, leases
from unirun.backends import batch
from unirun.backends.pipes.arena import Arena
from unirun.backends.turns import Heard
from unirun.compat.concurrent import futures as compat
from unirun.maps.batches import Batches
from unirun.maps.executor import BatchingExecutor
from unirun.maps.parcels import Batch
from unirun.maps.sending import Sending
from unirun.maps.source import Source as Taken

pytestmark = FORKING
POOL = ThreadPoolExecutor(1)
PATIENCE = 30.0


def square(number: int) -> int:
    return number * number


def mark(path: str) -> None:
    Path(path).touch()


def exit_at(gate: Gate) -> None:
    gate.pass_through("one of them")
    os._exit(1)


def nap(number: int) -> int:
    time.sleep(0.002)
    return number


def stall(number: int) -> int:
    """Take so long, a few times, that what is in the same batch is left to others."""
    time.sleep(0.03 if number in (60, 150, 240) else 0)
    return number


def nap_long(number: int) -> int:
    time.sleep(0.05)
    return number


def large_at_last(number: int) -> bytes:
    return bytes(1 << 18 if number >= 100 else 0)


def first(buffer: Large) -> int:
    return int(buffer.data[0])


def first_of(buffer: Large, _: int) -> int:
    return int(buffer.data[0])


def stop_at(gate: Gate, number: int) -> int:
    """Be quick with the first item; stop at the gate with each other one."""
    if number:
        gate.pass_through(str(number))
    return number


class Source:
    """An endless iterable that counts what was taken from it."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            self.taken += 1
            yield number


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    configure()
    unirun.reset()


def test_types_are_those_of_the_function() -> None:
    """Which mypy checks."""
    assert list(assert_type(unirun.map(square, [2]), Iterator[int])) == [4]
    assert list(assert_type(unirun.map(POOL, square, [2], timeout=PATIENCE), Iterator[int])) == [4]
    assert assert_type(unirun.submit(square, 2), Future[int]).result(PATIENCE) == 4
    assert assert_type(unirun.submit(POOL, square, number=2), Future[int]).result(PATIENCE) == 4


def test_an_endless_iterable() -> None:
    """Is read as results are taken; closing the iterator ends it."""
    source = Source()
    with Run(flavor="processes", max_workers=2) as executor:
        results: Any = unirun.map(executor, square, source)
        assert list(itertools.islice(results, 30_000)) == [n * n for n in range(30_000)]
        taken = source.taken
        results.close()
        assert taken < 300_000
    assert source.taken == taken


def test_long_items_are_not_taken_far_ahead() -> None:
    """A few for each worker: they may be large."""
    source = Source()
    with Run(flavor="processes", max_workers=2) as executor:
        results: Any = unirun.map(executor, nap, source)
        for number in range(20):
            assert next(results) == number
            assert source.taken <= number + 1 + 2 * 8
        results.close()


@pytest.mark.parametrize("buffersize", [1, 3, 100])
@pytest.mark.parametrize("flavor", ["processes", "threads", "none"])
def test_the_buffer_is_bounded(flavor: Any, buffersize: int) -> None:
    """By what was asked for."""
    source = Source()
    with Run(flavor=flavor, max_workers=2) as executor:
        results: Any = unirun.map(executor, square, source, buffersize=buffersize)
        for number in range(300):
            assert next(results) == number * number
            assert source.taken <= number + 1 + buffersize
        results.close()


def test_any_executor() -> None:
    """Also one that knows nothing of us, endlessly; with chunks where it has some."""
    for own in (ThreadPoolExecutor(2), ProcessPoolExecutor(2)):
        with own:
            results: Any = unirun.map(own, square, Source())
            assert list(itertools.islice(results, 100)) == [n * n for n in range(100)]
            results.close()
            assert list(unirun.map(own, square, range(100), chunksize=7)) == [n * n for n in range(100)]


def test_the_cached_pool_sends_batches() -> None:
    """It is not closed by that."""
    configure(force_process=True, max_workers=2)
    for _ in range(2):
        assert list(unirun.map(square, iter(range(3000)))) == [n * n for n in range(3000)]
        assert list(unirun.map(pow, range(3000), itertools.repeat(2), chunksize=100)) == [n * n for n in range(3000)]
    assert leases.cached() == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be >= 1"),
        ({"chunksize": "4"}, TypeError, "chunksize must be a whole number of items, not '4'"),
        ({"chunksize": 1.5}, TypeError, "chunksize must be a whole number of items, not 1.5"),
        ({"timeout": "4"}, TypeError, "timeout must be a number of seconds or None, not '4'"),
        ({"timeout": math.nan}, ValueError, "timeout must be a number of seconds or None, not nan"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": -1}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": 1.5}, TypeError, "buffersize must be an integer or None"),
        ({"buffersize": "2"}, TypeError, "buffersize must be an integer or None"),
    ],
)
def test_bad_sizes(options: Any, error: type[Exception], message: str) -> None:
    """Are refused at the call, before anything is taken."""
    source = Source()
    with Run(flavor="none") as executor, pytest.raises(error, match=message):
        unirun.map(executor, square, source, **options)
    assert source.taken == 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("map", [POOL], "takes a function after the executor; there is none"),
        ("map", [POOL, None, [1]], "takes a function after the executor, not None"),
        ("map", [POOL, [1]], r"takes a function after the executor, not \[1\]"),
        ("map", [POOL, abs], "there is no iterable"),
        ("map", [abs], "there is no iterable"),
        ("map", [5, [1]], "takes a function first, or an executor, not 5"),
        ("map", [abs, POOL, [1]], "takes the executor first, before the function"),
        ("map", [ThreadPoolExecutor, abs, [1]], r"not its class; make one: ThreadPoolExecutor\(\)"),
        ("submit", [POOL], "takes a function after the executor; there is none"),
        ("submit", [POOL, 5], "takes a function after the executor, not 5"),
        ("submit", [5], "takes a function first, or an executor, not 5"),
        ("submit", [ThreadPoolExecutor, abs, 1], r"not its class; make one: ThreadPoolExecutor\(\)"),
        ("to_process", [5], "takes a function first, not 5"),
        ("to_thread", [5], "takes a function first, not 5"),
    ],
)
def test_what_is_missing_or_in_the_wrong_place_is_named(name: str, arguments: list[Any], message: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\(\) .*{message}"):
        getattr(unirun, name)(*arguments)


def test_what_can_be_called_is_a_function_whatever_else_it_can_do() -> None:
    class Job:
        submit = shutdown = None

        def __call__(self, number: int) -> int:
            return -number

    with ThreadPoolExecutor(1) as pool:
        assert unirun.submit(pool, Job(), 3).result(60) == -3
        seconds: Any = Fraction(600, 7)  # `float` to a type checker
        assert list(unirun.map(pool, Job(), [1, 2], timeout=seconds)) == [-1, -2]


def test_results_of_a_list_are_there_after_the_scope() -> None:
    """What has a length is read to its end when the executor is shut down."""
    with Run(flavor="processes", max_workers=2) as executor:
        results = unirun.map(executor, nap, list(range(100)))
        first = next(results)
    assert [first, *results] == list(range(100))


def test_an_endless_iterable_ends_with_the_scope() -> None:
    """What was taken is delivered; then the reason is raised."""
    with Run(flavor="processes", max_workers=2) as executor:
        results = unirun.map(executor, nap, Source())
    numbers = []
    with pytest.raises(RuntimeError, match="before map"):  # noqa: PT012
        for number in results:
            numbers.append(number)  # noqa: PERF402
    assert numbers == list(range(len(numbers)))


def test_an_iterable_that_fails_while_results_are_taken() -> None:
    """Its error comes in its place, after all results before it."""

    def numbers(count: int) -> Iterator[int]:
        yield from range(count)
        raise ZeroDivisionError

    with Run(flavor="processes", max_workers=2) as executor:
        for count in (0, 1, 1000):
            results = unirun.map(executor, square, numbers(count))
            assert list(itertools.islice(results, count)) == [n * n for n in range(count)]
            with pytest.raises(ZeroDivisionError):
                next(results)


def test_the_stdlibs_pool_is_not_woken_by_its_own_thread() -> None:
    """Which alone reads the pipe that it is woken by, and would wait for ever if that were full; see gh-105829."""
    with compat.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        assert pool.submit(square, 2).result() == 4
        inner: Any = pool
        waker, manager = inner._executor_manager_thread_wakeup, inner._executor_manager_thread
        seen: list[threading.Thread] = []
        wake = waker.wakeup

        def noted() -> None:
            seen.append(threading.current_thread())
            wake()

        waker.wakeup = noted
        assert list(pool.map(square, range(20_000))) == [n * n for n in range(20_000)]
        assert seen
        assert manager not in seen
        assert inner._executor_manager_thread_wakeup is waker


@pytest.mark.parametrize("ladder", ["processes", "pipes"])
def test_whoever_holds_the_results_does_not_hold_the_executor(ladder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers end when nobody holds it any more."""
    monkeypatch.setenv("UNIRUN_LADDER", ladder)
    pool: Any = compat.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
    results = pool.map(square, range(1000))
    gone, manager = weakref.ref(pool), pool._executor_manager_thread if ladder == "processes" else None
    del pool
    gc.collect()
    if manager is not None and sys.implementation.name == "cpython":  # this thread cannot help meanwhile
        manager.join(30)
        assert not manager.is_alive()
    end = time.monotonic() + 30
    while gone() is not None:
        assert time.monotonic() < end
        gc.collect()
        time.sleep(0.01)
    assert list(results) == [n * n for n in range(1000)]


def test_counted_and_timed_tasks_go_alone() -> None:
    """``task_timeout`` is that of one item."""
    # Seconds, for a loaded machine; and forked, as what a new interpreter has to import counts as its first task's.
    method = "fork" if hasattr(os, "fork") else None
    config = RuntimeConfig(task_timeout=2, ladder=("pipes",), start_method=method)  # type: ignore[arg-type]
    with Run(flavor="processes", max_workers=1, config=config) as executor:
        assert list(executor.map(nap_long, range(50))) == list(range(50))


def test_an_own_submit_sees_each_item() -> None:
    """A program's class that counts, or hands on a context, goes on doing so."""
    from unirun.compat.concurrent import futures

    class Counting(futures.ProcessPoolExecutor):
        count = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return super().submit(fn, *args, **kwargs)

    with Counting(2) as pool:
        assert list(pool.map(square, range(300))) == [n * n for n in range(300)]
        assert pool.count == 300


@pytest.mark.parametrize("maker", ["Run(flavor='processes', max_workers=2).__enter__()", "ProcessPoolExecutor(2)"])
@pytest.mark.parametrize("ending", ["", "pool.shutdown(wait=False)", "del pool"])
def test_a_forgotten_map_is_done_at_the_exit(maker: str, ending: str, tmp_path: Path) -> None:
    """As one is of which all was submitted at the call."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from unirun import Run\n"
        "from unirun.compat.concurrent.futures import ProcessPoolExecutor\n"
        "def note(number):\n"
        f"    with open({str(tmp_path / 'notes')!r}, 'a') as file:\n"
        "        file.write(f'{number}\\n')\n"
        "if __name__ == '__main__':\n"
        f"    pool = {maker}\n"
        "    pool.map(note, range(2000))\n"
        f"    {ending}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(map(int, (tmp_path / "notes").read_text().split())) == list(range(2000))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_its_parents_maps() -> None:
    """Only the parent hears of the results."""
    with Run(flavor="processes", max_workers=2) as executor:
        results = executor.map(nap, range(200))
        child = os.fork()
        if not child:
            import threading

            threading._shutdown()  # type: ignore[attr-defined]  # what the exit of a process of multiprocessing's does
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert list(results) == list(range(200))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    ("maker", "ending"),
    # A pool of the stdlib's own hangs at a submit there without us.
    [(Run, "submits"), *itertools.product((Run, compat.ProcessPoolExecutor), ("leaves", "closes", "drops"))],
)
def test_a_forked_child_leaves_a_map_to_its_parent(maker: Any, ending: str, tmp_path: Path) -> None:
    """Nothing goes on with it there, and another thread may have held its lock."""
    scope = maker(flavor="processes", max_workers=2) if maker is Run else maker(2)
    executor = scope.__enter__()
    gate = Gate(str(tmp_path))
    results: Any = executor.map(stop_at, itertools.repeat(gate, 20), range(20))
    assert next(results) == 0
    gate.await_arrival("1")
    until(lambda: len(list(tmp_path.glob("*.here"))) == 2, "the arrival of a second item")
    time.sleep(0.1)  # then the stdlib's own threads wait, and hold no lock of their pool's; nothing shows that
    (sending,) = executor._unirun_maps  # type: ignore[union-attr]
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with sending._changed:
            taken.set()
            release.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(PATIENCE)
    child = os.fork()
    if not child:
        try:
            if ending == "leaves":
                scope.__exit__(None, None, None)
            elif ending == "submits":
                with pytest.raises(RuntimeError, match="forked child"):
                    executor.submit(nap, 1)
            elif ending == "closes":
                results.close()
            else:
                del results
                gc.collect()
        except BaseException:
            os._exit(1)
        os._exit(0)
    release.set()
    holder.join()
    assert exit_status(child) == 0
    gate.open()
    assert list(results) == list(range(1, 20))
    scope.__exit__(None, None, None)


class Witness:
    """An item that notes, when it dies, whether its thread holds the lock of the map."""

    held: ClassVar[list[bool]] = []
    sending: Any = None

    def __reduce__(self) -> Any:
        return int, ()

    def __del__(self) -> None:
        lock = self.sending and self.sending._changed
        self.held.append(bool(lock and lock._is_owned()))


@pytest.mark.skipif(
    "free-threading" in sys.version,
    reason="without a GIL what another thread lets go of dies in the thread that made it, in the middle of anything",
)
@pytest.mark.parametrize("ending", ["read", "closed", "cancelled"])
def test_items_do_not_die_with_the_lock_of_the_map_held(ending: str) -> None:
    """What they do then may wait for a thread that waits for it."""
    Witness.held.clear()
    with Run(flavor="processes", max_workers=1) as executor:
        results: Any = executor.map(nap, (Witness() for _ in range(300)))
        (Witness.sending,) = executor._unirun_maps  # type: ignore[union-attr]
        if ending == "read":
            assert list(results) == [0] * 300
        elif ending == "closed":
            next(results)
            results.close()
        else:
            executor.shutdown(wait=True, cancel_futures=True)
    Witness.sending, sending = None, Witness.sending
    del results
    gc.collect()
    assert sending is not None
    assert len(Witness.held) == 300
    assert not any(Witness.held)


def test_a_map_that_is_not_read_to_its_end_says_nothing_at_the_exit(tmp_path: Path) -> None:
    """Without a GIL generators are finalized after the variables of their modules are gone."""
    program = tmp_path / "program.py"
    program.write_text(
        "import itertools, unirun\n"
        "if __name__ == '__main__':\n"
        "    threads = unirun.map(abs, itertools.count())\n"
        "    print(next(threads))\n"
        "    pool = unirun.Run(flavor='processes', max_workers=1).__enter__()\n"
        "    processes = pool.map(abs, range(100_000))\n"
        "    print(next(processes))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0\n0\n", "")


@pytest.mark.parametrize("step", ["after submit", "before"])
@pytest.mark.parametrize("ladder", [("pipes",), ("processes",)])
def test_ctrl_c_while_batches_are_sent(step: str, ladder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the block waits for what was sent, and for nothing else."""

    def interrupt(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    def interrupted() -> Any:
        with Run(flavor="processes", max_workers=1, config=RuntimeConfig(ladder=ladder)) as executor:
            assert executor.submit(square, 3).result(PATIENCE) == 9
            where: Any = Batches if step == "before" else type(executor.submit(square, 3))
            monkeypatch.setattr(where, "_send" if step == "before" else "add_done_callback", interrupt)
            left.append(executor)
            executor.map(square, range(300))

    left: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not left[0]._unirun_maps


def test_results_that_nobody_asked_for() -> None:
    """Those of an iterable without an end go when the executor is used again, although their iterator has not begun."""
    with Run(flavor="processes", max_workers=1) as executor:
        for _ in range(3):
            unirun.map(executor, square, itertools.count())
            gc.collect()
        assert executor.submit(square, 3).result(PATIENCE) == 9
        end = time.monotonic() + PATIENCE
        while executor._unirun_maps:  # type: ignore[union-attr]
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_forgotten_map_of_a_list_does_its_work(tmp_path: Path) -> None:
    """At the end of the block, as it would have if all had been submitted at the call."""
    with Run(flavor="processes", max_workers=1) as executor:
        unirun.map(executor, mark, [str(tmp_path / str(number)) for number in range(50)], buffersize=4)
        gc.collect()
        assert executor.submit(square, 3).result(PATIENCE) == 9
    assert len(os.listdir(tmp_path)) == 50


@pytest.mark.parametrize("how", ["submit", "map"])
def test_a_forgotten_map_stays_only_until_the_executor_is_used_again(how: str, tmp_path: Path) -> None:
    """A service may forget one in each of its requests, with results that are large."""
    with Run(flavor="processes", max_workers=1) as executor:
        for round_ in range(3):
            names = [str(tmp_path / f"{round_}-{number}") for number in range(50)]
            unirun.map(executor, mark, names, buffersize=4)
            gc.collect()
        (list(unirun.map(executor, square, [3])) if how == "map" else executor.submit(square, 3).result(PATIENCE))
        until(lambda: len(os.listdir(tmp_path)) == 150, "the last item")
        until(lambda: not executor._unirun_maps, "the end of the maps")  # type: ignore[union-attr]


def test_what_is_submitted_does_not_wait_for_a_forgotten_map() -> None:
    """Of which there may be much to do: half an hour here."""
    with Run(flavor="processes", max_workers=1) as executor:
        unirun.map(executor, nap, range(10**6))
        gc.collect()
        assert executor.submit(square, 3).result(PATIENCE) == 9
        executor.shutdown(wait=False, cancel_futures=True)


def test_a_forgotten_map_whose_items_come_later_is_not_waited_for() -> None:
    """They may come from who submits."""
    coming: queue.Queue[int] = queue.Queue()

    class Coming(list[int]):
        def __iter__(self) -> Iterator[int]:
            yield from (coming.get() for _ in range(len(self)))

    with Run(flavor="processes", max_workers=1) as executor:
        coming.put(1)
        unirun.map(executor, square, Coming([0, 0, 0]), buffersize=1)
        gc.collect()
        assert executor.submit(square, 3).result(PATIENCE) == 9
        coming.put(2)
        coming.put(3)


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy lets go of nothing but by its collector")
def test_results_that_nobody_can_ask_for_are_let_go_of() -> None:
    """When they come, and not by the collector."""
    gc.collect()
    gc.disable()
    try:
        with Run(flavor="processes", max_workers=1) as executor:
            executor.map(nap, range(300))  # which is still to be done when nobody holds its results
            until(lambda: not executor._unirun_maps, "the end of the map")  # type: ignore[union-attr]
            assert not [each for each in gc.get_objects() if type(each) in (batch.Done, batch.Timed)]
    finally:
        gc.enable()


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy lets go of nothing but by its collector")
def test_what_workers_have_not_begun_waits_for_no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that came back whole, behind others that were cut short."""
    back: list[int] = []
    hear = Heard.hear

    def heard(self: Heard, left: Any) -> None:
        back.append(left[0])
        hear(self, left)

    monkeypatch.setattr(Heard, "hear", heard)
    gc.collect()
    gc.disable()
    try:
        with Run(flavor="processes", max_workers=2) as executor:
            while len(back) < 20:
                assert list(executor.map(stall, range(300))) == list(range(300))
            until(lambda: not executor._unirun_maps, "the end of the map")  # type: ignore[union-attr]
            while [each for each in gc.get_objects() if type(each) is Batch]:
                # Without a GIL the pool's thread lets go of what it has made, when it has something to do.
                assert executor.submit(square, 3).result(PATIENCE) == 9
    finally:
        gc.enable()


@pytest.mark.parametrize("taken", [0, 1])
def test_a_map_of_a_list_is_read_on_although_nobody_waits(taken: int, tmp_path: Path) -> None:
    """And then the pool ends, whoever holds it or the results."""
    executor = Run(flavor="processes", max_workers=1).__enter__()
    results = unirun.map(executor, mark, [str(tmp_path / str(number)) for number in range(50)], buffersize=4)
    assert list(itertools.islice(results, taken)) == [None] * taken
    executor.shutdown(wait=False)
    until(lambda: len(os.listdir(tmp_path)) == 50, "the last item")
    until(lambda: not executor._processes, "the end of the pool")  # type: ignore[union-attr]
    assert list(results) == [None] * (50 - taken)


class Slow(list[int]):
    """A list whose items take a moment to be read."""

    def __init__(self, items: list[int], failing: bool = False) -> None:
        super().__init__(items)
        self.failing = failing

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            time.sleep(0.02)
            yield item
        if self.failing:
            raise LookupError("no more")


def test_an_iterable_that_fails_when_it_is_read_on() -> None:
    """By whoever shuts the pool down: the error comes in its place."""
    with Run(flavor="processes", max_workers=1) as executor:
        results = unirun.map(executor, square, Slow([1, 2, 3], failing=True), buffersize=1)
    assert list(itertools.islice(results, 3)) == [1, 4, 9]
    with pytest.raises(LookupError):
        next(results)


@pytest.mark.parametrize("step", ["_add", "_take_all"])
@pytest.mark.parametrize("source", [list, Slow])
def test_shut_down_by_another_thread_while_items_are_taken(
    step: str, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each runs once, and has its result, also if one of the two threads has to wait just before it goes on."""
    taking = getattr(Batches, step)

    def late(batches: Batches, *arguments: Any) -> None:
        if batches._next == 0:
            time.sleep(0.2)
        taking(batches, *arguments)

    with Run(flavor="processes", max_workers=1, config=RuntimeConfig(ladder=("threads",))) as executor:
        executor.submit(square, 1).result(PATIENCE)
        ender = threading.Timer(0.1, executor.shutdown)
        monkeypatch.setattr(Batches, step, late)
        ender.start()
        items = [0, 1, 2, 3, 4, 5]
        assert list(unirun.map(executor, nap_long, source(items))) == items
        ender.join(PATIENCE)


def test_shut_down_by_another_thread_before_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has found no maps, and marks the pool only then: nothing of a map runs, or all."""
    own, looked, go_on = BatchingExecutor._unirun_own_maps, threading.Event(), threading.Event()

    def late(executor: Any) -> Any:
        maps = own(executor)
        if threading.current_thread() is ender:
            looked.set()
            assert go_on.wait(PATIENCE)
        return maps

    class Opening(list[int]):
        def __iter__(self) -> Iterator[int]:
            ender.start()
            assert looked.wait(PATIENCE)
            return super().__iter__()

    with Run(flavor="processes", max_workers=2, config=RuntimeConfig(ladder=("threads",))) as executor:
        executor.submit(square, 1).result(PATIENCE)
        ender = threading.Thread(target=executor.shutdown)
        monkeypatch.setattr(BatchingExecutor, "_unirun_own_maps", late)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.map(square, Opening(range(50)))
        go_on.set()
        ender.join(PATIENCE)
        assert not executor._unirun_maps  # type: ignore[union-attr]


def test_shut_down_by_another_thread_while_an_iterable_fails() -> None:
    """It does not read on: the call has raised what was wrong."""
    waits = threading.Event()

    class Failing:
        def __init__(self) -> None:
            self.taken: list[int] = []

        def __len__(self) -> int:
            return 6

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            self.taken.append(len(self.taken))
            if len(self.taken) == 3:
                ender.start()
                until(waits.is_set, "the other thread")
                time.sleep(0.2)
                raise LookupError("the third one")
            if len(self.taken) > 6:
                raise StopIteration
            return self.taken[-1]

    with Run(flavor="processes", max_workers=2, config=RuntimeConfig(ladder=("threads",))) as executor:
        executor.submit(square, 1).result(PATIENCE)

        def end_it() -> None:
            waits.set()
            executor.shutdown()
            ended.append(True)

        ended: list[bool] = []
        ender, items = threading.Thread(target=end_it), Failing()
        with pytest.raises(LookupError):
            executor.map(square, items)
        ender.join(PATIENCE)
        assert ended
        assert items.taken == [0, 1, 2]


def test_cancelled_by_another_thread_once_all_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call returns an iterator as ever, which raises it."""
    take_all = Batches._take_all

    def cancel(batches: Batches) -> None:
        take_all(batches)
        monkeypatch.undo()
        executor.shutdown(cancel_futures=True)

    with Run(flavor="processes", max_workers=2, config=RuntimeConfig(ladder=("threads",))) as executor:
        executor.submit(square, 1).result(PATIENCE)
        monkeypatch.setattr(Batches, "_take_all", cancel)
        results = executor.map(nap, range(10_000))
        with pytest.raises(CancelledError):
            list(results)


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy lets go of nothing but by its collector")
@pytest.mark.parametrize("steps", range(12))
def test_the_last_result_comes_while_the_others_are_dropped(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two steps of telling the pool."""
    passed: list[Any] = []

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_name != "soon" or frame.f_globals["__name__"] != BatchingExecutor.__module__:
            return None
        frame.f_trace_opcodes = True
        passed.append(event)
        if len(passed) == steps + 1:
            until(lambda: not executor._unirun_maps, "the end of the map")  # type: ignore[union-attr]
        return trace

    failed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", failed.append)
    with Run(flavor="processes", max_workers=1, config=RuntimeConfig(ladder=("threads",))) as executor:
        executor.submit(square, 1).result(PATIENCE)
        results = unirun.map(executor, nap_long, range(2))
        assert next(results) == 0
        traced = sys.gettrace()
        sys.settrace(trace)
        try:
            del results
        finally:
            sys.settrace(traced)
    assert passed
    assert failed == []


def test_shut_down_by_another_thread_after_the_last_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone finds that there are no more, when the results of all were taken."""
    take, found = Taken.take, threading.Event()

    def late(source: Taken, *arguments: Any) -> bool:
        if threading.current_thread() is ender:
            found.set()
            time.sleep(0.3)
        return take(source, *arguments)

    with Run(flavor="processes", max_workers=1, config=RuntimeConfig(ladder=("threads",))) as executor:
        ender = threading.Thread(target=executor.shutdown)
        monkeypatch.setattr(Taken, "take", late)
        results = unirun.map(executor, square, [3], buffersize=1)
        assert next(results) == 9
        ender.start()
        assert found.wait(PATIENCE)
        assert list(results) == []
        ender.join(PATIENCE)


def test_shut_down_by_another_thread_between_a_batch_and_its_callback() -> None:
    """It finds that the batch is done, whose result is taken before the sender of it goes on."""
    late: list[Any] = []

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code is not Sending._send.__code__ or late:
            return None
        if event == "line" and (batch := frame.f_locals["batch"]).futures:
            late.append(batch)
            batch.futures[0].result(PATIENCE)
            threading.Thread(target=executor.shutdown).start()
            end = time.monotonic() + PATIENCE
            while batch.futures and time.monotonic() < end:
                time.sleep(0.001)
        return trace

    threading.settrace(trace)
    try:
        with Run(flavor="processes", max_workers=2, config=RuntimeConfig(ladder=("threads",))) as executor:
            assert list(unirun.map(executor, nap, range(60))) == list(range(60))
    finally:
        threading.settrace(None)
    assert late
    assert not late[0].futures, "nobody took its result"


def test_shut_down_by_another_thread_at_the_call() -> None:
    """At any moment of it."""
    dice, before, done = random.Random(5), sys.getswitchinterval(), 0
    sys.setswitchinterval(1e-6)
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            with Run(flavor="processes", max_workers=2, config=RuntimeConfig(ladder=("threads",))) as executor:
                executor.submit(square, 1).result(PATIENCE)
                both, delay = threading.Barrier(2), dice.uniform(0, 0.0006)

                def end_it(executor: Any = executor, both: threading.Barrier = both, delay: float = delay) -> None:
                    both.wait(PATIENCE)
                    until = time.perf_counter() + delay
                    while time.perf_counter() < until:
                        pass
                    executor.shutdown()

                ender = threading.Thread(target=end_it)
                ender.start()
                both.wait(PATIENCE)
                try:
                    results = list(unirun.map(executor, square, range(30)))
                except RuntimeError:
                    pass
                else:
                    assert results == [n * n for n in range(30)]
                    done += 1
                ender.join(PATIENCE)
    finally:
        sys.setswitchinterval(before)
    assert done, "the pool was always shut down before the call"


class Own(compat.ProcessPoolExecutor):
    """Is to see each item."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)


def die_at_three(number: int) -> int:
    if number == 3:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wrong() -> None:
    time.sleep(0.2)
    raise LookupError("no")


@pytest.mark.parametrize("kind", ["stdlib", "own", "borrowed", "threads"])
def test_a_pool_that_breaks_with_items_unsent(kind: str) -> None:
    """From 3.12 on the stdlib's fails its futures with the lock held that `submit` needs; pools of threads always."""
    context = multiprocessing.get_context("fork")
    pool: Any
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that the tests have threads
        if kind == "threads":
            pool, fn = ThreadPoolExecutor(1, initializer=wrong), square
        else:
            pool, fn = (Own if kind == "own" else ProcessPoolExecutor)(2, context), die_at_three
        pool = Run(executor=pool).__enter__() if kind == "borrowed" else pool
        results = unirun.map(pool, fn, range(200))
        other = None if kind == "threads" else pool.submit(time.sleep, 60)
        with pytest.raises(BrokenExecutor):
            list(results)
    if other is not None:
        with pytest.raises(BrokenExecutor):
            other.result(PATIENCE)
    ender = threading.Thread(target=pool.shutdown, daemon=True)
    ender.start()
    ender.join(PATIENCE)
    assert not ender.is_alive()


@pytest.mark.parametrize("kind", [bytes, str, bytearray])
def test_large_results_are_not_gathered(kind: Any) -> None:
    """In memory that grows with their number, although the items take next to no time."""
    size, count = 1 << 18, 400
    program = textwrap.dedent(f"""
        import resource, time, unirun
        def large(number):
            return DATA * {size}
        DATA = {kind(b"x", "ascii") if kind is str else kind(b"x")!r}
        if __name__ == "__main__":
            with unirun.Run(flavor="processes", max_workers=2) as executor:
                list(unirun.map(executor, len, range(0)))
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                for result in unirun.map(executor, large, range({count})):
                    assert len(result) == {size}
                    time.sleep(0.001)
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60 << 10  # kB, of 100 MB


def test_an_old_ctrl_c_of_an_interactive_session_does_not_cancel_at_its_exit(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from unirun.compat.concurrent.futures import ProcessPoolExecutor\n"
        "sys.ps1, sys.last_type = '>>> ', KeyboardInterrupt\n"
        "def note(number):\n"
        f"    with open({str(tmp_path / 'notes')!r}, 'a') as file:\n"
        "        file.write(f'{number}\\n')\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(2)\n"
        "    pool.map(note, range(500))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(map(int, (tmp_path / "notes").read_text().split())) == list(range(500))


@pytest.mark.parametrize("ended", [False, True])
def test_the_collector_drops_results_while_the_pools_lock_is_held(ended: bool, tmp_path: Path) -> None:
    """It may come in the middle of anything, in any thread. The pool's own one cancels what has not begun."""
    gate = Gate(str(tmp_path))
    executor: Any = Run(flavor="processes", config=RuntimeConfig(max_workers=1, reuse=False)).__enter__()
    results: Any = executor.map(stop_at, [gate] * 5000, range(5000))  # more than go into one batch
    assert next(results) == 0
    gate.await_arrival("1")
    (sending,) = executor._unirun_maps
    until(lambda: len(sending._open) == 2, "the sending of the next batch")
    begun = min(sending._open, key=lambda batch: batch.start)  # of more than one item where the first was quick
    pool = executor._unirun_lower
    if ended:
        executor.shutdown(wait=False)

    def drop() -> None:
        nonlocal results
        with pool._manager.dispatch.lock:
            del results
            while not sending._closed:  # PyPy frees nothing before
                gc.collect()

    dropping = threading.Thread(target=drop, daemon=True)
    dropping.start()
    dropping.join(PATIENCE)
    assert not dropping.is_alive()
    until(lambda: len(sending._open) == 1, "the end of what has not begun")
    gate.open()
    executor.shutdown(wait=True)
    arrived = {path.name for path in tmp_path.glob("*.here")}
    assert arrived == {f"{number}.here" for number in range(begun.start, begun.start + begun.count)}


def test_dropping_a_map_wakes_nobody_where_locks_are_held(tmp_path: Path) -> None:
    """The collector may drop its results while the stdlib's pool holds the lock that a submit needs."""
    gate = Gate(str(tmp_path))
    with compat.ProcessPoolExecutor(1) as executor:
        first: Any = executor.map(stop_at, [gate] * 5000, range(5000))
        assert next(first) == 0
        second = executor.map(square, range(300))
        gate.await_arrival("1")

        def drop() -> None:
            nonlocal first
            with executor._shutdown_lock:
                del first
                gc.collect()

        dropping = threading.Thread(target=drop, daemon=True)
        dropping.start()
        dropping.join(PATIENCE)
        assert not dropping.is_alive()
        gate.open()
        assert list(second) == [number * number for number in range(300)]


def test_a_map_behind_another_one_ends_with_the_pool_that_breaks(tmp_path: Path) -> None:
    """Also where nobody asks for its results."""
    gate = Gate(str(tmp_path))
    with compat.ProcessPoolExecutor(2) as executor:
        executor.map(exit_at, [gate] * 300)
        executor.map(square, range(300))
        gate.open()
        until(lambda: not executor._unirun_maps, "the end of both")


def test_a_slow_iterable_does_not_keep_the_results(tmp_path: Path) -> None:
    """Those that are there; however short the items are, and whatever there is room for."""
    taken = 0

    def slow() -> Iterator[int]:
        nonlocal taken
        for number in range(1 << 16):
            end = clock.now() + 50e-6
            while clock.now() < end:
                pass
            taken += 1
            yield number

    with Run(flavor="processes", max_workers=2) as executor:
        assert len(list(executor.map(square, range(20_000)))) == 20_000  # after which it is known that they are short
        for results in (unirun.map(executor, square, slow()), unirun.map(square, slow())):
            assert next(results) == 0
            assert taken < 1 << 15
            taken = 0
            results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [20_000, 400_000])
@pytest.mark.parametrize("way", ["items", "function"])
def test_what_changes_between_two_items_is_seen(way: str, size: int) -> None:
    """By the next one, whatever its size is: an array that is filled anew, or one that the function has."""
    buffer = Large(bytearray(size))

    def frames() -> Iterator[Large]:
        for number in range(8):
            buffer.data[:] = bytes([number]) * size
            yield buffer

    with Run(flavor="processes", max_workers=1) as executor:
        if way == "items":
            seen = list(unirun.map(executor, first, frames(), buffersize=1))
        else:
            seen = []
            for byte in unirun.map(executor, partial(first_of, buffer), range(8), buffersize=1):
                seen.append(byte)
                buffer.data[:] = bytes([len(seen)]) * size
    if way == "items":
        assert seen == list(range(8))
    else:  # the next item is sent before the result is there, or just behind it
        assert all(byte in (number, number - 1) for number, byte in enumerate(seen)), seen


@pytest.mark.skipif(
    not hasattr(os, "memfd_create") or sys.implementation.name != "cpython",
    reason="buffers go through the pipe here: no memfd, or no CPython",
)
@pytest.mark.parametrize("source", [list, iter])
def test_the_array_of_a_function_is_sent_once(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where items come from a generator."""
    filled: list[int] = []
    fill = Arena._fill

    def counted(arena: Arena, block: Any, view: memoryview) -> None:
        filled.append(view.nbytes)
        fill(arena, block, view)

    monkeypatch.setattr(Arena, "_fill", counted)
    with Run(flavor="processes", max_workers=2) as executor:
        executor.submit(len, ()).result(PATIENCE)
        assert list(unirun.map(executor, partial(first_of, Large(bytearray(400_000))), source(range(30)))) == [0] * 30
    assert filled == [400_000] * len(filled)
    assert len(filled) == 1


def test_results_for_which_there_is_no_room_are_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones make less room than there was when items were taken."""

    def stalled() -> bool:
        with batches._lock:
            sent = batches._taken - len(batches._unsent) - batches._next
            return not batches._open and sent >= batches._room()

    # All are taken at once, however slow the machine is: that takes no time, and an item next to none.
    monkeypatch.setattr("unirun.maps.batches.clock", SimpleNamespace(now=lambda: 0.0))
    with Run(flavor="processes", max_workers=1) as executor:
        executor._unirun_paces[large_at_last] = 1e-6  # type: ignore[union-attr]
        results = unirun.map(executor, large_at_last, iter(range(300)))
        (batches,) = executor._unirun_maps  # type: ignore[union-attr]
        sizes = [len(next(results))]
        assert batches._read
        until(stalled, "no room for more")
        assert batches._unsent
    sizes.extend(map(len, results))
    assert sizes == [0] * 100 + [1 << 18] * 200


@pytest.mark.parametrize("over", ["compat", "pipes", "cached threads"])
def test_who_asks_at_the_same_time_is_refused_and_nothing_is_lost(over: str) -> None:
    """As with a generator, which the stdlib's results are."""
    config = RuntimeConfig(max_workers=2)
    with Run(flavor="processes", config=config) as executor, compat.ProcessPoolExecutor(2) as pool:
        maps: dict[str, Any] = {"compat": pool.map, "pipes": executor.map, "cached threads": unirun.map}
        results = maps[over](nap_long, range(10))
        refusals: list[str] = []

        got: list[int] = []

        def ask() -> None:
            while True:
                try:
                    got.append(next(results))
                except ValueError as error:
                    refusals.append(str(error))
                    time.sleep(0.001)
                except StopIteration:
                    return

        other = threading.Thread(target=ask)
        other.start()
        ask()
        other.join(PATIENCE)
    assert sorted(got) == list(range(10))
    assert set(refusals) == {"generator already executing"}


def test_an_iterable_may_not_ask_for_results_of_its_own_map() -> None:
    """It is refused; the others come all the same."""
    refusals: list[str] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            if number == 50:
                try:
                    next(results)
                except ValueError as error:
                    refusals.append(str(error))
            yield number

    with Run(flavor="processes", max_workers=2) as executor:
        results = unirun.map(executor, nap, numbers(), buffersize=4)
        assert list(results) == list(range(100))
    assert refusals == ["generator already executing"]


@pytest.mark.parametrize("own", [True, False])
def test_a_slow_iterable_is_read_as_results_are_taken(own: bool) -> None:
    """However short its items are: it may be a stream that lives."""

    def ticks() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            time.sleep(0.002)
            yield number

    with Run(flavor="processes", max_workers=2) as executor:
        over = (executor,) if own else ()
        list(unirun.map(*over, square, range(2000)))  # by which it is known that they are short
        taken: list[int] = []
        results = unirun.map(*over, square, ticks())
        assert next(results) == 0
        assert len(taken) < 200  # the window has thousands of items
        results.close()  # type: ignore[attr-defined]


class Seventh(Fraction):
    """Can be referred to weakly."""


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("flavor", ["processes", "threads"])
def test_items_go_when_they_are_done(kind: Any, flavor: Any) -> None:
    with Run(flavor=flavor, max_workers=2) as executor:
        items = [Seventh(number, 7) for number in range(500)]
        alive = weakref.WeakSet(items)
        results = executor.map(math.floor, kind(items))
        del items
        assert list(results) == [number // 7 for number in range(500)]

        def gone() -> bool:
            gc.collect()
            return not alive

        # Although somebody holds the results. A thread of PyPy's may hold its newest item until it goes on.
        until(gone, "the last item is let go of")


def test_a_map_behind_one_that_is_done_before_its_sender_is() -> None:
    """The sender wakes nobody then: the first one has left the list."""
    maps: list[Sending] = []
    results: list[Future[Any]] = []

    def run(place: object, fn: Any, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args))
        return future

    def run_late(*task: Any) -> Future[Any]:
        results.append(asked(lambda: list(second.begin())))
        until(lambda: bool(second._changed._waiters), "somebody waits for the second map")  # type: ignore[attr-defined]
        return run(*task)

    first = Batches(run_late, abs, (range(1),), workers=1, size=None, maps=maps, ended=maps.remove)
    second = Batches(run, abs, (range(3),), workers=1, size=None, maps=maps, ended=maps.remove)
    maps += [first, second]
    assert list(first.begin()) == [0]
    assert results[0].result(PATIENCE) == [0, 1, 2]
    assert maps == []


class Packed:
    """Waits to be pickled. Several are packed together once their function is known to be short."""

    held = threading.Event()
    pickling = threading.Event()

    def __reduce__(self) -> Any:
        Packed.pickling.set()
        assert Packed.held.wait(PATIENCE)
        return Packed, ()


def moment(_: object) -> float:
    return time.monotonic()


@pytest.mark.parametrize(
    "kind", [partial(Run, flavor="processes", max_workers=1), partial(compat.ProcessPoolExecutor, 1)]
)
def test_what_is_being_packed_is_sent_before_a_later_map(kind: Any) -> None:
    """Though it is not among what waits any more, and not on its way yet."""
    Packed.held.set()
    with kind() as executor:
        list(executor.map(moment, [Packed()] * 500))
        Packed.held.clear()
        Packed.pickling.clear()
        first: list[float] = []
        caller = threading.Thread(target=lambda: first.extend(executor.map(moment, [Packed()] * 100)), daemon=True)
        caller.start()
        assert Packed.pickling.wait(PATIENCE)
        second = executor.map(moment, range(3))
        time.sleep(0.2)  # in which the worker would be done with these
        Packed.held.set()
        begun = min(second)
        caller.join(PATIENCE)
        assert len(first) == 100
        assert max(first) < begun


class SlowToLoad:
    """Takes time to pickle, and to load."""

    pickled = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        SlowToLoad.pickled += 1
        time.sleep(0.002)
        return loaded_slowly, (self.number,)


def loaded_slowly(number: int) -> SlowToLoad:
    time.sleep(0.002)
    return SlowToLoad(number)


def number_of(slow: SlowToLoad) -> int:
    return slow.number


@pytest.mark.parametrize("flavor", ["pipes", "compat"])
def test_items_that_are_slow_to_load_are_not_pickled_again_and_again(flavor: str) -> None:
    """The function is quick with them, so they go in batches, which take too long and come back."""
    SlowToLoad.pickled = 0
    with Run(flavor="processes", max_workers=2) as executor, compat.ProcessPoolExecutor(2) as pool:
        items = [SlowToLoad(number) for number in range(200)]
        results = (executor if flavor == "pipes" else pool).map(number_of, items)
        assert list(results) == list(range(200))
    assert SlowToLoad.pickled < 600


@pytest.mark.parametrize("buffersize", [None, 8])
@pytest.mark.parametrize(
    "make",
    [
        partial(ThreadPoolExecutor, 2),
        partial(compat.ThreadPoolExecutor, 2),
        partial(ProcessPoolExecutor, 2),
        partial(
            compat.ProcessPoolExecutor, 2, max_tasks_per_child=100, mp_context=multiprocessing.get_context("spawn")
        ),
    ],
)
def test_chunks_keep_to_the_window(make: Any, buffersize: int | None) -> None:
    """Over any executor, so that the iterable may be endless."""
    source = Source()
    with make() as pool:
        results = unirun.map(pool, square, source, chunksize=3, buffersize=buffersize)
        assert source.taken <= (buffersize + 1 if buffersize else 100)
        assert list(itertools.islice(results, 100)) == [n * n for n in range(100)]
        results.close()  # type: ignore[attr-defined]
    assert source.taken < 300


@pytest.mark.parametrize("taken", [0, 1])
@pytest.mark.parametrize("over", ["cached threads", "pipes", "chunks"])
def test_closed_results_have_an_end(over: str, taken: int) -> None:
    """Also with results that are there, and before the first was asked for."""
    with Run(flavor="processes", max_workers=2) as executor, ProcessPoolExecutor(2) as pool:
        before: dict[str, Any] = {"cached threads": [], "pipes": [executor], "chunks": [pool]}
        called: Any = partial(unirun.map, *before[over], nap, Source())
        results = called(chunksize=3 if over == "chunks" else 1)
        time.sleep(0.05)
        assert list(itertools.islice(results, taken)) == list(range(taken))
        results.close()
        assert list(results) == []


def test_chunks_of_any_executor_end_with_the_iterable() -> None:
    with ProcessPoolExecutor(2) as pool:
        assert list(unirun.map(pool, pow, range(10), range(10), chunksize=4)) == [n**n for n in range(10)]


def test_a_pool_that_is_cancelled_while_items_are_read() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        pool.shutdown(wait=False, cancel_futures=True)
        yield 2

    with compat.ProcessPoolExecutor(2) as pool, pytest.raises(RuntimeError, match="after shutdown"):
        pool.map(square, numbers())


def test_items_that_map_over_the_same_threads() -> None:
    """All threads wait then, each for items of its own."""

    def nested(depth: int) -> int:
        return 1 + sum(unirun.map(nested, [depth - 1] * 3)) if depth else 1

    done: Future[int] = Future()
    threading.Thread(target=lambda: done.set_result(nested(4)), daemon=True).start()
    assert done.result(PATIENCE) == 121


def test_a_class_of_pools_may_have_no_hash() -> None:
    class Equal(compat.ProcessPoolExecutor):
        __hash__ = None  # type: ignore[assignment]

    with Equal(1) as pool:
        assert pool.submit(square, 2).result(PATIENCE) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_ends_a_pool_whose_thread_was_submitting() -> None:
    """It holds the pool's lock then, and is not in the child to release it."""
    with compat.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        pool.submit(square, 1).result(PATIENCE)
        held: Any = pool._shutdown_lock
        with held:
            child = os.fork()
            if not child:
                try:
                    pool.shutdown()
                    os._exit(0)
                except BaseException:
                    os._exit(1)
        assert exit_status(child) == 0


def test_what_items_take_is_remembered_of_several_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: 0.0)  # whatever holds a thread up: they are short
    paces: dict[Any, float] = {}
    tasks: list[Any] = []

    def submit(place: object, fn: Any, *args: Any) -> Future[Any]:
        tasks.append(fn)
        return POOL.submit(fn, *args)

    def of(fn: Any) -> Any:
        """Map a function, and return the first task."""
        tasks.clear()
        ended: list[object] = []
        sending = Batches(submit, fn, ([1, 2, 3],), workers=1, size=None, paces=paces, ended=ended.append)
        assert list(sending.begin()) == [fn(1), fn(2), fn(3)]
        until(lambda: bool(ended), "the end of the map")
        return tasks[0]

    assert [of(abs), of(float), of(abs), of(float)] == [batch.timed, batch.timed, batch.run, batch.run]
    for fn in [bool, complex, hex, oct, bin, chr, repr, str, float]:
        of(fn)
    assert list(paces) == [complex, hex, oct, bin, chr, repr, str, float]


def test_an_iterable_with_a_length_may_take_long(tmp_path: Path) -> None:
    """What was taken begins meanwhile: this one waits for the end of its own first item."""

    class Slow:
        def __len__(self) -> int:
            return 10

        def __iter__(self) -> Iterator[str]:
            for number in range(10):
                time.sleep(0.005)
                if number == 5:
                    until((tmp_path / "0").exists, "the first item")
                yield str(tmp_path / str(number))

    with compat.ProcessPoolExecutor(1) as executor:
        assert list(executor.map(touch, Slow(), timeout=PATIENCE)) == [None] * 10


def touch(path: str) -> None:
    Path(path).touch()

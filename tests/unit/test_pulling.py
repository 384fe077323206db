"""`unirun.map` over the cached threads: order, errors, windows, and what a batch could not promise."""

import gc
import inspect
import itertools
import os
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import unirun
from tests.conformance import tasks
from tests.conformance.columns import COUNTED
from unirun import configure, leases
from unirun.maps import pulling
from unirun.maps.pulling import Pulling

MANY = 3000
PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    configure(max_workers=2)
    yield
    configure()
    unirun.reset()


def square(number: int) -> int:
    return number * number


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class Counted:
    """Numbers, and how many were taken."""

    def __init__(self, pause: float = 0) -> None:
        self.taken = 0
        self.pause = pause

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            if self.pause:
                time.sleep(self.pause)
            self.taken += 1
            yield number


def test_results_come_in_order_of_several_iterables() -> None:
    assert list(unirun.map(pow, range(MANY), itertools.repeat(2), itertools.repeat(7))) == [
        n * n % 7 for n in range(MANY)
    ]
    decision = unirun.last_decision()
    assert decision is not None
    assert decision.backend == "threads"
    assert list(unirun.map(square, [])) == []


def test_items_may_wait_for_one_another() -> None:
    """Each for the next one: in a batch the first one would wait for ever."""
    barrier = threading.Barrier(2)

    def meet(number: int) -> int:
        barrier.wait(PATIENCE)
        return number

    assert list(unirun.map(meet, range(MANY))) == list(range(MANY))


@pytest.mark.parametrize("lead", [1, 2, 5])
def test_an_iterable_that_waits_for_what_its_own_items_do(lead: int) -> None:
    done = [threading.Event() for _ in range(200)]

    def items() -> Iterator[int]:
        for number in range(200):
            assert number < lead or done[number - lead].wait(PATIENCE)
            yield number

    assert list(unirun.map(lambda number: done[number].set(), items())) == [None] * 200


def test_both_threads_have_an_item_while_an_iterable_waits() -> None:
    barrier = threading.Barrier(3)

    def items() -> Iterator[int]:
        yield from range(2)
        barrier.wait(PATIENCE)

    assert list(unirun.map(lambda _: barrier.wait(PATIENCE) >= 0, items())) == [True, True]


@pytest.mark.parametrize("place", [0, 1, 700, MANY - 1])
def test_an_exception_comes_after_all_earlier_results(place: int) -> None:
    def fail(number: int) -> int:
        if number == place:
            raise KeyError(number)
        return number

    results = unirun.map(fail, range(MANY))
    assert list(itertools.islice(results, place)) == list(range(place))
    with pytest.raises(KeyError) as raised:
        next(results)
    assert raised.value.args == (place,)
    assert list(results) == []


def test_what_the_iterable_raises_comes_in_its_place() -> None:
    def source() -> Iterator[int]:
        yield from range(700)
        raise OSError("no more")

    results = unirun.map(square, source())
    assert list(itertools.islice(results, 700)) == [n * n for n in range(700)]
    with pytest.raises(OSError, match="no more"):
        next(results)


def test_an_interrupt_while_the_first_items_are_taken() -> None:
    """Nothing more is begun."""
    begun: list[int] = []
    gate = threading.Event()

    def source() -> Iterator[int]:
        yield from range(10)
        raise KeyboardInterrupt

    def wait(number: int) -> None:
        begun.append(number)
        gate.wait(PATIENCE)

    with pytest.raises(KeyboardInterrupt):
        unirun.map(wait, source())
    gate.set()
    assert unirun.submit(square, 3).result(PATIENCE) == 9
    time.sleep(0.05)
    assert len(begun) <= 2


@pytest.mark.parametrize("buffersize", [1, 3, 40])
def test_the_buffer_is_bounded(buffersize: int) -> None:
    source = Counted()
    results = unirun.map(square, source, buffersize=buffersize)
    for number in range(500):
        assert source.taken <= number + buffersize
        assert next(results) == number * number


def test_long_items_are_not_taken_far_ahead() -> None:
    source = Counted()
    results: Any = unirun.map(lambda number: nap(0.002) and number, source)
    assert list(itertools.islice(results, 50)) == list(range(50))
    assert source.taken < 50 + 2 * 16 + 16
    results.close()


def test_closing_takes_back_what_has_not_begun() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def wait(number: int) -> bool:
        begun.append(number)
        return gate.wait(PATIENCE)

    results: Any = unirun.map(wait, range(MANY))
    tasks.until(lambda: len(begun) == 2, "two threads")
    results.close()
    gate.set()
    assert unirun.submit(square, 3).result(PATIENCE) == 9
    time.sleep(0.05)
    assert sorted(begun) == [0, 1]


def test_the_time_is_for_all() -> None:
    gate = threading.Event()
    try:
        results = unirun.map(lambda number: number if number < 50 else gate.wait(PATIENCE), range(100), timeout=0.5)
        assert list(itertools.islice(results, 50)) == list(range(50))
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            next(results)
        assert time.monotonic() - begin < 5
    finally:
        gate.set()


def test_others_have_their_turn() -> None:
    """Although there are always items that no thread has begun."""
    results: Any = unirun.map(square, Counted())
    stop = threading.Event()

    def consume() -> None:
        while not stop.is_set():
            next(results)

    consumer = threading.Thread(target=consume)
    consumer.start()
    try:
        assert [unirun.submit(square, number).result(PATIENCE) for number in range(20)] == [n * n for n in range(20)]
    finally:
        stop.set()
        consumer.join(PATIENCE)
    results.close()


@pytest.mark.parametrize("seconds", [0.0, 0.002])
def test_reset_ends_it(seconds: float) -> None:
    """What runs is waited for; then there is nothing more."""
    results = unirun.map(lambda number: (nap(seconds), number)[1], Counted())
    assert next(results) == 0
    unirun.reset()
    rest: list[int] = []
    with pytest.raises(CancelledError):
        rest.extend(results)
    assert rest == list(range(1, len(rest) + 1))
    assert list(results) == []
    assert unirun.submit(square, 3).result(PATIENCE) == 9


def test_reset_while_the_last_thread_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds nothing that it may submit, and tells who waits for a result."""
    unirun.configure(max_workers=1)
    leaving, gone = threading.Event(), threading.Event()
    start = Pulling._start

    def late(pulling: Pulling) -> None:
        if threading.current_thread() is not consumer:
            leaving.set()
            gone.wait(PATIENCE)
        start(pulling)

    results = unirun.map(lambda number: (nap(0.02), number)[1], range(20), buffersize=2)
    monkeypatch.setattr(Pulling, "_start", late)
    seen: list[Any] = []

    def consume() -> None:
        try:
            seen.extend(results)
        except CancelledError as error:
            seen.append(error)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    assert leaving.wait(PATIENCE)
    nap(0.1)  # the consumer waits for more
    resetting = threading.Thread(target=unirun.reset, daemon=True)
    before = leases.resets()
    resetting.start()
    tasks.until(lambda: leases.resets() > before, "the reset")
    gone.set()
    for thread in (resetting, consumer):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert isinstance(seen[-1], CancelledError)


def test_no_item_begins_after_reset() -> None:
    begun: list[int] = []
    results = unirun.map(begun.append, Counted(), buffersize=3)
    next(results)
    tasks.until(lambda: len(begun) == 3, "the items of the window")
    unirun.reset()
    assert [next(results), next(results)] == [None, None]
    with pytest.raises(CancelledError):
        next(results)
    assert begun == [0, 1, 2]
    assert leases.cached() == 0


@pytest.mark.parametrize("place", [0, 15, 40])
def test_an_item_that_resets(place: int) -> None:
    """The results of the others are missing, which is said; where it runs at the call this is known by then."""
    configure(ladder=("inline",))

    def reset_at(number: int) -> int:
        if number == place:
            unirun.reset()
        return number

    with pytest.raises(CancelledError):
        list(unirun.map(reset_at, iter(range(60))))


def test_a_pause_that_ends_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """As idle: it is opened again."""
    monkeypatch.setattr(leases, "IDLE_SECONDS", 0.05)
    results = unirun.map(square, range(300), buffersize=8)
    assert next(results) == 0
    tasks.until(lambda: leases.cached() == 0, "the end of the pool")
    assert list(results) == [n * n for n in range(1, 300)]


def test_other_settings_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are for later calls."""
    monkeypatch.setattr(leases, "IDLE_SECONDS", 0.05)
    seen: set[int] = set()

    def note(number: int) -> int:
        seen.add(os.getpid())
        return number

    results = unirun.map(note, range(3000), buffersize=8)
    assert next(results) == 0
    configure(max_workers=3, force_process=True)
    assert list(results) == list(range(1, 3000))
    assert seen == {os.getpid()}


def test_a_slow_iterable_does_not_keep_results_back() -> None:
    source = Counted(pause=0.02)
    begin = time.monotonic()
    results: Any = unirun.map(square, source)
    assert next(results) == 0
    assert source.taken < 10
    assert time.monotonic() - begin < 5
    results.close()


@COUNTED
@pytest.mark.parametrize("failing", [False, True])
def test_nothing_waits_for_the_garbage_collector(failing: bool) -> None:
    """Neither results and items that were let go of, nor the exceptions of those that nobody asked for."""

    class Thing(Exception):
        pass

    def make(number: int) -> Thing:
        if failing and number > 5:
            raise Thing(number)
        return Thing(number)

    gc.collect()
    gc.disable()
    try:
        results: Any = unirun.map(make, Counted())
        seen = [weakref.ref(result) for result in itertools.islice(results, 5)]
        tasks.until(lambda: all(each() is None for each in seen), "the end of the results")
        results.close()
        del results
        unirun.reset()
        tasks.until(lambda: not any(type(each) is Thing for each in gc.get_objects()), "the end of the others")
    finally:
        gc.enable()


@pytest.mark.parametrize("failing", ["the iterable", "reset"])
@COUNTED
def test_an_end_by_an_error_leaves_no_cycle(failing: str) -> None:
    class Thing(Exception):
        pass

    def source() -> Iterator[Thing]:
        yield from (Thing() for _ in range(40))
        raise Thing

    gc.collect()
    gc.disable()
    try:
        results: Any = unirun.map(lambda value: value, source(), buffersize=4)
        next(results)
        if failing == "reset":
            unirun.reset()
        with pytest.raises(CancelledError if failing == "reset" else Thing):
            list(results)
        del results
        unirun.reset()
        tasks.until(lambda: not any(type(each) is Thing for each in gc.get_objects()), "the end of all")
    finally:
        gc.enable()


@COUNTED
def test_what_dies_when_it_is_closed_may_use_the_pool() -> None:
    """Nobody waits for the lock meanwhile: its destructor waits for a thread that may want it."""
    used: list[int] = []
    gate = threading.Event()

    class Result:
        def __init__(self, number: int) -> None:
            if number:
                gate.wait(PATIENCE)

        def __del__(self) -> None:
            if threading.current_thread() is threading.main_thread():
                gate.set()
                used.append(unirun.submit(square, 3).result(PATIENCE))

    results: Any = unirun.map(Result, [0, 0, 0, 1, 1], buffersize=5)
    first = next(results)
    time.sleep(0.05)  # two results wait to be asked for, and both threads wait for the gate
    results.close()
    assert used == [9, 9]
    del first


@pytest.fixture
def _inline() -> None:
    configure(max_workers=2, ladder=("inline",), downgrade="silent")


@pytest.mark.usefixtures("_inline")
def test_where_no_thread_can_be_started() -> None:
    assert list(itertools.islice(unirun.map(square, Counted()), 300)) == [n * n for n in range(300)]


@pytest.mark.usefixtures("_inline")
def test_long_items_are_not_nested_in_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "_TURN", 0.0)
    depths = set(unirun.map(lambda _: len(inspect.stack(0)), range(200), buffersize=200))
    assert len(depths) <= 2


@pytest.mark.usefixtures("_inline")
def test_ctrl_c_in_the_calling_thread() -> None:
    """Comes at once, and not in the place of its item."""
    begun: list[int] = []

    def interrupted(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise KeyboardInterrupt
        return number

    with pytest.raises(KeyboardInterrupt):
        list(unirun.map(interrupted, range(100), buffersize=50))
    assert begun == [0, 1, 2, 3]

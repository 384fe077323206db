"""The jobs that pools are compared by: what one round of each does with an open pool."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.peers import Peer


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do with a pool.

    Attributes:
        title: What it is, in words.
        rounds: How often to do it, by default.
        run: Does it once, with a pool and what was prepared.
        prepare: Makes what is sent, before the time runs.
    """

    title: str
    rounds: int
    run: Callable[..., object]
    prepare: Callable[[], tuple[Any, ...]] = tuple


def round_trips(peer: Peer) -> None:
    """100 tasks, each awaited before the next."""
    for number in range(100):
        peer.one(abs, number)


def submits(peer: Peer) -> None:
    """20,000 tasks, then their results."""
    results = peer.many(abs, range(20_000))
    assert results[-1] == 19_999


def arrays(peer: Peer) -> None:
    """16 arrays of 8 MB to the workers and back."""
    results = peer.many(same, sixteen_arrays())
    assert results[-1].nbytes == 8_000_000


def arrays_in(peer: Peer, arrays: list[Any]) -> None:
    """Arrays to the workers by the pool's own map, a number back for each."""
    peer.map(total, arrays)


def arrays_in_and_out(peer: Peer, arrays: list[Any]) -> None:
    """Arrays to the workers and back by the pool's own map."""
    peer.map(same, arrays)


def one_array(peer: Peer) -> None:
    """One array of 100 MB for 50 tasks."""
    peer.map(total, [large_array()] * 50)


def computing(peer: Peer) -> None:
    """200 tasks of 20 ms of a processor."""
    peer.many(burn, [0.02] * 200)


def map_tiny(peer: Peer) -> None:
    """20,000 tiny tasks by the pool's own map."""
    assert peer.map(same, numbers()) == numbers()


def map_short(peer: Peer) -> None:
    """4,000 short tasks of computing by the pool's own map."""
    peer.map(squares, [1_000] * 4_000)


def map_records(peer: Peer) -> None:
    """4,000 small objects by the pool's own map, one back for each."""
    assert peer.map(sum_up, records())[-1] == Record("number 3999", [7_999.0])


def map_generated(peer: Peer) -> None:
    """2,000 short tasks by the pool's own map, for items that take some time to make."""
    peer.map(squares, made(2_000))


def map_mixed(peer: Peer) -> None:
    """200 tasks of 5 to 50 ms by the pool's own map."""
    peer.map(time.sleep, shuffled())


def map_slow_first(peer: Peer) -> None:
    _map_one_slow(peer, 0)


def map_slow_middle(peer: Peer) -> None:
    _map_one_slow(peer, 10_000)


def map_slow_last(peer: Peer) -> None:
    _map_one_slow(peer, 19_999)


def _map_one_slow(peer: Peer, place: int) -> None:
    """20,000 tasks by the pool's own map, of which one takes a second and all others nothing."""
    peer.map(nap, [1.0 if number == place else 0.0 for number in range(20_000)])


def nap(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


@cache
def numbers() -> list[int]:
    return list(range(20_000))


@dataclass(slots=True)
class Record:
    name: str
    amounts: list[float]


@cache
def records() -> list[Record]:
    return [Record(f"number {number}", [number, 1.0, number]) for number in range(4_000)]


def sum_up(record: Record) -> Record:
    return Record(record.name, [float(sum(record.amounts))])


@cache
def shuffled() -> list[float]:
    seconds = [0.005 + 0.045 * number / 199 for number in range(200)]
    random.Random(5).shuffle(seconds)
    return seconds


def same(value: Any) -> Any:
    return value


def total(array: Any) -> float:
    return float(array.sum())


def burn(seconds: float) -> None:
    """Compute for as many seconds of this process's own time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def squares(count: int) -> int:
    """Compute for some 50 us."""
    return sum(number * number for number in range(count))


def made(count: int) -> Iterator[int]:
    for _ in range(count):
        squares(1_000)
        yield 1_000


def new_arrays() -> list[Any]:
    import numpy

    return [numpy.full(1_000_000, float(number)) for number in range(16)]


@cache
def large_array() -> Any:
    import numpy

    return numpy.ones(12_500_000)


@cache
def sixteen_arrays() -> list[Any]:
    import numpy

    return [numpy.full(1_000_000, float(number)) for number in range(16)]


JOBS: dict[str, Job] = {
    "roundtrip": Job("Round trip: submit one task, wait for its result; 100 times", 40, round_trips),
    "submits": Job("Submit 20,000 tasks, then take their results", 5, submits),
    "map": Job("Map 20,000 tiny tasks, default arguments", 20, map_tiny),
    "short": Job("Map 4,000 tasks of some 50 us of computing", 10, map_short),
    "records": Job("Map 4,000 small objects, one back for each", 10, map_records),
    "generated": Job("Map 2,000 tasks of some 50 us, from a generator that takes as long for each", 10, map_generated),
    "mixed": Job("Map 200 tasks of 5 to 50 ms in shuffled order", 3, map_mixed),
    "slow-first": Job("Map one task of 1 s, then 19,999 tiny ones", 2, map_slow_first),
    "slow-middle": Job("Map 20,000 tasks, the middle one of 1 s", 2, map_slow_middle),
    "slow-last": Job("Map 19,999 tiny tasks, then one of 1 s", 2, map_slow_last),
    "arrays": Job("16 arrays of 8 MB in and out", 7, arrays),
    "arrays-in": Job("Map 16 new arrays of 8 MB, a number back", 7, arrays_in, lambda: (new_arrays(),)),
    "arrays-again": Job("Map the same 16 arrays of 8 MB again", 7, arrays_in, lambda: (sixteen_arrays(),)),
    "arrays-in-out": Job("Map 16 new arrays of 8 MB in and out", 7, arrays_in_and_out, lambda: (new_arrays(),)),
    "one-array": Job("Map one array of 100 MB to 50 tasks", 1, one_array),
    "computing": Job("200 tasks of 20 ms of computing", 3, computing),
}

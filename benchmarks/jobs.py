"""The jobs that pools are compared by: what one round of each does with an open pool."""

import time
from collections.abc import Callable
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
        run: Does it once.
    """

    title: str
    rounds: int
    run: Callable[[Peer], object]


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


def computing(peer: Peer) -> None:
    """200 tasks of 20 ms of a processor."""
    peer.many(burn, [0.02] * 200)


def same(value: Any) -> Any:
    return value


def burn(seconds: float) -> None:
    """Compute for as many seconds of this process's own time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


@cache
def sixteen_arrays() -> list[Any]:
    import numpy

    return [numpy.full(1_000_000, float(number)) for number in range(16)]


JOBS: dict[str, Job] = {
    "roundtrip": Job("Round trip: submit one task, wait for its result; 100 times", 40, round_trips),
    "submits": Job("Submit 20,000 tasks, then take their results", 5, submits),
    "arrays": Job("16 arrays of 8 MB in and out", 7, arrays),
    "computing": Job("200 tasks of 20 ms of computing", 3, computing),
}

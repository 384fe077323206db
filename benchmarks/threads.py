"""Time ``unirun.map`` over the cached threads against the stdlib's thread pool, in pairs, and print the ratios.

    python -m benchmarks.threads [--rounds N]

Two threads each; which is first alternates. A plain loop stands beside them: it is all that tiny items need.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import unirun
from benchmarks.peers import WORKERS
from benchmarks.report import Table

ITEMS = 20_000


def same(value: int) -> int:
    return value


def timed(run: Callable[[], Iterable[int]]) -> float:
    """Return the milliseconds in which all results are there."""
    begin = time.perf_counter()
    assert sum(run()) == ITEMS * (ITEMS - 1) // 2
    return (time.perf_counter() - begin) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    unirun.configure(max_workers=WORKERS)
    with ThreadPoolExecutor(WORKERS) as stdlib:
        ways: dict[str, Callable[[], Iterable[int]]] = {
            "stdlib": lambda: stdlib.map(same, range(ITEMS)),
            "unirun": lambda: unirun.map(same, range(ITEMS)),
            "a loop": lambda: map(same, range(ITEMS)),
        }
        values: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name in list(ways) if number % 2 else list(ways)[::-1]:
                values[name].append(timed(ways[name]))
    title = f"Map {ITEMS:,} tiny tasks over {WORKERS} threads, {options.rounds} rounds"
    print(Table(title, "ms", {name: own[1:] for name, own in values.items()}).markdown())


if __name__ == "__main__":
    main()

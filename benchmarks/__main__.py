"""Measure round trips, opening a pool, and importing: in turn, round by round, and print the ratios to the stdlib.

    python -m benchmarks [--rounds N] [--method fork|forkserver|spawn]

A ratio is taken within a round, where both ran within a fraction of a second, so that a machine that slows down does
not show; what is printed is the median of the rounds, with the lowest and the highest.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, WORKERS, Call

ROOT = Path(__file__).parents[1]
Times = dict[str, list[float]]
YARDSTICK = "stdlib"
BARE = "python -c pass"


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int) -> Times:
    """Time each contestant once a round; the order turns, so that none is always behind the same one."""
    times: Times = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(timed(contestants[name]))
    return times


def round_trips(context: Any, rounds: int, missing: list[str]) -> Times:
    """100 tasks a round, each awaited before the next."""

    def hundred(call: Call) -> None:
        for number in range(100):
            call(abs, number)

    with ExitStack() as stack:
        contestants: dict[str, Callable[[], object]] = {}
        for name, opened in PEERS.items():
            try:
                call = stack.enter_context(opened(context))
                call(abs, 1)
            except ImportError as error:
                missing.append(f"{name} ({error.name} is not installed)")
                continue
            contestants[name] = lambda call=call: hundred(call)  # type: ignore[misc]
            contestants[name]()
        return in_turn(contestants, rounds)


def openings(context: Any, rounds: int) -> Times:
    """A pool opened, one task, closed."""

    def once(name: str) -> Callable[[], None]:
        def run() -> None:
            with PEERS[name](context) as call:
                call(abs, 1)

        return run

    return in_turn({name: once(name) for name in (YARDSTICK, "unirun compat", "multiprocessing.Pool")}, rounds)


def imports(rounds: int) -> Times:
    """A whole interpreter, from start to end."""

    def start(code: str) -> Callable[[], object]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, env=environment)

    return in_turn({BARE: start("pass"), "import unirun": start("import unirun")}, rounds)


def table(title: str, times: Times, unit: float) -> None:
    """Print one table, sorted as measured; `unit` divides the seconds of a round to give the column of microseconds."""
    yardstick = next(iter(times))
    print(f"\n### {title}\n\n| | ratio | lowest to highest | median, µs |\n|---|---|---|---|")
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times[yardstick], strict=True)]
        median = statistics.median(own) / unit * 1e6
        print(f"| {name} | {statistics.median(ratios):.3f} | {min(ratios):.2f} to {max(ratios):.2f} | {median:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--method", choices=multiprocessing.get_all_start_methods())
    options = parser.parse_args()
    context = multiprocessing.get_context(options.method)
    missing: list[str] = []
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs, {WORKERS} workers,")
    print(f"start method {context.get_start_method()}, {options.rounds} rounds")
    table("Round trip: submit one task, wait for its result", round_trips(context, options.rounds, missing), 100)
    table("Open a pool, one task, close it", openings(context, options.rounds), 1)
    table("Start an interpreter", imports(options.rounds), 1)
    for name in missing:
        print(f"\nleft out: {name}")


if __name__ == "__main__":
    main()

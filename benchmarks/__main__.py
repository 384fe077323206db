"""Measure pools, opening them, and importing: in turn, round by round, and print the ratios to the stdlib.

    python -m benchmarks [--rounds N] [--method fork|forkserver|spawn] [JOB ...]

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
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.jobs import JOBS, Job
from benchmarks.peers import PEERS, WORKERS

ROOT = Path(__file__).parents[1]
Times = dict[str, list[float]]
YARDSTICK = "stdlib"
BARE = "python -c pass"
#: What is measured beside the jobs.
MORE = ("openings", "imports")


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


def of_peers(job: Job, context: Any, rounds: int, missing: list[str]) -> Times:
    """A job in each of the peers' pools, which are open all the time."""
    with ExitStack() as stack:
        contestants: dict[str, Callable[[], object]] = {}
        for name, opened in PEERS.items():
            try:
                peer = stack.enter_context(opened(context))
                peer.one(abs, 1)
            except ImportError as error:
                missing.append(f"{name} ({error.name} is not installed)")
                continue
            contestants[name] = partial(job.run, peer)
            contestants[name]()
        return in_turn(contestants, rounds)


def openings(context: Any, rounds: int) -> Times:
    """A pool opened, one task, closed."""

    def once(name: str) -> Callable[[], None]:
        def run() -> None:
            with PEERS[name](context) as peer:
                peer.one(abs, 1)

        return run

    return in_turn(
        {name: once(name) for name in (YARDSTICK, "unirun", "unirun compat", "multiprocessing.Pool")}, rounds
    )


def imports(rounds: int) -> Times:
    """A whole interpreter, from start to end."""

    def start(code: str) -> Callable[[], object]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, env=environment)

    return in_turn({BARE: start("pass"), "import unirun": start("import unirun")}, rounds)


def table(title: str, times: Times) -> None:
    """Print one table, as measured."""
    yardstick = next(iter(times))
    print(f"\n### {title}\n\n| | ratio | lowest to highest | median, ms |\n|---|---|---|---|")
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times[yardstick], strict=True)]
        median = statistics.median(own) * 1e3
        print(
            f"| {name} | {statistics.median(ratios):.3f} | {min(ratios):.2f} to {max(ratios):.2f} | {median:,.3g} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, help="default: each job's own number")
    parser.add_argument("--method", choices=multiprocessing.get_all_start_methods())
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, *MORE], metavar="JOB", help=", ".join([*JOBS, *MORE]))
    options = parser.parse_args()
    names = options.jobs or [*JOBS, *MORE]
    context = multiprocessing.get_context(options.method)
    missing: list[str] = []
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs, {WORKERS} workers,")
    print(f"start method {context.get_start_method()}")
    for name in names:
        if name in JOBS:
            job = JOBS[name]
            table(job.title, of_peers(job, context, options.rounds or job.rounds, missing))
    if "openings" in names:
        table("Open a pool, one task, close it", openings(context, options.rounds or 40))
    if "imports" in names:
        table("Start an interpreter", imports(options.rounds or 40))
    for name in dict.fromkeys(missing):
        print(f"\nleft out: {name}")


if __name__ == "__main__":
    main()

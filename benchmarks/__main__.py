"""Measure pools, opening them, their memory, and importing: in turn, round by round; print the ratios to the stdlib.

    python -m benchmarks [--rounds N] [--method fork|forkserver|spawn] [--write FOLDER] [JOB ...]

What is printed is the median of the rounds' ratios, with the lowest and the highest. ``--write`` also puts all that was
measured into a folder, as JSON, Markdown and a plot, for which it needs matplotlib.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import random
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
from benchmarks.report import Table, write

ROOT = Path(__file__).parents[1]
Times = dict[str, list[float]]
YARDSTICK = "stdlib"
BARE = "python -c pass"
#: What is measured beside the jobs.
MORE = ("openings", "scopes", "memory", "imports")
#: The distributions whose versions matter.
MEASURED = ("unirun", "loky", "joblib", "mpire", "pebble", "numpy")


def timed(call: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def in_turn(
    contestants: dict[str, Callable[..., object]], rounds: int, prepare: Callable[[], tuple[Any, ...]] = tuple
) -> Times:
    """Time each contestant once a round, in an order of its own: none is always behind the same one.

    Who comes after a call of two seconds finds the processors' caches cold, and the other processor asleep, which is
    half of a call of two milliseconds. What it is called with is prepared before the time runs.
    """
    times: Times = {name: [] for name in contestants}
    names = list(contestants)
    orders = random.Random(0)
    for _ in range(rounds):
        orders.shuffle(names)
        for name in names:
            times[name].append(timed(partial(contestants[name], *prepare())))
    return times


def of_peers(job: Job, context: Any, rounds: int, missing: list[str]) -> Times:
    """A job in each of the peers' pools, which are open all the time."""
    with ExitStack() as stack:
        contestants: dict[str, Callable[..., object]] = {}
        for name, opened in PEERS.items():
            try:
                peer = stack.enter_context(opened(context))
                peer.one(abs, 1)
            except ImportError as error:
                missing.append(f"{name} ({error.name} is not installed)")
                continue
            contestants[name] = partial(job.run, peer)
            contestants[name](*job.prepare())
        return in_turn(contestants, rounds, job.prepare)


def openings(context: Any, rounds: int, *, times: int = 1, tasks: int = 1) -> Times:
    """A pool opened, some tasks, closed; so many times."""

    def once(name: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(times):
                with PEERS[name](context) as peer:
                    peer.many(abs, range(tasks))

        return run

    return in_turn(
        {name: once(name) for name in (YARDSTICK, "unirun", "unirun compat", "multiprocessing.Pool")}, rounds
    )


def imports(rounds: int) -> Times:
    """A whole interpreter, from start to end."""

    def start(code: str) -> Callable[[], object]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, env=environment)

    contestants = {BARE: start("pass"), "import unirun": start("import unirun")}
    contestants["import unirun"]()  # as an installation is, it is compiled by then
    return in_turn(contestants, rounds)


def memory(method: str, rounds: int, missing: list[str]) -> list[Table]:
    """Peak memory while 1 GB of arrays goes through, of an interpreter of its own for each peer and round."""
    peaks: dict[str, list[dict[str, float]]] = {}
    for name in [name for name in PEERS if not any(each.startswith(f"{name} ") for each in missing)]:
        command = [sys.executable, "-m", "benchmarks.memory", name, method]
        for _ in range(rounds):
            done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                missing.append(f"{name} (memory: {done.stderr.strip().splitlines()[-1]})")
                peaks.pop(name, None)
                break
            peaks.setdefault(name, []).append(json.loads(done.stdout))
    return [
        Table(
            f"Peak memory of the {who}, 1 GB of arrays in and out", "MB", {n: [p[who] for p in peaks[n]] for n in peaks}
        )
        for who in ("parent", "worker")
    ]


def machine(context: Any) -> dict[str, str]:
    """Return what it is measured on and with."""
    versions = []
    for name in MEASURED:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass  # unirun in a checkout, or a peer that is left out
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "workers": f"{WORKERS}, started by {context.get_start_method()}",
        "versions": ", ".join(versions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, help="default: each job's own number")
    parser.add_argument("--method", choices=multiprocessing.get_all_start_methods())
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="put JSON, Markdown and a plot there")
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {', '.join([*JOBS, *MORE])}; all by default")
    options = parser.parse_args()
    for name in options.jobs:
        if name not in (*JOBS, *MORE):
            parser.error(f"no job {name!r}; there are: {', '.join([*JOBS, *MORE])}")
    names = options.jobs or [*JOBS, *MORE]
    context = multiprocessing.get_context(options.method)
    missing: list[str] = []
    tables: list[Table] = []

    def show(table: Table) -> None:
        tables.append(table)
        print(f"\n{table.markdown()}", flush=True)

    for what, value in machine(context).items():
        print(f"- {what}: {value}")
    for name in names:
        if name in JOBS:
            job = JOBS[name]
            show(Table(job.title, "ms", of_peers(job, context, options.rounds or job.rounds, missing)))
    if "openings" in names:
        show(Table("Open a pool, one task, close it", "ms", openings(context, options.rounds or 40)))
    if "scopes" in names:
        method = "spawn" if options.method == "spawn" else "forkserver"  # forked workers are not used again
        title = f"Ten pools of four tasks one after the other, by {method}"
        chosen = multiprocessing.get_context(method)
        show(Table(title, "ms", openings(chosen, options.rounds or 5, times=10, tasks=4)))
    if "memory" in names:
        for each in memory(context.get_start_method(), options.rounds or 3, missing):
            show(each)
    if "imports" in names:
        show(Table("Start an interpreter", "ms", imports(options.rounds or 40)))
    for name in dict.fromkeys(missing):
        print(f"\nleft out: {name}")
    if options.write is not None:
        write(options.write, machine(context), tables)


if __name__ == "__main__":
    main()

"""The async form: the work of ``stdlib_report.py`` in worker processes, while the event loop stays responsive.

Two ways, the same report: ``to_process``, which uses a pool that unirun keeps between calls, and ``async with Run``,
which opens one and closes it.

    python examples/async_report.py              # to_process and gather, a bounded number in flight
    python examples/async_report.py --scope      # async with Run

While the workers parse, a heartbeat counts every 10 ms. Where neither processes nor threads can be started the tasks
run in the loop's own thread: the report is then the same, and the heart stands still.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# The folder of this file is on the path when it runs as a script, in its workers too.
from stdlib_report import Measured, find_sources, measure, render

from unirun import Run, configure, last_decision, reset, to_process

#: Seconds between two beats.
BEAT = 0.01


async def measure_with_to_process(root: Path, files: Sequence[Path], in_flight: int) -> list[Measured]:
    """Await all files; no more than ``in_flight`` of them are submitted and not done."""
    gate = asyncio.Semaphore(in_flight)

    async def one(path: Path) -> Measured:
        async with gate:
            return await to_process(measure, root, path)

    return await asyncio.gather(*(one(path) for path in files))


async def measure_in_scope(root: Path, files: Sequence[Path], in_flight: int) -> list[Measured]:
    """The same in a pool of its own, which is any ``concurrent.futures.Executor`` to asyncio."""
    gate = asyncio.Semaphore(in_flight)
    loop = asyncio.get_running_loop()
    async with Run(flavor="processes") as executor:

        async def one(path: Path) -> Measured:
            async with gate:
                return await loop.run_in_executor(executor, measure, root, path)

        return await asyncio.gather(*(one(path) for path in files))


class Heartbeat:
    """Counts how often the event loop comes around, and the longest that it did not."""

    def __init__(self) -> None:
        self.beats = 0
        self.longest_gap = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        last = time.perf_counter()
        while True:
            await asyncio.sleep(BEAT)
            now = time.perf_counter()
            self.beats += 1
            self.longest_gap, last = max(self.longest_gap, now - last), now


async def work(*, scope: bool, limit: int | None, in_flight: int) -> None:
    """Measure beside a heartbeat, and print the report."""
    root, files = find_sources(limit)
    heart = Heartbeat()
    beating = asyncio.create_task(heart.run())
    begin = time.perf_counter()
    measured = await (measure_in_scope if scope else measure_with_to_process)(root, files, in_flight)
    seconds = time.perf_counter() - begin
    beating.cancel()

    print(render(measured), flush=True)
    decision = last_decision()
    print(f"\ndecision: {decision.render() if decision else 'none'}", file=sys.stderr)
    print(f"heartbeats: {heart.beats}, the longest gap {heart.longest_gap * 1000:.0f} ms", file=sys.stderr)
    print(f"time: {seconds:.2f} s for {len(files)} files", file=sys.stderr)


def main() -> None:
    """Run the event loop."""
    parser = argparse.ArgumentParser(description="Report on the source of Python's standard library, from asyncio.")
    parser.add_argument("--scope", action="store_true", help="use `async with Run` instead of `to_process`")
    parser.add_argument("--limit", type=int, metavar="N", help="read the first N files only")
    parser.add_argument("--workers", type=int, metavar="N", help="default: the CPUs that this process may use")
    parser.add_argument("--in-flight", type=int, default=16, metavar="N", help="files submitted and not done")
    arguments = parser.parse_args()
    configure(max_workers=arguments.workers)
    try:
        asyncio.run(work(scope=arguments.scope, limit=arguments.limit, in_flight=arguments.in_flight))
    finally:
        reset()  # ends the pool that to_process keeps; the exit of the program would do it too


if __name__ == "__main__":
    main()

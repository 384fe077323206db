"""Time programs from the registry with the hook and without, in pairs, and print the ratios.

    python -m benchmarks.programs [--rounds N] [PROGRAM ...]

A ratio is taken within a round, in which both run, one right after the other; which is first alternates. What is
printed is the median of the rounds, with the lowest and the highest. Needs pytest, for what it shares with the tests.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.autopatch import pairs, venvs
from tests.autopatch.pairs import PROGRAMS, Pair, Program
from tests.autopatch.venvs import Venv

FILES = 500


def timed(venv: Venv, program: Program, folder: Path) -> float:
    """Return the seconds from the start of the program to its end, on files that it has not seen before."""
    pairs.prepare(folder, program, FILES)
    begin = time.perf_counter()
    done = subprocess.run(
        [str(venv.python), *program.argv], cwd=folder, env=pairs.settings(folder), capture_output=True, check=False
    )
    seconds = time.perf_counter() - begin
    shutil.rmtree(folder)
    assert done.returncode == program.returncode, done.stderr
    return seconds


def compare(pair: Pair, program: Program, rounds: int, folder: Path) -> list[tuple[float, float]]:
    """Return the seconds with the hook and without, of each round after one that is not counted."""
    times = []
    for number in range(rounds + 1):
        order = (pair.hooked, pair.plain) if number % 2 else (pair.plain, pair.hooked)
        seconds = {venv: timed(venv, program, folder / "run") for venv in order}
        times.append((seconds[pair.hooked], seconds[pair.plain]))
    return times[1:]  # the first has compiled what is imported


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(PROGRAMS)}; all by default")
    options = parser.parse_args()
    for name in options.programs:
        if name not in PROGRAMS:
            parser.error(f"no program {name!r}; there are: {', '.join(PROGRAMS)}")
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{python}, {os.cpu_count()} CPUs, {options.rounds} rounds\n")
    print("| | ratio | lowest to highest | with the hook, ms | without, ms |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pair = pairs.create(folder, venvs.build_wheels(folder / "built"))
        for name in options.programs or PROGRAMS:
            times = compare(pair, PROGRAMS[name], options.rounds, folder)
            ratios = [hooked / plain for hooked, plain in times]
            medians = [statistics.median(column) * 1e3 for column in zip(*times, strict=True)]
            print(
                f"| {name} | {statistics.median(ratios):.3f} | {min(ratios):.2f} to {max(ratios):.2f} "
                f"| {medians[0]:,.0f} | {medians[1]:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

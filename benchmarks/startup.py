"""Time an interpreter's start with the hook installed and without, in pairs, and print the ratios.

    python -m benchmarks.startup [--rounds N] [PYTHON]

Two fresh virtual environments of PYTHON, by default the running one; which is first alternates. Needs pytest, for what
it shares with the tests.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Table
from tests.autopatch import venvs
from tests.autopatch.venvs import Venv

PROGRAMS = ("pass", "import asyncio")


def timed(venv: Venv, code: str, environment: dict[str, str]) -> float:
    """Return the milliseconds that a program takes, from its start to its end."""
    begin = time.perf_counter()
    subprocess.run([str(venv.python), "-c", code], env=environment, cwd=venv.root, check=True)
    return (time.perf_counter() - begin) * 1e3


def compare(plain: Venv, hooked: Venv, code: str, rounds: int) -> Table:
    """Time both once a round, after some rounds that are not counted."""
    environment = venvs.clean_environment()
    times: dict[Venv, list[float]] = {plain: [], hooked: []}
    for number in range(rounds + 5):
        for venv in (plain, hooked) if number % 2 else (hooked, plain):
            times[venv].append(timed(venv, code, environment))
    values = {"without the hook": times[plain][5:], "with the hook": times[hooked][5:]}
    return Table(f'python -c "{code}", {rounds} rounds', "ms", values)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("python", nargs="?", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheels = venvs.build_wheels(folder / "built")
        plain = venvs.create(folder / "plain", python=options.python)
        hooked = venvs.create(folder / "hooked", python=options.python)
        venvs.install(hooked, "unirun[autopatch]", find_links=wheels)
        for code in PROGRAMS:
            print(f"\n{compare(plain, hooked, code, options.rounds).markdown()}", flush=True)


if __name__ == "__main__":
    main()

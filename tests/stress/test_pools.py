"""Many pools from many threads on a host that refuses at random: nothing hangs, nothing leaks, nothing is lost."""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from tests.hosts.fixtures import OnHost
from tests.lower import lower
from unirun import host

ROOT = Path(__file__).parents[2]
#: A spawned worker takes 0.1 to 0.2 s of a processor, a fork server's 0.05 s, a forked one 5 ms.
POOLS = {"fork": 300, "forkserver": 150, "spawn": 60}


def why_fork_hangs() -> str:
    """Say why the stdlib's own pools hang here when eight threads fork, if so: a child inherits locks others held."""
    if sys.version_info >= (3, 14) or not host.probe().gil:
        return "the stdlib's own fork pools hang when opened from 8 threads on Python 3.14+ and without a GIL"
    if sys.implementation.name == "pypy":  # it takes the lock of a thread pool's queue, which is written in Python
        return "a worker of the stdlib's own fork pools hangs at its exit when other threads use thread pools on PyPy"
    return ""


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            method,
            marks=pytest.mark.skipif(method == "fork" and bool(why_fork_hangs()), reason=why_fork_hangs()),
        )
        for method in multiprocessing.get_all_start_methods()
    ],
)
def test_pools_under_random_refusals(on_host: OnHost, method: str) -> None:
    outcome = on_host(
        "healthy",
        [sys.executable, str(ROOT / "tests/stress/pools.py"), method, "1", str(POOLS[method])],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=110,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.left_behind == ()
    report = json.loads(outcome.stdout.splitlines()[0])
    assert report["wrong"] == []
    assert report["after"] == report["before"], "something leaked"
    assert sum(report["served"].values()) == POOLS[method] + 1
    rungs = {"processes", "pipes", lower(method)}
    if lower(method) == "threads":  # below interpreters perhaps none of so few pools comes down further
        rungs.add("inline")
    assert rungs <= set(report["served"]), "the refusals did not reach every rung"

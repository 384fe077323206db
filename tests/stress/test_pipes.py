"""The pipes backend under stress: kills, cancel storms, held locks, few descriptors, a thousand pools."""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from tests.hosts.fixtures import OnHost

ROOT = Path(__file__).parents[2]
METHODS = multiprocessing.get_all_start_methods()
pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists what a process has open")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scenario", ["kills", "trips", "cancels", "locks", "descriptors", "many"])
def test_under_stress(on_host: OnHost, scenario: str, method: str) -> None:
    outcome = on_host(
        "healthy",
        [sys.executable, str(ROOT / "tests/stress/pipes.py"), scenario, method, "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=200,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.left_behind == ()
    report = json.loads(outcome.stdout.splitlines()[-1])
    assert report.pop("ok"), report
    assert not any(report.values()), report

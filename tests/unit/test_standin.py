"""Without `_multiprocessing`, as on Pyodide: every name is there, and process pools run in threads or inline."""

import os
import subprocess
import sys
from pathlib import Path

import unirun
from tests.lower import lower

PROGRAM = """
import os, sys, warnings
for name in ("_multiprocessing", "_posixshmem"):
    sys.modules[name] = None  # as if this Python had been built without
del os.fork
warnings.simplefilter("ignore", RuntimeWarning)
from unirun.compat.concurrent import futures
from unirun.compat.concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
import unirun

assert futures.ProcessPoolExecutor is ProcessPoolExecutor
names = {}
exec("from unirun.compat.concurrent.futures.process import *", names)
assert names["ProcessPoolExecutor"] is ProcessPoolExecutor and names["BrokenProcessPool"] is BrokenProcessPool
with ProcessPoolExecutor(2) as pool:
    mine = [3, 1, 2]
    assert pool.submit(sorted, mine).result() == [1, 2, 3]
    assert list(pool.map(pow, [1, 2, 3], [2, 2, 2], chunksize=2)) == [1, 4, 9]
    assert pool.decision.backend == os.environ["LOWER"]
    refused = [(each.backend, each.stage, each.error) for each in pool.decision.refused]
    assert refused == [(rung, "import", "ModuleNotFoundError") for rung in ("processes", "pipes")], refused
for wrong, error in (({"max_workers": 0}, ValueError), ({"initializer": 3}, TypeError)):
    try:
        ProcessPoolExecutor(**wrong)
    except error:
        continue
    raise AssertionError(wrong)
def fail(): raise ValueError
with ProcessPoolExecutor(1, initializer=fail) as pool:
    assert type(pool.submit(abs, 1).exception()) is BrokenProcessPool
with unirun.Run(flavor="processes") as executor:
    assert list(unirun.map(executor, abs, [-1])) == [1]
print("right")
"""


def test_python_without_multiprocessing() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(unirun.__file__).parents[1]), "LOWER": lower()},
    )
    assert answer.stdout == "right\n", answer.stderr

"""Says which pool classes a child of `python -m test` ended with; a startup file of its own loads it.

CPython's tests pass without the hook too. That it was on in the very process that ran them, whatever options that was
started with, is only to be seen there.
"""

import atexit
import json
import os
import sys

POOLS = {"concurrent.futures.process": "ProcessPoolExecutor", "concurrent.futures.thread": "ThreadPoolExecutor"}
#: Where to write, a line per process.
FILE = os.environ.get("POOL_WITNESS", "")


def tell() -> None:
    """Append the modules of the classes that stand in the stdlib's, and what file of tests this process ran."""
    if os.path.basename(sys.argv[0]) != "worker.py":  # some other process, which a test started
        return
    homes = {
        name: getattr(vars(sys.modules[module]).get(name), "__module__", None)
        for module, name in POOLS.items()
        if module in sys.modules
    }
    if homes:
        with open(FILE, "a") as file:
            file.write(json.dumps([sys.argv, homes]) + "\n")


if FILE:
    atexit.register(tell)

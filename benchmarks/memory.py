"""Peak memory of a program and of its workers while 1 GB of arrays goes through a pool, in an interpreter of its own.

    python -m benchmarks.memory PEER METHOD

prints both in MB, as JSON. What is read is the high-water mark that Linux keeps for each address space: the one of
`getrusage` survives an exec, so that a worker which was spawned would begin with its parent's.
"""

import json
import multiprocessing
import os
import sys

from benchmarks.jobs import same
from benchmarks.peers import PEERS, WORKERS

__all__ = ["arrays_through", "peak"]

#: Arrays that are on their way at once,
_AT_ONCE = 4
#: and how often: 128 arrays of 8 MB in all.
_TIMES = 32


def peak(_: object = None) -> tuple[int, float]:
    """Return this process's id and the most memory that it had so far, in MB."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return os.getpid(), int(line.split()[1]) / 1000


def arrays_through(name: str, method: str) -> dict[str, float]:
    """Send the arrays through a peer's pool and back; return the peaks of the parent and of its largest worker."""
    import numpy

    with PEERS[name](multiprocessing.get_context(method)) as peer:
        for number in range(_TIMES):
            arrays = [numpy.full(1_000_000, float(number)) for _ in range(_AT_ONCE)]
            for result in peer.many(same, arrays):
                assert result[-1] == number
            del arrays, result
        parent = peak()[1]
        workers: dict[int, float] = {}
        while len(workers) < WORKERS:
            workers.update(peer.many(peak, [None] * 50))
    return {"parent": parent, "worker": max(workers.values())}


if __name__ == "__main__":
    print(json.dumps(arrays_through(*sys.argv[1:])))

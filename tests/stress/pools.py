"""Pools opened, used and closed from 8 threads at once while the host refuses at random.

    pools.py METHOD SEED POOLS

Refusals are injected below the stdlib, where the system would refuse: os.fork, the spawning of programs, semaphores,
threads. Prints one JSON object with what was counted, then LAST LINE.
"""

import _multiprocessing  # type: ignore[import-not-found]

# `traceback` imports it when it first formats one. A child that is forked while another thread does so waits for ever
# for the lock of that module when it has an error to format: the stdlib's workers as well as ours.
import ast  # noqa: F401
import collections
import errno
import gc
import json
import multiprocessing
import os
import random
import sys
import threading
import warnings
from concurrent.futures import wait
from multiprocessing import util
from typing import Any

from tests.tasks import square
from unirun import reset
from unirun.process import ProcessPoolExecutor

METHOD, SEED, POOLS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
THREADS = 8
dice = random.Random(SEED)
refusing = threading.Event()
parent = os.getpid()


def refuse(likelihood: float) -> bool:
    return refusing.is_set() and os.getpid() == parent and dice.random() < likelihood


real_fork, real_spawn, real_start = os.fork, util.spawnv_passfds, threading.Thread.start
RealSemLock = _multiprocessing.SemLock


def fork() -> int:
    if refuse(0.15):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return real_fork()


def spawn(*args: object) -> int:
    if refuse(0.15):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return real_spawn(*args)  # type: ignore[arg-type]


class SemLock(RealSemLock):  # type: ignore[misc, valid-type]
    def __new__(cls, *args: object) -> "SemLock":
        if refuse(0.04):
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().__new__(cls, *args)  # type: ignore[no-any-return]


def start(thread: threading.Thread) -> None:
    # The threads of this program itself are not refused.
    if not thread.name.startswith("stress") and refuse(0.4):
        raise RuntimeError("can't start new thread")
    real_start(thread)


def forget_ended_threads() -> None:
    """Replace threading's tables of threads by copies.

    PyPy's dicts keep what was deleted from them alive in slots that were not used since: here the manager threads of
    some pools, and with them the pipes of their workers. The stdlib's own pools leave as many open.
    """
    tables: Any = threading
    with tables._active_limbo_lock:
        tables._active, tables._limbo = dict(tables._active), dict(tables._limbo)


def count() -> dict[str, int]:
    if sys.implementation.name == "pypy":
        forget_ended_threads()
        gc.collect()  # PyPy collects step by step: what a finalizer let go of comes next
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(multiprocessing.active_children()),
    }


def use(number: int, served: "collections.Counter[str]", wrong: list[str]) -> None:
    with ProcessPoolExecutor(1 + number % 3, mp_context=multiprocessing.get_context(METHOD)) as pool:
        futures = [pool.submit(square, n) for n in range(5)]
        futures += [pool.submit(square, None)]  # type: ignore[arg-type]
        done, pending = wait(futures, timeout=60)
        if pending:
            wrong.append(f"{len(pending)} futures unresolved: {pool.decision.render()}")
        if [f.result() for f in futures[:5] if f in done] != [0, 1, 4, 9, 16]:
            wrong.append("results")
        if not isinstance(futures[5].exception(0), TypeError):
            wrong.append("exception")
    served[pool.decision.backend or "nothing"] += 1


def work(numbers: list[int], served: "collections.Counter[str]", wrong: list[str]) -> None:
    while numbers:
        try:
            number = numbers.pop()
        except IndexError:
            return
        try:
            use(number, served, wrong)
        except BaseException as error:
            wrong.append(repr(error))


def main() -> None:
    warnings.simplefilter("ignore")
    os.fork, util.spawnv_passfds, threading.Thread.start = fork, spawn, start  # type: ignore[assignment, method-assign]
    _multiprocessing.SemLock = SemLock
    served: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    use(0, served, wrong)  # starts what stays: the resource tracker, the fork server
    before = count()
    refusing.set()
    numbers = list(range(POOLS))
    threads = [threading.Thread(target=work, args=(numbers, served, wrong), name=f"stress-{n}") for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refusing.clear()
    reset()
    print(json.dumps({"before": before, "after": count(), "served": served, "wrong": wrong}))
    print("LAST LINE", flush=True)


if __name__ == "__main__":
    main()

"""The pipes backend under stress, in a program of its own: ``pipes.py SCENARIO METHOD SEED``; prints what it saw."""

import gc
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

from tests.pipes import jobs
from unirun.backends.pipes.pool import PipePool, open_pipes

PATIENCE = 60.0


def often(method: str, times: int) -> int:
    """Return how often to do something that starts workers: one that is not forked takes 0.1 s and more."""
    return times if method == "fork" else times // 5


def opened(method: str, workers: int = 2) -> PipePool:
    return open_pipes(workers, multiprocessing.get_context(method))


def kills(method: str, seed: int) -> dict[str, Any]:
    """Kill random workers in the middle of a task, while thousands run: each kill costs that task and no other."""
    chance = random.Random(seed)
    journal = tempfile.mkdtemp(prefix="unirun-kills-")
    resolved: Counter[int] = Counter()
    stop = threading.Event()
    killed = 0

    def kill() -> None:
        nonlocal killed
        done = 0
        while not stop.wait(chance.uniform(0.001, 0.01)):
            if len(resolved) == done:
                continue  # workers that come up one after the other and are killed at once would break the pool
            for pid in chance.sample(sorted(pool.processes), k=min(1, len(pool.processes))):
                busy = False
                try:
                    os.kill(pid, signal.SIGSTOP)
                    try:
                        while state(pid) != "T":
                            time.sleep(0.0001)
                        busy = in_a_task(journal, pid)
                    finally:
                        os.kill(pid, signal.SIGKILL if busy else signal.SIGCONT)
                except (FileNotFoundError, ProcessLookupError):
                    continue
                killed += busy
                done = len(resolved) if busy else done

    pool = opened(method, 3)
    killer = threading.Thread(target=kill)
    killer.start()
    futures: list[Future[Any]] = []
    late: set[Future[Any]] = set()
    end = time.monotonic() + PATIENCE
    while not futures or (killed <= 5 and not late and time.monotonic() < end):  # on a slow host more than once
        for number in range(len(futures), len(futures) + often(method, 5000)):
            future = pool.submit(jobs.span, journal, str(number), chance.choice([0, 0, 0, 0.001, 0.004]))
            future.add_done_callback(lambda _, number=number: resolved.update([number]))  # type: ignore[misc]
            futures.append(future)
        late = wait(futures, PATIENCE).not_done
    stop.set()
    killer.join()
    pool.shutdown()
    ran = Counter(word for name in os.listdir(journal) for how, word in noted(journal, name) if how == "begin")
    shutil.rmtree(journal)
    failed = [number for number, future in enumerate(futures) if future.exception(0) is not None]
    kinds = {type(futures[number].exception(0)).__name__ for number in failed}
    tasks = len(futures)
    succeeded = tasks - len(failed)
    return {
        "unresolved": len(late),
        "resolved more than once": [number for number, count in resolved.items() if count > 1],
        "ran more than once": [number for number, count in ran.items() if count > 1],
        "succeeded without having run": sum(1 for n in range(tasks) if n not in failed and str(n) not in ran),
        "failed in another way": sorted(kinds - {"BrokenProcessPool"}),
        "failures that no kill explains": len(failed) - killed,
        "ok": succeeded > tasks * 0.8 and killed > 5,
    }


def state(pid: int) -> str:
    """Return the state of a process as /proc has it: ``T`` for stopped."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2][0]


def in_a_task(journal: str, pid: int) -> bool:
    """Tell whether a worker that is stopped has begun a task and not ended it, by what it wrote down itself."""
    return next((how == "begin" for how, _ in reversed(noted(journal, str(pid)))), False)


def noted(journal: str, name: str) -> list[tuple[str, str]]:
    """Return what a worker wrote down: ``begin`` or ``end``, and of which task. Of a line, all or nothing."""
    try:
        with open(os.path.join(journal, name)) as file:
            lines = [line.split() for line in file if line.endswith("\n")]
    except FileNotFoundError:  # it has begun no task
        return []
    return [(how, word) for how, word in lines]


def cancels(method: str, seed: int) -> dict[str, Any]:
    """Threads cancel whatever they can while others submit and one shuts down."""
    chance = random.Random(seed)
    wrong: list[str] = []
    for _ in range(often(method, 20)):
        pool = opened(method)
        futures: list[Future[Any]] = []

        def submit(pool: PipePool = pool, futures: list[Future[Any]] = futures) -> None:
            try:
                for number in range(300):
                    futures += [pool.submit(jobs.square, number)]
            except RuntimeError:
                pass  # it was shut down

        def cancel(futures: list[Future[Any]] = futures) -> None:
            for _ in range(300):
                for future in list(futures)[-3:]:
                    future.cancel()

        threads = [threading.Thread(target=work) for work in (submit, submit, cancel, cancel)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0, 0.01))
        enders = [threading.Thread(target=pool.shutdown, args=(bool(n % 2),)) for n in range(3)]
        for thread in enders:
            thread.start()
        pool.shutdown(wait=True, cancel_futures=chance.random() < 0.5)
        for thread in threads + enders:
            thread.join(PATIENCE)
        wrong += [repr(future) for future in futures if not future.done()]
        wrong += [repr(future) for future in futures if not future.cancelled() and future.exception() is not None]
    return {"wrong": wrong, "ok": True}


def locks(method: str, seed: int) -> dict[str, Any]:
    """Workers are started while other threads hold the locks of logging's handlers.

    Not a handler with a file: in a forked child nothing frees the lock of a file's buffer, in any pool.
    """
    stop = threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.0005)

    logging.basicConfig(handlers=[Slow()], level=logging.INFO)

    def log() -> None:
        while not stop.is_set():
            logging.getLogger("noise").info("x" * 200)

    threads = [threading.Thread(target=log) for _ in range(3)]
    for thread in threads:
        thread.start()
    wrong: list[str] = []
    for number in range(often(method, 40)):
        with opened(method) as pool:
            future = pool.submit(jobs.log, logging.INFO, str(number))
            try:
                future.result(PATIENCE)
            except Exception as error:
                wrong.append(repr(error))
    stop.set()
    for thread in threads:
        thread.join()
    return {"wrong": wrong, "ok": True}


def trips(method: str, seed: int) -> dict[str, Any]:
    """Threads wait for one result after the other, each hearing the worker by itself, while workers are killed."""
    chance = random.Random(seed)
    stop = threading.Event()
    outcomes: list[str] = []  # which threads may append to at once; they must not count in one dictionary
    served: dict[int, int] = {}  # the workers that have run a task
    killed: list[int] = []

    def travel(chance: random.Random) -> None:
        for number in range(often(method, 5000) // 5):
            future = pool.submit(jobs.square_and_pid, number)
            if chance.random() < 0.1:
                future.cancel()
            try:
                square, pid = future.result(PATIENCE)
                served[pid] = number
                outcomes.append("right" if square == number * number else "a wrong result")
            except (CancelledError, BrokenProcessPool) as error:
                outcomes.append(type(error).__name__)
            except BaseException as error:
                outcomes.append(repr(error))

    def kill() -> None:
        done = 0
        while not stop.wait(chance.uniform(0.01, 0.1)):
            # Workers that are killed as they come up would break the pool.
            up = [pid for pid in sorted(pool.processes) if pid in served]
            if len(outcomes) == done or not up:
                continue
            done = len(outcomes)
            killed.append(chance.choice(up))
            with suppress(ProcessLookupError):
                os.kill(killed[-1], signal.SIGKILL)

    pool = opened(method, 3)
    threads = [threading.Thread(target=travel, args=(random.Random(n),)) for n in range(5)]
    killer = threading.Thread(target=kill)
    for thread in (*threads, killer):
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    stop.set()
    killer.join()
    alive = [thread.name for thread in threads if thread.is_alive()]
    pool.shutdown(wait=not alive)
    counts = Counter(outcomes)
    return {
        "wrong": sorted(set(counts) - {"right", "CancelledError", "BrokenProcessPool"}),
        "still waiting": alive,
        "lost": len(threads) * (often(method, 5000) // 5) - len(outcomes),
        "ok": counts["right"] > len(outcomes) * 0.8 and counts["BrokenProcessPool"] <= len(killed),
    }


def descriptors(method: str, seed: int) -> dict[str, Any]:
    """With 64 descriptors, or a few less, a pool starts as many workers as it can, and all tasks are done."""
    # It depends on the number which of the calls is the first that finds none.
    with opened(method) as pool:  # what is started once for all pools
        pool.submit(jobs.square, 1).result(PATIENCE)
    wrong: list[str] = []
    fewest, most, leaked = 40, 0, 0
    for limit in range(64, 58, -1 if method == "fork" else -2):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        before = count()
        with opened(method, 40) as pool:
            futures = [pool.submit(jobs.sleep, 0.01) for _ in range(200)]
            wrong += [repr(f.exception(PATIENCE)) for f in futures if f.exception(PATIENCE) is not None]
            workers = len(pool.processes)
        with opened(method, 1) as pool:  # what helps a start method has not died of it
            pool.submit(jobs.square, 1).result(PATIENCE)
        del pool
        gc.collect()  # PyPy closes only then what nobody refers to
        fewest, most, leaked = min(fewest, workers), max(most, workers), max(leaked, count() - before)
    return {"wrong": wrong, "leaked": leaked, "ok": 2 <= fewest <= most < 40}


def many(method: str, seed: int) -> dict[str, Any]:
    """One pool after the other, some of them crashed or forgotten: nothing grows."""
    rounds = 1000 if method == "fork" else 40

    def use(number: int) -> None:
        pool = opened(method, 1)
        if number % 10 == 0:
            assert type(pool.submit(jobs.crash, "exit").exception(PATIENCE)) is BrokenProcessPool
        else:
            assert pool.submit(jobs.square, 3).result(PATIENCE) == 9
        if number % 3:
            pool.shutdown()

    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # last words of the crashed
    for number in range(rounds // 5):
        use(number)
    before = measured()
    for number in range(rounds):
        use(number)
    after = measured()
    os.dup2(kept, 2)
    return {
        "more threads": max(0, after[0] - before[0]),
        "more descriptors": max(0, after[1] - before[1]),
        "more children": max(0, after[2] - before[2]),
        "more MB": max(0, (after[3] - before[3]) // 1024 - 10),
        "ok": True,
    }


def count() -> int:
    return len(os.listdir("/proc/self/fd"))


def measured() -> tuple[int, int, int, int]:
    end = time.monotonic() + 10
    gc.collect()
    while threading.active_count() > 1 and time.monotonic() < end:
        time.sleep(0.01)
        gc.collect()
    children = len(multiprocessing.active_children())
    return threading.active_count(), count(), children, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))

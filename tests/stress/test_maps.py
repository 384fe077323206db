"""Maps under stress: many at once, closed early, shut down on the way, their workers killed. All of it is bounded."""

import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, Executor
from contextlib import suppress
from typing import Any

import pytest

import unirun
from tests.conformance.columns import FORKING
from tests.stress.maps import Number, square_slowly
from unirun import Run, RuntimeConfig
from unirun.compat.concurrent import futures

pytestmark = [FORKING, pytest.mark.timeout(120)]
PATIENCE = 60.0


def opened(kind: str) -> Any:
    if kind == "compat":
        return futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
    ladder = ("pipes",) if kind == "pipes" else ("threads",)
    config = RuntimeConfig(start_method="fork", ladder=ladder, downgrade="silent")
    return Run(flavor="processes", max_workers=2, config=config).__enter__()


def slow_to_pickle(count: int) -> list[Number]:
    return [Number(number) for number in range(count)]


def expected(count: int) -> list[int]:
    return [number * number for number in range(count)]


@pytest.mark.parametrize("kind", ["compat", "pipes", "threads"])
@pytest.mark.parametrize("seed", range(3))
def test_random_maps_of_several_threads(kind: str, seed: int) -> None:
    """Some are read to the end, some are closed, some forgotten; others submit meanwhile. Then the pool ends."""
    pool: Executor = opened(kind)
    wrong: list[object] = []

    def use(number: int) -> None:
        dice = random.Random(100 * seed + number)
        try:
            for _ in range(12):
                count = dice.choice([0, 1, 2, 7, 100, 3000])
                make: Any = dice.choice([range, lambda count: iter(range(count)), slow_to_pickle])
                source: Any = make(count)
                if dice.random() < 0.5:
                    results: Any = pool.map(square_slowly, source)
                else:
                    results = unirun.map(pool, square_slowly, source)
                what = dice.choice(["all", "some", "none", "submit"])
                if what == "all" and list(results) != expected(count):
                    wrong.append((number, count))
                if what == "some":
                    if list(itertools.islice(results, count // 2)) != expected(count // 2):
                        wrong.append((number, count, "half"))
                    results.close()
                if what == "submit" and pool.submit(square_slowly, 7).result(PATIENCE) != 49:
                    wrong.append((number, "submit"))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    pool.shutdown(wait=True)
    assert not wrong


@pytest.mark.parametrize("kind", ["compat", "pipes", "threads"])
def test_shutdown_at_any_moment(kind: str) -> None:
    """With and without waiting, cancelling or not: what is delivered is right, and nobody waits for ever."""
    for turn in range(24):
        pool: Executor = opened(kind)
        results = pool.map(square_slowly, range(4000))
        wait, cancel = turn % 2 == 0, turn % 4 < 2
        ender = threading.Thread(target=pool.shutdown, args=(wait,), kwargs={"cancel_futures": cancel})
        time.sleep(0.0005 * turn)
        ender.start()
        seen: list[int] = []
        with suppress(CancelledError):
            seen.extend(results)
        ender.join(PATIENCE)
        assert not ender.is_alive()
        assert seen == expected(len(seen))
        assert cancel or len(seen) == 4000
        pool.shutdown(wait=True)


@pytest.mark.parametrize("kind", ["compat", "pipes"])
def test_workers_killed_on_the_way(kind: str) -> None:
    """What is delivered before the error is right; later maps over pipes find workers again."""
    for turn in range(15):
        pool: Any = opened(kind)
        pool.submit(square_slowly, 1).result(PATIENCE)
        results = pool.map(square_slowly, range(4000), timeout=PATIENCE)
        time.sleep(0.0007 * turn)
        for pid in list(pool._processes)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        seen: list[int] = []
        with suppress(BrokenExecutor):
            seen.extend(results)
        assert seen == expected(len(seen))
        if kind == "pipes":
            assert list(pool.map(square_slowly, range(100), timeout=PATIENCE)) == expected(100)
        pool.shutdown(wait=True)

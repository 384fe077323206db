"""Scopes under stress: many at once over few warm pools, each ended in another way. All of it is bounded."""

import multiprocessing
import os
import random
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import suppress
from typing import Any

import pytest

import unirun
from tests.conformance.columns import FORKING
from tests.tasks import square
from unirun import Run, RuntimeConfig
from unirun.backends.pipes import shelf

pytestmark = [FORKING, pytest.mark.timeout(120)]
PATIENCE = 60.0
METHODS = [method for method in ("fork", "forkserver") if method in multiprocessing.get_all_start_methods()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_random_scopes_of_several_threads(method: Any, seed: int) -> None:
    """What one does to its tasks, its executor or its workers is never another one's business."""
    wrong: list[object] = []
    left: list[Any] = []
    config = RuntimeConfig(start_method=method, reuse=True)

    def use(number: int) -> None:
        dice = random.Random(100 * seed + number)
        try:
            for _ in range(15):
                spoilt = one_scope(dice, config, left)
                if spoilt is not None:
                    wrong.append(spoilt)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not wrong
    assert len(shelf._shelf) <= shelf._MOST
    unirun.reset()
    assert not multiprocessing.active_children()


def one_scope(dice: random.Random, config: RuntimeConfig, left: list[Any]) -> object:
    """Open a scope and end it in some way; return what was wrong, or ``None``."""
    way = dice.choice(["leave", "leave", "leave", "cancel", "shutdown", "kill", "reset"])
    futures: list[Future[int]] = []
    told: list[Future[int]] = []
    with Run(flavor="processes", max_workers=2, config=config) as executor:
        for number in range(dice.choice([1, 5, 200])):
            futures.append(executor.submit(square, number))
            futures[-1].add_done_callback(told.append)
        if left:
            meddle(dice, dice.choice(left))
        if way == "cancel":
            executor.shutdown(wait=False, cancel_futures=True)
        elif way == "shutdown":
            executor.shutdown(wait=False)
        elif way == "reset":
            unirun.reset()
        elif way == "kill":
            kill_workers(executor)
    left.append(executor)
    if len(told) != len(futures):
        return way, "callbacks", len(told), len(futures)
    for number, future in enumerate(futures):
        try:
            if future.result(0) != number * number:
                return way, number, future.result(0)
        except CancelledError:
            if way != "cancel":
                return way, number, "was cancelled"
        except BrokenExecutor as error:
            if way != "kill":
                return way, number, error
    return None


def kill_workers(executor: Any) -> None:
    """Kill them, and wait until the pool knows it: it does not promise to the next one what only the kernel knows."""
    killed = list(executor._processes)
    for process in killed:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while not executor._processes.keys().isdisjoint(killed):
        assert time.monotonic() < end
        time.sleep(0.001)


def meddle(dice: random.Random, executor: Any) -> None:
    """Use an executor that has left its scope."""
    what = dice.choice(["submit", "shutdown", "kill_workers", "processes"])
    if what == "submit":
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(square, 1)
    elif what == "shutdown":
        executor.shutdown(cancel_futures=True)
    elif what == "processes":
        assert not executor._processes
    elif hasattr(executor, what):
        executor.kill_workers()

"""The cached pools, where a callback, a log handler, another thread or Ctrl-C comes in the middle of what they do."""

import gc
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import unirun
from tests.conformance.columns import FORKING
from tests.tasks import square
from tests.unit.moments import PATIENCE, called_before, in_time, interrupted_before, until
from unirun import DecisionTrace, DowngradeError, configure, leases, offloop, pools, trace
from unirun.compat.concurrent.futures import BrokenExecutor

STDLIB = [
    FORKING,
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="these workers are forked"),
]


def nap_and_die(number: int = 0) -> int:
    time.sleep(0.1)
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def block_and_die(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def use_stdlib_pool() -> None:
    configure(ladder=("processes",), start_method="fork", force_process=True, max_workers=1)


def submit_again(_: Future[int]) -> Any:
    return unirun.submit(square, 5)


def reset(_: Future[int]) -> None:
    unirun.reset()


class TestAWorkerDies:
    """The stdlib's pool fails its futures with the lock held that its submit needs, from 3.12 on."""

    pytestmark = STDLIB

    @pytest.mark.parametrize("call", [submit_again, reset])
    def test_a_callback_calls_us(self, call: Callable[[Future[int]], Any]) -> None:
        use_stdlib_pool()
        called: list[Any] = []
        failed = unirun.submit(nap_and_die, 3)
        second = unirun.submit(square, 2)
        failed.add_done_callback(lambda future: called.append(call(future)))
        with pytest.raises(BrokenExecutor):
            second.result(PATIENCE)
        until(lambda: bool(called))
        assert call is reset or called[0].result(PATIENCE) == 25
        assert in_time(lambda: unirun.submit(square, 3).result()) == 9
        in_time(unirun.reset)
        until(lambda: not multiprocessing.active_children())

    def test_a_map_goes_on(self) -> None:
        """What it had not sent goes to a new pool; the caller hears of the item."""
        use_stdlib_pool()
        results = unirun.map(nap_and_die, range(100), buffersize=10)
        (entry,) = leases._leases.values()
        thread = entry.pool._executor_manager_thread  # type: ignore[attr-defined]
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(BrokenExecutor):
            in_time(lambda: next(results))
        assert in_time(lambda: unirun.submit(square, 3).result()) == 9
        until(lambda: not thread.is_alive())  # it fails other items, and for each the map may open a pool

    def test_nobody_holds_the_pool_any_more(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor does its own thread let go of it there: on 3.12 and 3.13 that takes the same lock."""
        use_stdlib_pool()
        failed = unirun.submit(block_and_die, str(tmp_path / "gate"))
        (entry,) = leases._leases.values()
        thread, collected = entry.pool._executor_manager_thread, weakref.ref(entry.pool)  # type: ignore[attr-defined]
        until(failed.running)  # or it is cancelled

        def interrupt(**_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(entry.pool, "shutdown", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unirun.reset()
        monkeypatch.undo()
        del entry
        gc.collect()
        (tmp_path / "gate").touch()
        with pytest.raises(BrokenExecutor):
            failed.result(PATIENCE)
        until(lambda: not thread.is_alive())

        def is_gone() -> bool:
            gc.collect()
            return collected() is None

        until(is_gone)


def test_a_stale_pool_is_ended_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a pool may wait for one of its threads, and that one for the cache."""
    configure(ladder=("threads",), max_workers=1)
    assert unirun.submit(square, 2).result(PATIENCE) == 4
    (entry,) = leases._leases.values()
    used: list[int] = []
    shutdown = entry.pool.shutdown

    def use(wait: bool = True, *, cancel_futures: bool = False) -> None:
        if not used:
            used.append(0)
            used[0] = in_time(lambda: unirun.submit(square, 3).result())
        shutdown(wait, cancel_futures=cancel_futures)

    monkeypatch.setattr(leases, "_is_stale", lambda each: each is entry)
    monkeypatch.setattr(entry.pool, "shutdown", use)
    assert unirun.submit(square, 4).result(PATIENCE) == 16
    assert used == [9]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: leases.submit("interpreters", "submit", None, square, 2),
        lambda: leases.find("interpreters", "map", None),
    ],
)
def test_who_is_told_may_use_another_thread(ask: Callable[[], object]) -> None:
    """As a log handler that sends its records: also where nothing could be opened."""
    heard: list[DecisionTrace] = []

    def listen(decision: DecisionTrace) -> None:
        heard.append(decision)
        if len(heard) == 1:
            in_time(lambda: unirun.submit(square, 3).result())

    # Which interpreters cannot: another rung would have to serve.
    configure(force_process=False, cpu_bound=False, downgrade="error", isolation="share")
    trace.add_listener(listen)
    try:
        with pytest.raises(DowngradeError):
            ask()
    finally:
        trace.remove_listener(listen)
    assert [decision.backend for decision in heard] == [None, "threads"]


def test_reset_cancels_what_waits_in_each_pool_before_it_waits_for_one() -> None:
    """A task of one pool may wait for one of another, that never begins then."""
    gate = threading.Event()
    configure(ladder=("threads",), max_workers=1)
    running = unirun.submit(gate.wait)
    until(running.running)
    queued = unirun.submit(square, 5)

    def wait() -> None:
        try:
            queued.result()
        finally:
            gate.set()

    configure(ladder=("threads",), max_workers=2)
    waiting = unirun.submit(wait)
    until(waiting.running)
    in_time(unirun.reset)
    assert queued.cancelled()
    assert running.result(PATIENCE)
    assert waiting.done()


def test_an_idle_pool_that_does_not_end_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose worker has a thread left that goes on."""
    monkeypatch.setattr(leases, "IDLE_SECONDS", 0.2)
    gate = threading.Event()
    for workers in (1, 2):
        configure(ladder=("threads",), max_workers=workers)
        assert unirun.submit(square, 2).result(PATIENCE) == 4
    for entry in leases._leases.values():

        def wait_for_ever(wait: bool = True, shutdown: Any = entry.pool.shutdown, **more: Any) -> None:
            if wait:
                gate.wait(PATIENCE)
            shutdown(wait=wait, **more)

        monkeypatch.setattr(entry.pool, "shutdown", wait_for_ever)
    until(lambda: not leases.cached())
    assert unirun.submit(square, 3).result(PATIENCE) == 9
    until(lambda: not leases.cached())


def test_reset_cancels_the_last_task_first() -> None:
    """Else the next one begins while those before it are told."""
    gate, order = threading.Event(), []
    configure(ladder=("threads",), max_workers=1)
    until(unirun.submit(gate.wait).running)
    for number in range(10):
        unirun.submit(square, number).add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
    opener = threading.Timer(0.1, gate.set)
    opener.start()
    unirun.reset()
    opener.join()
    assert order == list(range(10))[::-1]


@pytest.mark.parametrize(
    ("function", "step"), [(leases._find, "for each in stale"), (leases._submit, "future = entry.pool.submit")]
)
def test_a_pool_that_was_found_is_not_in_use_for_ever(function: Callable[..., Any], step: str) -> None:
    """Ctrl-C came before it was given the task: it can become stale, or idle."""
    configure(ladder=("threads",), max_workers=1)
    assert unirun.submit(square, 2).result(PATIENCE) == 4
    (entry,) = leases._leases.values()
    until(lambda: not entry.users)
    with interrupted_before(function, step):
        unirun.submit(square, 3)
    assert not entry.users
    assert unirun.submit(square, 4).result(PATIENCE) == 16


@pytest.mark.parametrize(
    ("function", "step"), [(leases.start, "off_loop(partial("), (offloop.off_loop, "threading.Thread(target=_run")]
)
def test_who_waits_for_a_start_that_was_interrupted(function: Callable[..., Any], step: str) -> None:
    configure(ladder=("pipes",), start_method="spawn", max_workers=1)

    def start() -> Any:
        return leases.start("processes", "to_process", None, partial(square, 2))

    waiting: list[Any] = []

    def interrupt() -> None:
        waiting.append(start())
        raise KeyboardInterrupt

    with called_before(function, step, interrupt), pytest.raises(KeyboardInterrupt):
        start()
    assert waiting[0].result(PATIENCE) is None
    again = start()
    assert again is None or again.result(PATIENCE).result(PATIENCE) is None
    assert leases.submit("processes", "to_process", None, square, 3).result(PATIENCE) == 9


@pytest.mark.parametrize("step", ["entries, broken =", "_leases.clear()", "for future in", "for pool in"])
def test_the_handler_of_a_signal_submits_in_the_middle_of_reset(step: str) -> None:
    configure(ladder=("threads",), max_workers=1)
    gate, late = threading.Event(), []
    held = [unirun.submit(gate.wait) for _ in range(20)]

    def submit() -> None:
        late.append(unirun.submit(square, 3))
        gate.set()

    with called_before(unirun.reset, step, submit):
        unirun.reset()
    assert all(future.done() for future in held)
    assert late[0].cancelled() or late[0].result(PATIENCE) == 9
    unirun.reset()
    assert not leases.cached()


def test_the_handler_of_a_signal_opens_the_pool_that_is_being_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two serves both, and the other one is ended."""
    configure(ladder=("threads",), max_workers=1)
    opened: list[Any] = []

    def open_pool(opening: Any) -> Any:
        opened.append(pools.open_pool(opening))
        return opened[-1]

    monkeypatch.setattr(leases, "open_pool", open_pool)
    late: list[Future[int]] = []
    with called_before(leases._find, "made = _Lease(", lambda: late.append(unirun.submit(square, 3))):
        assert unirun.submit(square, 2).result(PATIENCE) == 4
    assert late[0].result(PATIENCE) == 9
    assert len(opened) == 2
    assert [pool._unirun_closed for pool in opened] == [False, True]


@pytest.mark.parametrize("rung", ["threads", pytest.param("pipes", marks=STDLIB)])
def test_who_is_told_of_a_pool_may_reset(rung: str) -> None:
    """Each time: the task is done or cancelled, or its caller is told that it cannot run."""
    configure(ladder=(rung,), start_method="fork" if rung == "pipes" else None, force_process=rung == "pipes")
    heard: list[DecisionTrace] = []

    def listen(decision: DecisionTrace) -> None:
        heard.append(decision)
        unirun.reset()

    trace.add_listener(listen)
    try:
        if rung == "threads":
            until(unirun.submit(square, 2).done)
        else:
            with pytest.raises(RuntimeError, match="after shutdown"):
                unirun.submit(square, 2)
    finally:
        trace.remove_listener(listen)
    assert len(heard) <= leases._POOLS

"""The futures of the pool over pipes: without a lock of their own for as long as nobody needs it, the stdlib's then."""

import gc
import itertools
import multiprocessing
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    CancelledError,
    Future,
    InvalidStateError,
    wait,
)
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.pipes import jobs
from tests.pipes.stub import deaf
from tests.unit.moments import asked
from unirun.backends.pipes import future as code
from unirun.backends.pipes.future import PipeFuture
from unirun.backends.pipes.pool import open_pipes

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
ROUNDS = 1000 if sys.implementation.name == "cpython" else 300
CPYTHON = pytest.mark.skipif(sys.implementation.name != "cpython", reason="elsewhere each has a lock from the start")


def made() -> PipeFuture:
    return PipeFuture(deaf())


def has_lock(future: Future[Any]) -> bool:
    return "_condition" in vars(future)


@CPYTHON
@FORKING
def test_futures_that_are_read_when_they_are_done_have_no_lock() -> None:
    with open_pipes(2, multiprocessing.get_context("fork")) as pool:
        futures = [pool.submit(jobs.square, number) for number in range(500)]
        failing = pool.submit(jobs.square, "a")
    assert [future.result() for future in futures] == [number * number for number in range(500)]
    assert all(future.done() and future.exception() is None for future in futures)
    assert isinstance(failing.exception(), TypeError)
    assert not any(map(has_lock, [*futures, failing]))
    with pytest.raises(TypeError):
        failing.result()


@CPYTHON
def test_who_needs_the_lock_gets_it_once() -> None:
    for step in itertools.count(1):
        future = made()
        reached, mine, theirs = interrupted_at(step, *[partial(getattr, future, "_condition")] * 2)
        assert mine is theirs.result(PATIENCE), f"before step {step}"
        assert has_lock(future)
        if not reached:
            assert step > 10, "there were no steps to come between"
            return


@CPYTHON
def test_ctrl_c_between_two_lines_leaves_a_future_that_can_be_asked() -> None:
    """As a debugger or a program that measures coverage lets it come."""
    lines = 0
    stop = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != code.__file__:
            return None
        if event == "line" and (lines := lines + 1) == stop:
            raise KeyboardInterrupt
        return trace

    def life(future: PipeFuture) -> None:
        serve(future)
        assert future._condition is not None

    for stop in itertools.count(1):
        future, lines = made(), 0
        try:
            traced(trace, partial(life, future))
        except KeyboardInterrupt:
            pass
        else:
            assert stop > 10, "there were no lines to come between"
            return
        assert asked(future.running).result(PATIENCE) in (True, False), f"after line {stop}"


@CPYTHON
def test_the_collector_does_not_come_between_two_steps() -> None:
    """It runs finalizers, which may ask the very future that is being resolved."""

    class Asking:
        def __init__(self, future: PipeFuture) -> None:
            self.future = future
            self.cycle = self

        def __del__(self) -> None:
            self.future.running()

    def settle_all() -> None:
        futures = [made() for _ in range(100)]
        for future in futures:
            assert future.start()
        spare: list[dict[str, int]] = [{} for _ in range(200)]  # so there are none to use again
        before = gc.get_threshold()
        try:
            for future in futures:
                gc.disable()
                Asking(future)
                gc.set_threshold(1)
                gc.enable()
                future.settle(None, None)
        finally:
            gc.set_threshold(*before)
            gc.enable()
        del spare

    asked(settle_all).result(PATIENCE)


@pytest.mark.parametrize("kind", [list, threading.Condition])
def test_the_class_still_says_what_it_has(kind: type) -> None:
    assert PipeFuture._condition is not None
    assert PipeFuture._waiters is not PipeFuture._done_callbacks
    assert isinstance(made()._waiters if kind is list else made()._condition, kind)


@CPYTHON
def test_whatever_comes_between_two_steps_a_task_is_run_or_cancelled() -> None:
    outcomes = []
    for step in itertools.count(1):
        future = made()
        reached, ran, cancelling = interrupted_at(step, partial(serve, future), future.cancel)
        cancelled = cancelling.result(PATIENCE)
        assert ran is not cancelled, f"before step {step}"
        assert future.cancelled() is cancelled
        assert future.done()
        outcomes.append(ran)
        if not reached:
            break
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert len(outcomes) > 20, "there were no steps to come between"


@CPYTHON
def test_whatever_comes_between_two_steps_is_told_of_the_end_once() -> None:
    for step in itertools.count(1):
        future, told = made(), []  # type: PipeFuture, list[Any]
        add = partial(future.add_done_callback, told.append)
        reached, _, adding = interrupted_at(step, partial(serve, future), add)
        adding.result(PATIENCE)
        assert told == [future], f"before step {step}"
        future = made()
        assert interrupted_at(step, partial(serve, future), future.result)[2].result(PATIENCE) == 42
        first, second = made(), made()
        _, _, waiting = interrupted_at(step, partial(serve, first), partial(wait, [first, second]))
        assert not waiting.done() or not reached, f"before step {step}"  # it waits for the second one, too
        serve(second)
        assert waiting.result(PATIENCE).done == {first, second}
        if not reached:
            return


def test_everybody_hears_of_the_end_once() -> None:
    """Whether they asked before, while or after it was resolved."""
    for turn in range(ROUNDS):
        first, second = made(), made()
        told: list[Any] = []
        when = ALL_COMPLETED if turn % 2 else FIRST_COMPLETED
        *_, ended, result = together(
            partial(serve, first),
            partial(serve, second),
            partial(first.add_done_callback, told.append),
            partial(wait, [first, second], PATIENCE, return_when=when),
            partial(first.result, PATIENCE),
        )
        assert told == [first]
        assert result == 42
        assert ended.done
        assert len(ended.done) == 2 or when == FIRST_COMPLETED


@pytest.mark.parametrize("then", ["cancel", "run"])
def test_a_task_that_is_taken_back_is_pending_again(then: str) -> None:
    future = made()
    assert future.start()
    assert not Future.cancel(future)
    future.unstart()
    assert not future.running()
    assert future.cancel() if then == "cancel" else serve(future)
    assert future.cancelled() is (then == "cancel")


def test_what_the_user_resolves_by_hand_stays_resolved() -> None:
    future = made()
    future.set_result(1)
    with pytest.raises((RuntimeError, InvalidStateError)):
        future.start()
    assert not future.settle(2, None)
    assert future.result() == 1
    running = made()
    assert running.start()
    running.set_exception(KeyError("mine"))
    assert not running.settle(2, None)
    assert isinstance(running.exception(), KeyError)
    cancelled = made()
    assert cancelled.cancel()
    assert not cancelled.start()
    with pytest.raises(CancelledError):
        cancelled.result()


def test_result_waits_no_longer_than_asked() -> None:
    future = made()
    assert future.start()
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        future.result(0.05)
    assert time.monotonic() - begin >= 0.05
    assert future.settle(None, None) is False  # there is a lock now
    future.set_result(None)
    assert future.result(0) is None


def test_cpythons_own_tests_of_futures() -> None:
    pytest.importorskip("test.test_concurrent_futures.test_future", reason="CPython's tests are not here")
    run = subprocess.run(
        [sys.executable, "-m", "tests.cpython.futures"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"Ran (2\d|[3-9]\d) tests", run.stderr), run.stderr


def serve(future: PipeFuture) -> bool:
    """Do what the pool does with a future whose task returns 42; return whether it was to run."""
    if not future.start():
        return False
    if not future.settle(42, None):
        future.set_result(42)
    return True


def interrupted_at(step: int, act: Callable[[], Any], other: Callable[[], Any]) -> tuple[bool, Any, Future[Any]]:
    """Act; before a step of the future's own code let another thread do something, until it waits for this one.

    Returns:
        Whether there is such a step, what ``act`` returned, and the future of what the other thread does.
    """
    steps = 0
    acting: list[Future[Any]] = []

    def begin() -> None:
        acting.append(asked(other))
        wait(acting, 0.01)

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != code.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and (steps := steps + 1) == step:
            begin()
        return trace

    result = traced(trace, act)
    if not (reached := bool(acting)):
        begin()
    return reached, result, acting[0]


def traced(trace: Any, act: Callable[[], Any]) -> Any:
    """Return what ``act`` returns, with a function that traces it."""
    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # before, or Python 3.12 tells of no opcodes the first time
    sys.settrace(trace)
    try:
        return act()
    finally:
        sys.settrace(before)


def together(*functions: Callable[[], Any]) -> list[Any]:
    """Call functions in threads of their own, at the same time as far as can be; return what they return."""
    barrier = threading.Barrier(len(functions))

    def call(function: Callable[[], Any]) -> Any:
        barrier.wait(PATIENCE)
        return function()

    return [each.result(PATIENCE) for each in [asked(partial(call, function)) for function in functions]]


@pytest.fixture(autouse=True)
def hurry() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)

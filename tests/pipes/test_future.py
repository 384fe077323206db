"""The futures of the pool over pipes: without a lock of their own for as long as nobody needs it, the stdlib's then."""

import importlib.util
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
    ThreadPoolExecutor,
    wait,
)
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.pipes import jobs
from tests.pipes.stub import deaf
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
    for _ in range(ROUNDS // 10):
        future = made()
        seen: list[Any] = []
        ask = partial(lambda one, all_seen: all_seen.append(one._condition), future, seen)
        together(ask, ask, ask)
        assert len(set(map(id, seen))) == 1
        assert has_lock(future)


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
        reached, ran, cancelling = interrupted_at(step, future, future.cancel)
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
        reached, _, adding = interrupted_at(step, future, partial(future.add_done_callback, told.append))
        adding.result(PATIENCE)
        assert told == [future], f"before step {step}"
        assert interrupted_at(step, again := made(), again.result)[2].result(PATIENCE) == 42
        first, second = made(), made()
        _, _, waiting = interrupted_at(step, first, partial(wait, [first, second]))
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


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before 3.13 they are in another place")
@pytest.mark.skipif(
    sys.implementation.name != "cpython" or not importlib.util.find_spec("test.libregrtest"),
    reason="this interpreter does not ship CPython's tests",
)
def test_cpythons_own_tests_of_futures() -> None:
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


def interrupted_at(step: int, future: PipeFuture, act: Callable[[], object]) -> tuple[bool, bool, Future[Any]]:
    """Serve a future; before a step of its own code let another thread act, until that waits for this one or is done.

    Returns:
        Whether there is such a step, whether the task was to run, and the future of what the other thread does.
    """
    steps = 0
    acting: Future[Any] = Future()

    def run() -> None:
        try:
            acting.set_result(act())
        except BaseException as error:
            acting.set_exception(error)

    thread = threading.Thread(target=run)

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != code.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == step:
                thread.start()
                thread.join(0.01)
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # before, or Python 3.12 tells of none the first time
    sys.settrace(trace)
    try:
        ran = serve(future)
    finally:
        sys.settrace(before)
    if not (reached := steps >= step):
        thread.start()
    thread.join(0.01)
    return reached, ran, acting


def together(*functions: Callable[[], Any]) -> list[Any]:
    """Call functions in threads of their own, at the same time as far as can be; return what they return."""
    barrier = threading.Barrier(len(functions))

    def call(function: Callable[[], Any]) -> Any:
        barrier.wait(PATIENCE)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return [call.result(PATIENCE) for call in [pool.submit(call, function) for function in functions]]


@pytest.fixture(autouse=True)
def hurry() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)

"""How tests come between two steps of the code, and how they wait for what may never happen."""

import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

__all__ = ["PATIENCE", "asked", "called_before", "in_time", "interrupted_before", "until"]

#: Seconds after which nobody comes any more.
PATIENCE = 30.0


def asked(function: Callable[[], Any]) -> Future[Any]:
    """Call a function in a thread of its own, which keeps nobody from leaving if it does not end."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def in_time(call: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Call a function in another thread, which must come to its end; return what it returns, raise what it raises."""
    return asked(call).result(seconds)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@contextmanager
def called_before(function: Callable[..., Any], text: str, call: Callable[[], object]) -> Iterator[None]:
    """Call something once, before a line of a function, as the handler of a signal would be; that line must come."""
    lines, first = inspect.getsourcelines(function)
    (line,) = [first + number for number, each in enumerate(lines) if text in each]
    came: list[bool] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and frame.f_lineno == line and not came:
            came.append(True)
            call()
        return trace

    traced = sys.gettrace()
    sys.settrace(lambda frame, event, argument: trace if frame.f_code is function.__code__ else None)
    try:
        yield
    finally:
        sys.settrace(traced)
    assert came


@contextmanager
def interrupted_before(function: Callable[..., Any], text: str) -> Iterator[None]:
    """Let Ctrl-C come once, before a line of a function; it must come, and out of the block."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with called_before(function, text, interrupt), pytest.raises(KeyboardInterrupt):
        yield

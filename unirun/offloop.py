"""One blocking call beside an event loop, on a thread of its own, or in place where there are no threads."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, TypeVar

from unirun.refusal import is_refusal

__all__ = ["give_up", "off_loop", "patiently"]

T = TypeVar("T")


def off_loop(call: Callable[[], T], future: "Future[T] | None" = None) -> "Future[T]":
    """Start ``call()`` on a thread that ends with it, and return its future, which cannot be cancelled.

    Not on the loop's default executor: a pool that cannot start one more thread raises and yet runs the call later.
    Where no thread can be started, the call has been made when this returns.

    Args:
        call: What may block.
        future: The future to be used, for which others may wait already.
    """
    if future is None:
        future = Future()
    future.set_running_or_notify_cancel()
    try:
        threading.Thread(target=_run, args=(future, call), name="unirun-off-loop").start()
    except RuntimeError as error:
        if not is_refusal("start", error):
            raise
        _run(future, call)
    return future


def give_up(future: "Future[Any]") -> None:
    """Let nobody wait for a future of ``off_loop``, which was interrupted: perhaps before there was a thread."""
    _tell(partial(future.set_result, None))


def _run(future: "Future[T]", call: Callable[[], T]) -> None:
    try:
        value = call()
    except BaseException as error:
        tell = partial(future.set_exception, error)
    else:
        tell = partial(future.set_result, value)
    _tell(tell)
    del future, tell  # the traceback of an error holds this frame


def _tell(tell: Callable[[], None]) -> None:
    try:
        tell()
    except InvalidStateError:
        pass  # it was given up, or there was a thread after all


async def patiently(future: "Future[T]", hurry: Callable[[], object] = lambda: None) -> T:
    """Await ``future``; if cancelled meanwhile, call ``hurry``, wait for it all the same and then be cancelled."""
    import asyncio  # here: it takes longer than all else that a scope without a loop needs

    waiting = asyncio.wrap_future(future)
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
            hurry()
        except Exception:
            break  # the call's own error: raised below
    if cancelled is not None:
        raise cancelled
    return waiting.result()

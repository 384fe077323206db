"""One blocking call beside an event loop, on a thread of its own, or in place where there are no threads."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from unirun.refusal import is_refusal

__all__ = ["off_loop"]

T = TypeVar("T")


def off_loop(call: Callable[[], T]) -> "Future[T]":
    """Start ``call()`` on a thread that ends with it, and return its future, which cannot be cancelled.

    Not on the loop's default executor: a pool that cannot start one more thread raises and yet runs the call later.
    Where no thread can be started, the call has been made when this returns.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="unirun-off-loop").start()
    except RuntimeError as error:
        if not is_refusal("start", error):
            raise
        run()
    return future


async def patiently(future: "Future[T]") -> T:
    """Await ``future``; if cancelled meanwhile, wait for it all the same and then be cancelled."""
    waiting = asyncio.wrap_future(future)
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:
            break  # the call's own error: raised below
    if cancelled is not None:
        raise cancelled
    return waiting.result()

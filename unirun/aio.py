"""to_process and to_thread: a function in a worker, awaited. The loop is never blocked by a worker that starts."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from unirun import leases
from unirun.caller import Site, caller

__all__ = ["to_process", "to_thread"]

P = ParamSpec("P")
T = TypeVar("T")


def to_process(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
    """Run a function in a worker process and await its result.

    Uses the cached pool of the settings in force (``flavor="processes"``); it stays open for the next call, until
    ``reset``, an idle minute or the exit.

    Args:
        fn: A function that can be pickled.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        A coroutine for the function's result. Cancelling it cancels a task that has not started.

    Raises:
        BrokenProcessPool: A worker ended abruptly.
        DowngradeError: No rung can serve, or downgrades are errors.
        ConfigError: A ``UNIRUN_*`` variable has a value that is not accepted.
        TypeError: ``fn`` is no function; at the call.
        Exception: Whatever ``fn`` raises; of StopIteration a RuntimeError, as out of any coroutine.
    """
    return _result("processes", "to_process", caller(), _task("to_process", fn, args, kwargs))


def to_thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
    """Run a function in a worker thread and await its result, as ``asyncio.to_thread`` does.

    Uses the cached pool of the settings in force (``flavor="threads"``). The function sees the caller's context
    variables.

    Args:
        fn: A function.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        A coroutine for the function's result. Cancelling it cancels a task that has not started.

    Raises:
        DowngradeError: No rung can serve, or downgrades are errors.
        ConfigError: A ``UNIRUN_*`` variable has a value that is not accepted.
        TypeError: ``fn`` is no function; at the call.
        Exception: Whatever ``fn`` raises; of StopIteration a RuntimeError, as out of any coroutine.
    """
    return _in_context("to_thread", caller(), _task("to_thread", fn, args, kwargs))


def _task(origin: str, fn: Callable[..., T], args: Any, kwargs: Any) -> Callable[[], T]:
    if not callable(fn):
        raise TypeError(f"{origin}() takes a function first, not {fn!r}")
    return partial(fn, *args, **kwargs)


async def _in_context(origin: str, site: Site | None, task: Callable[[], T]) -> T:
    return await _result("threads", origin, site, partial(contextvars.copy_context().run, task))


async def _result(flavor: str, origin: str, site: Site | None, task: Callable[[], T]) -> T:
    starting = leases.start(flavor, origin, site, task)
    if starting is not None:
        waiting = asyncio.wrap_future(starting)
        waiting.add_done_callback(lambda each: each.cancelled() or each.exception())  # if it fails, so does the submit
        await asyncio.wait([waiting])
    return await _result_of(leases.submit(flavor, origin, site, task))


async def _result_of(future: Future[T]) -> T:
    """Await a future. ``asyncio.wrap_future`` waits for ever for one that has ended with StopIteration."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def tell(_: object) -> None:
        try:
            loop.call_soon_threadsafe(_wake, ended)
        except RuntimeError:
            pass  # the loop is closed, and nobody waits

    future.add_done_callback(tell)
    try:
        await ended
        if future.cancelled():
            raise asyncio.CancelledError
        return future.result()  # what is no error of a coroutine's is a RuntimeError here
    except asyncio.CancelledError:
        future.cancel()
        raise
    finally:
        del future  # what is raised holds this frame


def _wake(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():  # cancelled meanwhile
        waiting.set_result(None)

"""map and submit: over an executor, or over the cached pool of the settings in force."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeGuard

from unirun import leases
from unirun.backends.chunks import ChunkingExecutor
from unirun.caller import caller

__all__ = ["map", "submit"]


def map(
    executor: Executor | Callable[..., Any],
    /,
    *arguments: Any,
    timeout: float | None = None,
    chunksize: int = 1,
) -> Iterator[Any]:
    """Call a function with each item of some iterables, in the workers of an executor.

    ``map(executor, fn, *iterables)`` is ``executor.map(fn, *iterables)``. ``map(fn, *iterables)`` uses the cached pool
    of the settings in force (``flavor="auto"``), which stays open for the next call.

    Args:
        executor: Any ``concurrent.futures.Executor``; may be left out.
        *arguments: The function, and as many iterables as it has parameters.
        timeout: Seconds from this call until the last result may be asked for; ``None`` for no limit.
        chunksize: Items sent to a worker process at once.

    Returns:
        An iterator over the results, in the order of the items. All calls are submitted before it returns.

    Raises:
        TimeoutError: From the iterator: a result was not there in time.
        Exception: From the iterator: whatever the function raised, in the place of its result.
        TypeError: ``executor`` is neither an executor nor a function, or there is no iterable.
    """
    target, rest = _target(executor, arguments, "map")
    if len(rest) < 2 or not callable(rest[0]):
        raise TypeError("map() takes an executor, a function and at least one iterable, the executor being optional")
    fn, iterables = rest[0], rest[1:]
    return iter(target.map(fn, *iterables, timeout=timeout, chunksize=chunksize))


def submit(executor: Executor | Callable[..., Any], /, *arguments: Any, **kwargs: Any) -> Future[Any]:
    """Call a function in a worker of an executor.

    ``submit(executor, fn, *args, **kwargs)`` is ``executor.submit(fn, *args, **kwargs)``. ``submit(fn, *args,
    **kwargs)`` uses the cached pool of the settings in force (``flavor="auto"``), which stays open for the next call.

    Args:
        executor: Any ``concurrent.futures.Executor``; may be left out.
        *arguments: The function and its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        The future of the call.

    Raises:
        TypeError: ``executor`` is neither an executor nor a function.
        DowngradeError: No rung can serve, or downgrades are errors.
    """
    if _is_executor(executor):
        if not arguments or not callable(arguments[0]):
            raise TypeError(f"submit() takes a function after the executor, not {arguments[:1]!r}")
        return executor.submit(*arguments, **kwargs)
    if not callable(executor):
        raise TypeError(f"submit() takes an executor or a function first, not {executor!r}")
    return leases.submit("auto", "submit", caller(), executor, *arguments, **kwargs)


class _Cached(ChunkingExecutor):
    """The cached pool, as something that ``map`` can submit to."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return leases.submit("auto", "map", caller(), fn, *args, **kwargs)


def _target(first: Any, rest: tuple[Any, ...], verb: str) -> tuple[Executor, tuple[Any, ...]]:
    if _is_executor(first):
        return first, rest
    if callable(first):
        return _Cached(), (first, *rest)
    raise TypeError(f"{verb}() takes an executor or a function first, not {first!r}")


def _is_executor(value: object) -> TypeGuard[Executor]:
    """Tell an executor, by what it can do: dask's and others derive from nothing of ours."""
    return hasattr(value, "submit") and hasattr(value, "shutdown")

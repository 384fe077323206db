"""map and submit: over an executor, or over the cached pool of the settings in force."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeGuard

from unirun import leases
from unirun.caller import caller
from unirun.host import usable_cpus
from unirun.maps.batches import Batches
from unirun.maps.executor import BatchingExecutor
from unirun.maps.pulling import Pulling

__all__ = ["map", "submit"]


def map(
    executor: Executor | Callable[..., Any],
    /,
    *arguments: Any,
    timeout: float | None = None,
    chunksize: int = 1,
    buffersize: int | None = None,
) -> Iterator[Any]:
    """Call a function with each item of some iterables, in the workers of an executor.

    ``map(executor, fn, *iterables)`` does what ``executor.map(fn, *iterables)`` does, but reads the iterables as
    results are taken, so these may be endless. ``map(fn, *iterables)`` uses the cached pool of the settings in force
    (``flavor="auto"``), which stays open for the next call. Where the workers are processes, short items travel in
    batches of a millisecond or two of work; the threads of the cached pool take one item after the other.

    Args:
        executor: Any ``concurrent.futures.Executor``; may be left out.
        *arguments: The function, and as many iterables as it has parameters.
        timeout: Seconds from this call until the last result may be asked for; ``None`` for no limit.
        chunksize: Items sent to a worker process at once; 1 lets it be found out.
        buffersize: Items that may be taken from the iterables before their results are; by default enough to keep
            the workers busy while a result that takes longer than most is waited for.

    Returns:
        An iterator over the results, in the order of the items. Work begins at the call. Closing the iterator takes
        back what has not begun.

    Raises:
        TimeoutError: From the iterator: a result was not there in time.
        RuntimeError: From the iterator: the executor was shut down before the iterables were read to their end. Those
            that have a length are read at its shutdown.
        Exception: From the iterator: whatever the function raised, in the place of its result; or an iterable.
        TypeError: ``executor`` is neither an executor nor a function, there is no iterable, or ``buffersize`` is no
            whole number.
        ValueError: ``chunksize`` or ``buffersize`` is less than 1.
    """
    given = _is_executor(executor)
    fn, *iterables = arguments if given else (executor, *arguments)
    if not given and not callable(executor):
        raise TypeError(f"map() takes an executor or a function first, not {executor!r}")
    if not iterables or not callable(fn):
        raise TypeError("map() takes an executor, a function and at least one iterable, the executor being optional")
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    size = None if chunksize == 1 else chunksize
    window = buffersize or 0
    pool: Any = executor if given else leases.find("auto", "map", caller())
    if isinstance(pool, BatchingExecutor) and pool._unirun_batches():
        if given:
            return pool._unirun_map(fn, tuple(iterables), timeout=timeout, size=size, window=window)
    elif size is not None and given:
        return iter(pool.map(fn, *iterables, timeout=timeout, chunksize=size))
    elif not given and not isinstance(pool, BatchingExecutor):
        return Pulling(
            leases.submitter("auto", "map", caller()),
            fn,
            tuple(iterables),
            workers=_workers(pool),
            window=window,
            timeout=timeout,
            ended=partial(_was_reset, leases.resets()),
        ).begin()
    else:
        size = 1
    batches = Batches(
        pool.submit if given else partial(leases.submit, "auto", "map", caller()),
        fn,
        tuple(iterables),
        workers=_workers(pool),
        size=size,
        window=window,
        timeout=timeout,
    )
    return batches.begin()


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


def _was_reset(before: int) -> bool:
    return leases.resets() != before


def _workers(pool: Any) -> int:
    """Return how many tasks an executor runs at once, as far as it can be known."""
    count = getattr(pool, "_max_workers", None)
    return count if isinstance(count, int) and count > 0 else usable_cpus()


def _is_executor(value: object) -> TypeGuard[Executor]:
    """Tell an executor, by what it can do: dask's and others derive from nothing of ours."""
    return hasattr(value, "submit") and hasattr(value, "shutdown")

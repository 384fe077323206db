"""map and submit: over an executor, or over the cached pool of the settings in force."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from functools import partial
from operator import index
from typing import Any, ParamSpec, TypeVar, overload

from unirun import leases
from unirun.backends.chunks import cut, run_chunk
from unirun.caller import caller
from unirun.host import usable_cpus
from unirun.managed import ManagedExecutor
from unirun.maps.batches import Batches
from unirun.maps.executor import BatchingExecutor
from unirun.maps.pulling import Pulling
from unirun.maps.results import Results
from unirun.pools import is_executor

__all__ = ["map", "submit"]

P = ParamSpec("P")
T = TypeVar("T")


@overload
def map(
    executor: Executor,
    fn: Callable[..., T],
    /,
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int = 1,
    buffersize: int | None = None,
) -> Iterator[T]: ...


@overload
def map(
    fn: Callable[..., T],
    /,
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int = 1,
    buffersize: int | None = None,
) -> Iterator[T]: ...


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
    batches of a few milliseconds of work; the threads of the cached pool take one item after the other.

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
        DowngradeError: No rung can serve, or downgrades are errors.
        ConfigError: A ``UNIRUN_*`` variable has a value that is not accepted.
        TypeError: ``executor`` is neither an executor nor a function, there is no iterable, ``chunksize`` or
            ``buffersize`` is no whole number, or ``timeout`` no number.
        ValueError: ``chunksize`` or ``buffersize`` is less than 1, or ``timeout`` is not a number (NaN).
    """
    given = is_executor(executor)
    fn, *iterables = arguments if given and arguments else (executor, *arguments)
    _check_order("map", executor, fn, arguments)
    if not iterables:
        raise TypeError("map() takes an optional executor, a function and at least one iterable; there is no iterable")
    try:
        chunksize = index(chunksize)
    except TypeError:
        raise TypeError(f"chunksize must be a whole number of items, not {chunksize!r}") from None
    if timeout is not None:
        _check_seconds(timeout)
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    size, joined = None if chunksize == 1 else chunksize, False
    window = buffersize or 0
    pool: Any = executor if given else leases.find("auto", "map", caller())
    if isinstance(pool, BatchingExecutor) and pool._unirun_batches():
        if given:
            return pool._unirun_map(fn, tuple(iterables), timeout=timeout, size=size, window=window)
    elif size is not None and given and not isinstance(pool, ThreadPoolExecutor):
        chunks = cut(zip(*iterables, strict=False), size)
        fn, iterables, window = partial(run_chunk, fn), [chunks], -(-window // size)
        joined, size = True, 1
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
        _in_turn(partial(_submit_unless_broken, pool) if given else partial(leases.submit, "auto", "map", caller())),
        fn,
        tuple(iterables),
        workers=_workers(pool),
        size=size,
        window=window,
        timeout=timeout,
    )
    results: Any = batches.begin()
    return Results.of(_chunks(results), results.close) if joined else results


@overload
def submit(executor: Executor, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...


@overload
def submit(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...


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
        TypeError: ``executor`` is neither an executor nor a function, or no function comes after it.
        DowngradeError: No rung can serve, or downgrades are errors.
        ConfigError: A ``UNIRUN_*`` variable has a value that is not accepted.
    """
    if is_executor(executor):
        _check_order("submit", executor, arguments[0] if arguments else executor, arguments)
        return executor.submit(*arguments, **kwargs)
    fn: Any = executor
    _check_order("submit", fn, fn, arguments)
    return leases.submit("auto", "submit", caller(), fn, *arguments, **kwargs)


def _chunks(results: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """Yield the results of one chunk after the other; of the newest one nothing is left when this is closed."""
    newest: list[Any] = []
    try:
        for newest in results:
            yield newest
    finally:
        newest.clear()


def _check_seconds(timeout: Any) -> None:
    try:
        moment = timeout + 0.0
    except TypeError:
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}") from None
    if moment != moment:  # NaN, which no time is later than
        raise ValueError(f"timeout must be a number of seconds or None, not {timeout!r}")


def _was_reset(before: int) -> bool:
    return leases.resets() != before


def _in_turn(submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    """Return what submits as it comes, where a map gives the place of each task."""
    return lambda place, *task: submit(*task)


def _submit_unless_broken(pool: Any, fn: Any, /, *args: Any) -> Future[Any]:
    """Submit to a pool that was given; raise what that raises, but do not ask it, if it is the stdlib's and broken.

    It may be failing its futures just now, whose callbacks submit what follows: with the lock held that its ``submit``
    needs.
    """
    own = getattr(pool, "_executor", pool)  # of one that is borrowed
    error: BaseException | None = None
    if isinstance(own, ManagedExecutor) and own._unirun_managed:
        error = own._unirun_own_error()
    elif isinstance(why := getattr(own, "_broken", None), str):
        if isinstance(own, ThreadPoolExecutor):
            error = getattr(own, "BROKEN", BrokenThreadPool)(why)
        else:
            from concurrent.futures.process import BrokenProcessPool

            error = BrokenProcessPool(why)
    if error is not None:
        raise error
    return pool.submit(fn, *args)  # type: ignore[no-any-return]


def _workers(pool: Any) -> int:
    """Return how many tasks an executor runs at once, as far as it can be known."""
    count = getattr(pool, "_max_workers", None)
    return count if isinstance(count, int) and count > 0 else usable_cpus()


def _check_order(name: str, first: object, fn: object, arguments: tuple[object, ...]) -> None:
    """Raise ``TypeError`` unless there is a function ``fn`` where ``first`` and ``arguments`` were given."""
    if isinstance(first, type) and hasattr(first, "submit") and hasattr(first, "shutdown"):
        raise TypeError(f"{name}() takes an executor first, not its class; make one: {first.__qualname__}()")
    if is_executor(fn) and (fn is first or not callable(fn)):  # a callable may have these methods, too
        raise TypeError(f"{name}() takes a function after the executor; there is none")
    if not callable(fn):
        where = "first, or an executor" if fn is first else "after the executor"
        raise TypeError(f"{name}() takes a function {where}, not {fn!r}")
    if name == "map" and fn is first and arguments and _is_no_iterable(arguments[0]):
        raise TypeError(f"map() takes the executor first, before the function: map({arguments[0]!r}, {first!r}, ...)")


def _is_no_iterable(value: object) -> bool:
    return is_executor(value) and not hasattr(value, "__iter__")

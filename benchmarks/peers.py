"""The pools that are compared, each as a context manager that gives the two ways of using it: one call, and many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

Function = Callable[[Any], Any]
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Peer:
    """An open pool.

    Attributes:
        one: Calls a function with an argument in a worker and returns its result: a round trip.
        many: Does so with many arguments, each a task of its own, and returns all results.
        map: Does so by the pool's own ``map`` with its default arguments.
    """

    one: Callable[[Function, Any], Any]
    many: Callable[[Function, Sequence[Any]], list[Any]]
    map: Callable[[Function, Iterable[Any]], list[Any]]


def of_executor(pool: Executor) -> Peer:
    """Use an executor by ``submit``."""

    def many(fn: Function, arguments: Sequence[Any]) -> list[Any]:
        futures = [pool.submit(fn, argument) for argument in arguments]
        return [future.result() for future in futures]

    return Peer(
        lambda fn, argument: pool.submit(fn, argument).result(),
        many,
        lambda fn, arguments: list(pool.map(fn, arguments)),
    )


@contextmanager
def stdlib(context: Any) -> Iterator[Peer]:
    """The yardstick."""
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        yield of_executor(pool)


@contextmanager
def compat(context: Any) -> Iterator[Peer]:
    """The stdlib's pool, managed."""
    from unirun.process import ProcessPoolExecutor as Managed

    with Managed(WORKERS, mp_context=context) as pool:
        yield of_executor(pool)


@contextmanager
def pipes(context: Any) -> Iterator[Peer]:
    """The pool that `Run` gives."""
    from unirun import Run, RuntimeConfig

    config = RuntimeConfig(start_method=context.get_start_method(), ladder=("pipes",))
    with Run(flavor="processes", max_workers=WORKERS, config=config) as pool:
        yield of_executor(pool)


@contextmanager
def hook(context: Any) -> Iterator[Peer]:
    """What the stdlib's class is in a program that runs with the hook."""
    import concurrent.futures

    from unirun import autopatch

    with autopatch.install():
        hooked = concurrent.futures.ProcessPoolExecutor
    with hooked(WORKERS, mp_context=context) as pool:
        yield of_executor(pool)


@contextmanager
def multiprocessing_pool(context: Any) -> Iterator[Peer]:
    """The older pool of the stdlib."""
    with context.Pool(WORKERS) as pool:

        def many(fn: Function, arguments: Sequence[Any]) -> list[Any]:
            results = [pool.apply_async(fn, (argument,)) for argument in arguments]
            return [result.get() for result in results]

        yield Peer(lambda fn, argument: pool.apply(fn, (argument,)), many, pool.map)


@contextmanager
def loky(context: Any) -> Iterator[Peer]:
    """joblib's executor; it has start methods of its own."""
    from loky import ProcessPoolExecutor as Loky

    with Loky(WORKERS) as pool:
        yield of_executor(pool)


@contextmanager
def joblib(context: Any) -> Iterator[Peer]:
    """`Parallel` with its default backend, kept open. It sends many calls in batches of its own."""
    from joblib import Parallel, delayed

    with Parallel(n_jobs=WORKERS) as pool:

        def many(fn: Function, arguments: Iterable[Any]) -> list[Any]:
            return list(pool(delayed(fn)(argument) for argument in arguments))

        yield Peer(lambda fn, argument: pool([delayed(fn)(argument)])[0], many, many)


@contextmanager
def mpire(context: Any) -> Iterator[Peer]:
    """mpire's pool."""
    from mpire import WorkerPool

    with WorkerPool(n_jobs=WORKERS, start_method=context.get_start_method(), keep_alive=True) as pool:

        def many(fn: Function, arguments: Sequence[Any]) -> list[Any]:
            results = [pool.apply_async(fn, args=(argument,)) for argument in arguments]
            return [result.get() for result in results]

        yield Peer(lambda fn, argument: pool.apply(fn, args=(argument,)), many, pool.map)


@contextmanager
def pebble(context: Any) -> Iterator[Peer]:
    """pebble's pool."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=WORKERS, context=context) as pool:

        def many(fn: Function, arguments: Sequence[Any]) -> list[Any]:
            futures = [pool.schedule(fn, args=[argument]) for argument in arguments]
            return [future.result() for future in futures]

        yield Peer(
            lambda fn, argument: pool.schedule(fn, args=[argument]).result(),
            many,
            lambda fn, arguments: list(pool.map(fn, arguments).result()),
        )


PEERS: dict[str, Callable[[Any], AbstractContextManager[Peer]]] = {
    "stdlib": stdlib,
    "unirun": pipes,
    "unirun compat": compat,
    "unirun hook": hook,
    "multiprocessing.Pool": multiprocessing_pool,
    "loky": loky,
    "joblib": joblib,
    "mpire": mpire,
    "pebble": pebble,
}

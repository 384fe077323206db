"""The pools that are compared, each as a context manager that gives `call(fn, argument)`: a round trip."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

Call = Callable[[Callable[..., Any], Any], Any]
WORKERS = 2


@contextmanager
def stdlib(context: Any) -> Iterator[Call]:
    """The yardstick."""
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        yield lambda fn, argument: pool.submit(fn, argument).result()


@contextmanager
def compat(context: Any) -> Iterator[Call]:
    """The stdlib's pool, managed."""
    from unirun.process import ProcessPoolExecutor as Managed

    with Managed(WORKERS, mp_context=context) as pool:
        yield lambda fn, argument: pool.submit(fn, argument).result()


@contextmanager
def multiprocessing_pool(context: Any) -> Iterator[Call]:
    """The older pool of the stdlib."""
    with context.Pool(WORKERS) as pool:
        yield lambda fn, argument: pool.apply(fn, (argument,))


@contextmanager
def loky(context: Any) -> Iterator[Call]:
    """joblib's executor; it has start methods of its own."""
    from loky import ProcessPoolExecutor as Loky

    with Loky(WORKERS) as pool:
        yield lambda fn, argument: pool.submit(fn, argument).result()


@contextmanager
def joblib(context: Any) -> Iterator[Call]:
    """`Parallel` with its default backend, kept open."""
    from joblib import Parallel, delayed

    with Parallel(n_jobs=WORKERS) as pool:
        yield lambda fn, argument: pool([delayed(fn)(argument)])[0]


@contextmanager
def mpire(context: Any) -> Iterator[Call]:
    """mpire's pool."""
    from mpire import WorkerPool

    with WorkerPool(n_jobs=WORKERS, start_method=context.get_start_method(), keep_alive=True) as pool:
        yield lambda fn, argument: pool.apply(fn, args=(argument,))


@contextmanager
def pebble(context: Any) -> Iterator[Call]:
    """pebble's pool."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=WORKERS, context=context) as pool:
        yield lambda fn, argument: pool.schedule(fn, args=[argument]).result()


PEERS: dict[str, Callable[[Any], AbstractContextManager[Call]]] = {
    "stdlib": stdlib,
    "unirun compat": compat,
    "multiprocessing.Pool": multiprocessing_pool,
    "loky": loky,
    "joblib": joblib,
    "mpire": mpire,
    "pebble": pebble,
}

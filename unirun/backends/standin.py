"""Stands in for `concurrent.futures.process` on a Python that cannot import it.

Without ``_multiprocessing`` (Pyodide, iOS) that module does not import before Python 3.13. Its names are still needed:
a class to derive from, ``map`` with its chunks, and the error to catch.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from functools import partial
from typing import Any

__all__ = ["BrokenProcessPool", "ProcessPoolStandIn"]


class BrokenProcessPool(BrokenExecutor):
    """Raised when a process in a process pool ended abruptly, or where its initializer failed."""


class ProcessPoolStandIn(Executor):
    """A process pool that cannot be constructed."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        raise ImportError("this Python lacks the _multiprocessing module", name="_multiprocessing")

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """Return an iterator equivalent to ``map(fn, *iterables)``, the calls being made in chunks."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        chunks = iter_chunks(zip(*iterables, strict=False), chunksize)
        return itertools.chain.from_iterable(super().map(partial(run_chunk, fn), chunks, timeout=timeout))


def iter_chunks(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Cut ``items`` into tuples of ``size``, the last one of what is left."""
    remaining = iter(items)
    while chunk := tuple(itertools.islice(remaining, size)):
        yield chunk


def run_chunk(fn: Callable[..., Any], chunk: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call ``fn`` with each item of a chunk."""
    return [fn(*args) for args in chunk]

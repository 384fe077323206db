"""`map` in chunks, for executors that hand their tasks on to another one."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

__all__ = ["ChunkingExecutor"]

T = TypeVar("T")


class ChunkingExecutor(Executor):
    """An executor whose ``map`` sends ``chunksize`` items in one task, as the stdlib's process pool does."""

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **more: Any,
    ) -> Iterator[T]:
        """Return an iterator equivalent to ``map(fn, *iterables)``, the calls being made in chunks.

        Args:
            fn: The function.
            *iterables: What to call it with.
            timeout: Seconds until the last result may be asked for.
            chunksize: Items in a task.
            **more: What the running Python's ``Executor.map`` takes besides: ``buffersize``, from 3.14 on.

        Raises:
            ValueError: ``chunksize`` is less than 1.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **more)
        chunks = cut(zip(*iterables, strict=False), chunksize)
        return itertools.chain.from_iterable(super().map(partial(run_chunk, fn), chunks, timeout=timeout, **more))


def cut(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Cut ``items`` into tuples of ``size``, the last one of what is left."""
    remaining = iter(items)
    while chunk := tuple(itertools.islice(remaining, size)):
        yield chunk


def run_chunk(fn: Callable[..., T], chunk: Iterable[tuple[Any, ...]]) -> list[T]:
    """Call ``fn`` with each item of a chunk."""
    return [fn(*args) for args in chunk]

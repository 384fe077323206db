"""Stands in for `concurrent.futures.process` on a Python that cannot import it.

Without ``_multiprocessing`` (Pyodide, iOS) that module does not import before Python 3.13. Its names are still needed:
a class to derive from, ``map`` with its chunks, and the error to catch.
"""

from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

from unirun.backends.chunks import ChunkingExecutor

__all__ = ["BrokenProcessPool", "ProcessPoolStandIn"]


class BrokenProcessPool(BrokenExecutor):
    """Raised when a process in a process pool ended abruptly, or where its initializer failed."""


class ProcessPoolStandIn(ChunkingExecutor):
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

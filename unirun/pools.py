"""Pools for the explicit API: which of the managed executors serves a request."""

from __future__ import annotations

# First what the hook waits for, as a program under the hook does: of two threads that begin with different ones, one
# would get the stdlib's class.
import concurrent.futures.thread  # noqa: F401
from concurrent.futures import Executor

from unirun.managed import ManagedExecutor
from unirun.opening import Opening, PoolSpec
from unirun.process import ProcessPoolExecutor
from unirun.thread import ThreadPoolExecutor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard

    from unirun.backends.lowered import Semantics

__all__ = ["InlineExecutor", "is_executor", "open_pool"]


class InlineExecutor(ManagedExecutor, Executor):
    """An executor that runs each task in the calling thread, at the call: ``flavor="none"``."""

    def _unirun_semantics(self) -> Semantics:
        return super()._unirun_semantics().replace(apart=False)  # a call, as asked for


def is_executor(value: object) -> TypeGuard[Executor]:
    """Tell an executor, by what it can do: dask's and others derive from nothing of ours. Its class is none."""
    return hasattr(value, "submit") and hasattr(value, "shutdown") and not isinstance(value, type)


def open_pool(opening: Opening, spec: PoolSpec | None = None) -> ManagedExecutor:
    """Return the executor for a request of the explicit API; its flavor says which class."""
    kinds: dict[str, type[ManagedExecutor]] = {"threads": ThreadPoolExecutor, "none": InlineExecutor}
    kind = kinds.get(opening.plan.flavor, ProcessPoolExecutor)
    pool: ManagedExecutor = object.__new__(kind)  # not by its own __new__, which may stand aside for a drop-in's caller
    pool._unirun_adopt(opening, spec or PoolSpec())
    return pool

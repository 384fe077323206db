"""Packing: what of a task goes through the pipe of its worker, and what through shared memory."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from concurrent.futures import InvalidStateError
from typing import Final

from unirun.backends.pipes.answers import resolve
from unirun.backends.pipes.arena import Arena
from unirun.backends.pipes.by_value import Parts, dump_call
from unirun.backends.pipes.task import Task
from unirun.backends.raised import set_cause

__all__ = ["Packer"]

#: Who keeps copies of connections and sockets for the worker; by this name their pickles refer to it.
_KEPT: Final = b"multiprocessing.resource_sharer"
#: Bytes from which a piece of a pickle is one large object and no more.
_LONG: Final = 1 << 17


class Packer:
    """Pickles tasks.

    Args:
        by_value: Functions of ``__main__`` go by value.
        arena: The shared memory, or ``None``.
    """

    def __init__(self, *, by_value: bool, arena: Arena | None) -> None:
        self._by_value = by_value
        self._arena = arena

    def pack(self, task: Task, *, own: bool) -> Parts | None:
        """Pickle a task that goes to a worker now; ``None`` if it is cancelled, or cannot be pickled.

        Args:
            task: The task.
            own: The caller submits it, so it is the caller whom Ctrl-C meets.

        Raises:
            BaseException: Only with ``own``: Ctrl-C.
        """
        try:
            if not task.future.start():
                return None
        except (RuntimeError, InvalidStateError):
            return None  # the user resolved it by hand
        try:
            parts = task.parts or dump_call((task.fn, task.args, task.kwargs), main_by_value=self._by_value)
            if any(_KEPT in chunk for chunk in parts[0] if len(chunk) < _LONG):
                task.parts = parts  # should it be taken back: what is kept there is fetched once, and else never
            if parts[1] and self._arena is not None:
                buffers, task.blocks = self._arena.place(parts[1], task.memo)
                parts = parts[0], buffers
            return parts
        except BaseException as error:
            if own and not isinstance(error, Exception):
                raise
            set_cause(error, "".join(traceback.format_exception(error)))
            resolve(task.future, error=error.with_traceback(None))
            return None

    def let_go(self, tasks: Iterable[Task]) -> None:
        """Give back the shared memory of tasks that no worker has, or needs any more. The pool's lock is held."""
        for task in tasks:
            if task.blocks and self._arena is not None:
                blocks, task.blocks = task.blocks, ()
                self._arena.release(blocks)

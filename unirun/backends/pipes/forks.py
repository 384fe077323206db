"""What a fork must not hand on: ends of pipes whose closing tells somebody that a process is gone.

A worker of the pipes backend ends when its parent's end of the pipe closes, and the parent knows that a worker is dead
when the worker's end does. A copy of an end in another child, a sibling or a child of the user's own, would keep it
open. So every process that forks, by whatever code, closes in the child what is listed here.

Guarantees:
    No fork falls between the making of an end and its listing, nor between its closing and the end of that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final

__all__ = ["Lifeline", "close", "close_in_children", "forget", "made", "on_fork", "start"]

_FREE: Final = nullcontext()
# Changed by single calls of the set's and the list's methods, which are atomic; read in a child, where there is one
# thread.
_listed: set[Any] = set()
_callbacks: list[Callable[[], None]] = []
# Held while ends are made and listed, while they are closed, and by each fork. Taken before any other lock that may be
# waited for meanwhile. Reentrant, like the next one: a signal handler may come between and fork.
_making = threading.RLock()
_forking: list[None] = []  # one for each fork that holds that
_starting = threading.RLock()  # held while a worker is being started: its own ends are then not to be closed in it
_starter: tuple[int, tuple[Any, ...]] | None = None  # the thread that starts one, and the ends that the worker keeps


def made(pipe: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return the ends that ``pipe`` makes, listed."""
    with _making:
        ends = pipe()
        _listed.update(ends)
        return ends


def close_in_children(*ends: Any) -> None:
    """List connections, or anything with a ``close``."""
    _listed.update(ends)


def forget(end: Any) -> None:
    """Take from the list what somebody else closes."""
    _listed.discard(end)


def close(*ends: Any, under: AbstractContextManager[object] = _FREE) -> None:
    """Close connections, and take them from the list. No child is forked between the two.

    It would have an end, or would close one of its own: what was just closed has its number free, for any other file.

    Args:
        *ends: What to close.
        under: The lock to do it under. Who holds it must not call this: the collector, which may run wherever ends are
            made, may want that lock.
    """
    with _making, under:
        for end in ends:
            end.close()
        _listed.difference_update(ends)


def on_fork(callback: Callable[[], None]) -> None:
    """Call ``callback`` in each child that is forked from now on, after the ends were closed."""
    _callbacks.append(callback)


class Lifeline:
    """The end of a pipe of multiprocessing's by which a worker knows that this process lives.

    With a copy in a child of the program's, which lives on, the worker would not be told that this process is gone.
    """

    def __init__(self, process: Any) -> None:
        popen = process._popen
        # What closes it in this process, when the process object is collected, or closed by the program: from then on
        # another file may have its number.
        self._finalizer = popen.finalizer
        self._fds = [fd for fd in popen.finalizer._args if fd != popen.sentinel]

    def close(self) -> None:
        """Close it, in a child."""
        if self._finalizer.still_active():
            for fd in self._fds:
                os.close(fd)


def start(how: Callable[[], object], *kept: Any) -> None:
    """Start a worker by calling ``how``; if that is a fork, it keeps those ends, and no other child does."""
    global _starter
    with _starting:
        before, _starter = _starter, (threading.get_ident(), kept)
        try:
            how()
        finally:
            _starter = before


def _in_child() -> None:
    global _starting, _starter
    kept = _starter[1] if _starter is not None and _starter[0] == threading.get_ident() else ()
    for end in _listed.difference(kept):
        try:
            end.close()
        except OSError:
            pass  # another thread of the parent's was closing it at that moment
    _listed.clear()
    _let_go()
    _starting, _starter = threading.RLock(), None
    for callback in _callbacks:
        callback()
    _callbacks.clear()


def _let_go() -> None:
    """Undo what the fork did to the lock; in the child it is held by the one thread that is left."""
    if _forking and _making._is_owned():  # type: ignore[attr-defined]  # else another thread's fork has it by now
        try:
            _forking.pop()
        finally:  # also if Ctrl-C comes between
            _making.release()


if hasattr(os, "register_at_fork"):
    # This module may be imported in the midst of a fork: what is to be done after one is there before the other part.
    # And twice, since Ctrl-C may come at the begin of any function in Python, which then does nothing.
    os.register_at_fork(after_in_parent=_let_go, after_in_child=_in_child)
    os.register_at_fork(after_in_parent=_let_go)
    os.register_at_fork(before=partial(_forking.append, None))  # called after the next one
    os.register_at_fork(before=_making.acquire)

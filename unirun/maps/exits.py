"""The end of the process: maps that have something left to submit do so before the pools are ended."""

from __future__ import annotations

import os
import sys
import threading

from unirun.ending import interrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unirun.maps.batches import Batches

__all__ = ["add", "discard", "presence"]

# Whoever may have forgotten their results. Changed by single calls, which are atomic.
_live: set[Batches] = set()


def add(batches: Batches) -> None:
    """See to it that at the exit all of a map is done, as it would be had it been submitted at the call."""
    _live.add(batches)


def discard(batches: object) -> None:
    """Forget a map that is done."""
    _live.discard(batches)


def presence() -> Callable[[], bool]:
    """Return a function that tells whether a map of now still goes on: not in a forked child, nor at the very end.

    In the child another thread may have held its lock. At the end of the interpreter the variables of modules are gone,
    so this function has its own.
    """
    home, getpid, system = os.getpid(), os.getpid, sys
    return lambda: getpid() == home and system.meta_path is not None


def _finish() -> None:
    # After Ctrl-C only what has begun.
    stopped = interrupted()
    for batches in list(_live):
        if stopped:
            batches.cancel()
        else:
            batches.finish()


try:
    # The stdlib's pools end by such functions too. The newest is called first; those were there before this module, as
    # `process` sees to.
    threading._register_atexit(_finish)  # type: ignore[attr-defined]
except RuntimeError:
    pass  # the interpreter ends already, and nothing can be submitted any more
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_live.clear)

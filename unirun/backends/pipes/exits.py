"""The end of the process, and of its forked children: pools end with the one, and are not shared with the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from unirun.backends.pipes import forks
from unirun.ending import interrupted

__all__ = ["add", "discard", "ending", "unlist"]


class Ends(Protocol):
    """A pool that has to end."""

    def shutdown(self) -> None: ...
    def interrupt(self) -> None: ...
    def join(self) -> None: ...
    def disown(self) -> None: ...

    processes: dict[int, Any]


# Changed by single calls of the set's methods, which are atomic.
_live: set[Ends] = set()
_inherited: list[Ends] = []  # kept in a child: collecting them would close what it may have opened under their numbers
_finisher: Any = None
_ending = False


def add(pool: Ends) -> None:
    """See to it that at the exit a pool ends after what was submitted to it.

    By a finalizer of multiprocessing's: it runs at the exit of worker processes too, where `atexit` is not asked, and
    before multiprocessing waits for its children, which would wait for us.
    """
    from multiprocessing.util import Finalize

    global _finisher
    _live.add(pool)
    if _finisher is None:
        _finisher = Finalize(None, _finish, exitpriority=100)
        forks.on_fork(_start_anew)


def discard(pool: Ends) -> None:
    """Forget a pool that has ended."""
    _live.discard(pool)


def ending() -> bool:
    """Tell whether the exit is past the point at which pools are ended: only daemon threads and `atexit` have any."""
    return _ending


def unlist(processes: Iterable[Any]) -> None:
    """Have multiprocessing not list workers as children: a program that waits for all must not wait for these."""
    from multiprocessing import process

    process._children.difference_update(processes)  # type: ignore[attr-defined]


def _finish() -> None:
    global _ending
    _ending = True
    stopped = interrupted()
    pools = list(_live)
    for pool in pools:
        if stopped:
            pool.interrupt()
        else:
            pool.shutdown()
    for pool in pools:
        pool.join()


def _start_anew() -> None:
    global _finisher, _ending
    _ending = False
    for pool in _live:
        pool.disown()
        unlist(pool.processes.copy().values())  # at its exit the child would wait for them, which it cannot
    _inherited.extend(_live)
    _live.clear()
    _finisher = None

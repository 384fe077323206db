"""Turns: the order in which tasks and the items of maps have to begin, and who may not begin one yet.

A task may wait for earlier ones, with as few workers as there are: each begins before all later ones do. What comes
back from a worker that has not done it keeps its place; it has to be the next to begin. And a worker that has left
items of a map begins no later ones that were sent before the map had heard of that. Else all workers may run items that
wait for those that were left, which nobody would do then.
"""

from __future__ import annotations

import os
import threading
from itertools import count, takewhile
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    #: The number of a task; and, if it is a part of a map, of its first item.
    Place: TypeAlias = tuple[int, int]
    #: An executor: the process whose it is, and a number in there. A worker may have some, too.
    Whose: TypeAlias = tuple[int, int]
    #: What was heard when something was sent: by whose maps, and the last time that a worker has left something, by the
    #: number of the worker.
    News: TypeAlias = tuple[Whose, dict[int, int]]
    #: The number of a worker, and when it has left something.
    Left: TypeAlias = tuple[int, int]

__all__ = ["Heard", "leave", "numbers", "single", "waits"]

#: For tasks, in the order in which they are submitted. What has come back keeps its own.
numbers: count[int] = count(1)

# In the program.

_executors = count(1)
#: Workers of which it is remembered what was heard, the newest: of others it is heard again.
_HEARD: Final = 128


class Heard:
    """What the maps of one executor have heard of what workers have left."""

    def __init__(self) -> None:
        self._whose = os.getpid(), next(_executors)
        self._times: dict[int, int] = {}  # changed by single steps: several threads may hear something

    @property
    def news(self) -> News:
        """What was heard until now."""
        return self._whose, self._times.copy()

    def hear(self, left: Left) -> None:
        """Take note that something was left, which is to be sent next; its map has to have it then.

        Of one worker this is heard in the order in which it was left.
        """
        worker, time = left
        self._times[worker] = max(time, self._times.pop(worker, 0))
        for old in list(self._times)[:-_HEARD]:
            self._times.pop(old, None)


# In a worker: a process, an interpreter, or a thread of a pool that has come down to threads.

_times = count(1)
#: So much is remembered of an executor: as much as there may be of which a map has not heard that has much on its way.
_LEFT: Final = 256
#: Executors of which something is remembered.
_MOST: Final = 8


class _Worker:
    """What a worker has left."""

    def __init__(self) -> None:
        self.process: int = os.getpid()
        #: Drawn, as the number of a process or a thread that has ended may be that of another one.
        self.number: int = int.from_bytes(os.urandom(7), "little")
        #: When something was left, and from where on, oldest first; by whose it was, newest last.
        self.left: dict[Whose, tuple[tuple[int, Place], ...]] = {}


class _Workers(threading.local):
    """The worker that the calling thread is."""

    def __init__(self) -> None:
        self.me = _Worker()


_workers: _Workers | SimpleNamespace = _Workers()


def single() -> None:
    """Take note that all threads here are one worker: an interpreter, in which each call has a new thread's values."""
    global _workers
    _workers = SimpleNamespace(me=_Worker())


def _me() -> _Worker:
    if _workers.me.process != os.getpid():  # a fork of a worker is another one
        _workers.me = _Worker()
    me: _Worker = _workers.me
    return me


def leave(place: Place, news: News) -> Left:
    """Take note that items from ``place`` on are left, which were sent with some news."""
    me, time = _me(), next(_times)
    whose, _ = news
    me.left[whose] = (*me.left.pop(whose, ())[1 - _LEFT :], (time, place))
    for old in list(me.left)[:-_MOST]:
        del me.left[old]
    return me.number, time


def waits(place: Place, news: News) -> bool:
    """Tell whether an item that was sent with some news may wait for what was left here."""
    whose, times = news
    if whose not in _workers.me.left:
        return False
    me = _me()
    last = times.get(me.number, 0)
    unheard = takewhile(lambda each: each[0] > last, reversed(me.left.get(whose, ())))
    return any(earlier < place for _, earlier in unheard)

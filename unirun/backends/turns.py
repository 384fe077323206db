"""Turns: the order in which tasks and the items of maps have to begin, and who may not begin one yet.

A task may wait for earlier ones, with as few workers as there are: each begins before all later ones do. What comes
back from a worker that has not done it keeps its place; it has to be the next to begin. And a worker that has left
items of a map begins no later ones that were sent before the map had heard of that. Else all workers may run items that
wait for those that were left, which nobody would do then.
"""

from __future__ import annotations

import os
from itertools import count, takewhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    #: The number of a task; and, if it is a part of a map, of its first item.
    Place: TypeAlias = tuple[int, int]
    #: What was heard when something was sent: by whose maps, and the last time that a worker has left something, by its
    #: process.
    News: TypeAlias = tuple[tuple[int, int], dict[int, int]]
    #: A worker's process, and when it has left something.
    Left: TypeAlias = tuple[int, int]

__all__ = ["Heard", "leave", "numbers", "waits"]

#: For tasks, in the order in which they are submitted. What has come back keeps its own.
numbers = count(1)

# In the program.

_executors = count(1)


class Heard:
    """What the maps of one executor have heard of what workers have left."""

    def __init__(self) -> None:
        self._executor = os.getpid(), next(_executors)  # a worker may have maps, too
        self._times: dict[int, int] = {}  # changed by single steps: several threads may hear something

    @property
    def news(self) -> News:
        """What was heard until now."""
        return self._executor, self._times.copy()

    def hear(self, left: Left) -> None:
        """Take note that something was left, which is to be sent next; its map has to have it then."""
        process, time = left
        self._times[process] = max(time, self._times.get(process, 0))


# In a worker.

_times = count(1)
#: When something was left, whose, and from where on; oldest first. By the number of this process, as a fork of it has
#: left nothing.
_left: dict[int, tuple[tuple[int, tuple[int, int], Place], ...]] = {}
#: So many of these are kept: as many as there may be of which a map has not heard that has much on its way.
_MOST: Final = 256


def leave(place: Place, news: News) -> Left:
    """Take note that items from ``place`` on are left, which were sent with some news."""
    process, time = os.getpid(), next(_times)
    _left[process] = (*_left.get(process, ())[1 - _MOST :], (time, news[0], place))
    return process, time


def waits(place: Place, news: News) -> bool:
    """Tell whether an item that was sent with some news may wait for what was left here."""
    if not _left:
        return False
    process = os.getpid()
    executor, times = news
    last = times.get(process, 0)
    unheard = takewhile(lambda each: each[0] > last, reversed(_left.get(process, ())))
    return any(whose == executor and earlier < place for _, whose, earlier in unheard)

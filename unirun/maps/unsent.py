"""Unsent: the items that a map has taken from its iterables and not sent yet."""

from __future__ import annotations

from collections import deque
from itertools import takewhile

from unirun.backends.turns import numbers
from unirun.maps.parcels import Batch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from unirun.backends.turns import News

__all__ = ["Unsent"]


class Unsent:
    """Items in pieces, as they were taken. Guarded by the lock of the map.

    Args:
        gone: Gets what is not needed any more, to be let go of without the lock.
    """

    __slots__ = ("_count", "_gone", "_growing", "_pieces", "_place", "_sent")

    def __init__(self, gone: list[Any]) -> None:
        self._gone = gone
        # The place of the first item, the items, how many of them were sent: a long list is not copied for each batch.
        # And the number of the task in which they were, if they came back.
        self._pieces: deque[tuple[int, Sequence[Any], int, int | None]] = deque()
        self._count = 0  # the items in these
        # The same of what is just being taken, if something is.
        self._place, self._sent = 0, 0
        self._growing: Sequence[Any] | None = None

    def __len__(self) -> int:  # may be asked without the lock: too much for a moment, but never too little
        growing = self._growing
        return self._count + (0 if growing is None else len(growing) - self._sent)

    def add(self, place: int, items: Sequence[Any]) -> None:
        """Add items behind the others. A list may grow at its end until ``seal``, also without the lock."""
        self._place, self._sent = place, 0
        self._growing = items

    def seal(self) -> int:
        """Take note that the newest items are all there; return how many."""
        if (items := self._growing) is None:  # they were forgotten
            return 0
        count, left = len(items), len(items) - self._sent
        # No step of this in which Ctrl-C could come but the last one: an item must not be here twice.
        self._count += left
        self._growing = None
        if left:
            self._pieces.append((self._place, items, self._sent, None))
        else:
            self._gone.append(items)
        return count

    def put_back(self, number: int, place: int, items: Sequence[Any]) -> None:
        """Put items of a task back to where they were: before all others, but for some that came back, too."""
        before = sum(1 for _ in takewhile(lambda piece: piece[0] + piece[2] < place, self._pieces))
        self._pieces.insert(before, (place, items, 0, number))
        self._count += len(items)

    def cut(self, count: int, news: News) -> Batch:
        """Take out a batch of at most ``count`` items, each of which follows the one before; there is at least one."""
        number, place, items = self._cut(count)
        if len(items) < count and self._follow(place + len(items)):
            items = list(items)
            while len(items) < count and self._follow(place + len(items)):
                items += self._cut(count - len(items))[2]
        return Batch(next(numbers) if number is None else number, place, items, news)

    def _follow(self, place: int) -> bool:
        """Tell whether the next item is there, and is that of a place."""
        if self._pieces:
            return self._pieces[0][0] + self._pieces[0][2] == place
        return len(self) > 0 and self._place + self._sent == place

    def _cut(self, count: int) -> tuple[int | None, int, Sequence[Any]]:
        if not self._pieces:
            assert self._growing is not None
            first, cut = self._place + self._sent, self._growing[self._sent : self._sent + count]
            self._sent += len(cut)
            return None, first, cut
        place, items, sent, number = self._pieces.popleft()
        cut = items[sent : sent + count]
        if sent + len(cut) < len(items):
            self._pieces.appendleft((place, items, sent + len(cut), number))
        else:
            self._gone.append(items)
        self._count -= len(cut)
        return number, place + sent, cut

"""Unsent: the items that a map has taken from its iterables and not sent yet."""

from __future__ import annotations

from collections import deque

from unirun.maps.parcels import Batch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["Unsent"]


class Unsent:
    """Items in pieces, as they were taken. Guarded by the lock of the map.

    Args:
        gone: Gets what is not needed any more, to be let go of without the lock.
    """

    __slots__ = ("_count", "_gone", "_pieces")

    def __init__(self, gone: list[Any]) -> None:
        self._gone = gone
        # The place of the first item, the items, how many of them were sent: a long list is not copied for each batch.
        self._pieces: deque[tuple[int, Sequence[Any], int]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, place: int, items: Sequence[Any]) -> None:
        """Add items behind the others."""
        self._pieces.append((place, items, 0))
        self._count += len(items)

    def put_back(self, place: int, items: Sequence[Any]) -> None:
        """Put items before the others."""
        self._pieces.appendleft((place, items, 0))
        self._count += len(items)

    def cut(self, count: int) -> Batch:
        """Take out a batch of at most ``count`` items; there is at least one."""
        place, items, sent = self._pieces.popleft()
        batch = Batch(place + sent, items[sent : sent + count])
        if sent + batch.count < len(items):
            self._pieces.appendleft((place, items, sent + batch.count))
        else:
            self._gone.append(items)
        self._count -= batch.count
        return batch

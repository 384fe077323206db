"""Memory for large results: what the program has let go of is filled again.

The kernel has to find and to clear each page of new memory, which takes ten times as long as to fill it. So the parent
remembers the newest buffers that it has received, and looks who else does.

Guarantees:
    A buffer is used again only if nobody else refers to it: no array, no view, no variable.
    What is remembered is little, and forgotten when nothing large has come for a while.
"""

from __future__ import annotations

import sys
from typing import Final

from unirun import clock
from unirun.backends.pipes.arena import LINGER

__all__ = ["Buffers"]

#: Bytes of a buffer from which it is remembered: smaller ones come from memory that the process has.
_SMALLEST: Final = 1 << 18
#: Bytes that are remembered at most.
_KEPT: Final = 1 << 26


def _references(kept: list[tuple[int, bytearray]], place: int) -> int:
    return sys.getrefcount(kept[place][1])


#: The references to a buffer that only the list knows. How many that are depends on the interpreter.
_ALONE: Final = _references([(1, bytearray(1))], 0) if hasattr(sys, "getrefcount") else 0  # PyPy has none


class Buffers:
    """Makes the buffers that a pool receives into; in one thread only."""

    def __init__(self) -> None:
        # With the lengths that they had: who has one may change its length. The newest last.
        self._kept: list[tuple[int, bytearray]] = []
        self._last = 0.0

    def room(self, length: int) -> bytearray:
        """Return a buffer of so many bytes, whatever these are.

        Raises:
            MemoryError: There is no room for it.
            OverflowError: No buffer can have that length.
        """
        remembered = _ALONE and _SMALLEST <= length <= _KEPT
        if remembered and (used := self._used(length)) is not None:
            return used
        try:
            buffer = bytearray(length)
        except MemoryError:
            self.close()  # it may be enough
            buffer = bytearray(length)
        if remembered:
            self._kept.append((length, buffer))
            size = sum(each for each, _ in self._kept)
            while size > _KEPT:
                size -= self._kept.pop(0)[0]
        return buffer

    def _used(self, length: int) -> bytearray | None:
        self._last = clock.now()
        self._kept = kept = [each for each in self._kept if len(each[1]) == each[0]]
        for place in range(len(kept)):  # not over the buffers, which are looked for without a reference of our own
            if kept[place][0] == length and _references(kept, place) == _ALONE:
                kept.append(kept.pop(place))
                return kept[-1][1]
        return None

    @property
    def due(self) -> float | None:
        """When ``tidy`` should be called, of ``time.monotonic``; ``None`` if there is nothing to forget."""
        return self._last + LINGER if self._kept else None

    def tidy(self) -> None:
        """Leave the buffers to those who have them, if none was asked for for a while."""
        if clock.now() >= self._last + LINGER:
            self.close()

    def close(self) -> None:
        """Leave the buffers to those who have them."""
        self._kept = []

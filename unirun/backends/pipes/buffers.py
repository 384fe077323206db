"""Memory for large results: what the program has let go of is filled again.

The kernel has to find and to clear each page of new memory, which takes ten times as long as to fill it. So the parent
remembers the newest buffers that it has received, and looks who else does.

Guarantees:
    A buffer is used again only if nobody else refers to it: no array, no view, no variable.
    What is remembered is little, and forgotten when nothing large has come for a while.
"""

from __future__ import annotations

import sys
import time
from typing import Final

from unirun.backends.pipes.arena import LINGER

__all__ = ["Buffers"]

#: Bytes of a buffer from which it is remembered: smaller ones come from memory that the process has.
_SMALLEST: Final = 1 << 18
#: Bytes that are remembered at most.
_KEPT: Final = 1 << 26


def _references(buffers: list[bytearray], place: int) -> int:
    return sys.getrefcount(buffers[place])


#: The references to a buffer that only the list knows. How many that are depends on the interpreter.
_ALONE: Final = _references([bytearray(1)], 0) if hasattr(sys, "getrefcount") else 0  # PyPy has none


class Buffers:
    """Makes the buffers that a pool receives into; in one thread only."""

    def __init__(self) -> None:
        self._kept: list[bytearray] = []  # the newest last
        self._last = 0.0

    def room(self, length: int) -> bytearray:
        """Return a buffer of so many bytes, whatever these are.

        Raises:
            MemoryError: There is no room for it.
            OverflowError: No buffer can have that length.
        """
        if not _SMALLEST <= length <= _KEPT or not _ALONE:
            return bytearray(length)
        self._last = time.monotonic()
        kept = self._kept
        for place in range(len(kept)):  # not over the buffers, which are looked for without a reference of our own
            if len(kept[place]) == length and _references(kept, place) == _ALONE:
                kept.append(kept.pop(place))
                return kept[-1]
        try:
            buffer = bytearray(length)
        except MemoryError:
            self.close()
            buffer = bytearray(length)
        kept.append(buffer)
        size = sum(map(len, kept))
        while size > _KEPT:
            size -= len(kept.pop(0))
        return buffer

    @property
    def due(self) -> float | None:
        """When ``tidy`` should be called, of ``time.monotonic``; ``None`` if there is nothing to forget."""
        return self._last + LINGER if self._kept else None

    def tidy(self) -> None:
        """Leave the buffers to those who have them, if none was asked for for a while."""
        if time.monotonic() >= self._last + LINGER:
            self.close()

    def close(self) -> None:
        """Leave the buffers to those who have them."""
        self._kept.clear()

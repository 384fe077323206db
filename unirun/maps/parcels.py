"""Parcels: how several items of a map travel in one task, so that they share nothing in the worker.

See ``backends.batch`` for the other end.
"""

from __future__ import annotations

import itertools
import sys

from unirun.backends.batch import PLAIN, by_name
from unirun.backends.lowered import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Final

__all__ = ["Parcel", "Parcels"]

#: Bytes of items in one parcel. What is larger travels alone, where its executor may know a quicker way for it.
_BYTES: Final = 1 << 16
#: Types whose values take next to no room.
_NUMBERS: Final = frozenset({int, float, complex, bool, type(None)})


class Parcel:
    """The arguments for ``backends.batch.run``, but the last one.

    Args:
        fn: The function; or pickled, where each item is to have its own.
        items: The items, or each of them pickled.
        spread: Each is a tuple of arguments.
        pickled: Each is pickled.
    """

    __slots__ = ("fn", "items", "pickled", "spread")

    def __init__(self, fn: Any, items: Sequence[Any], spread: bool, pickled: bool) -> None:
        self.fn: Any = fn
        self.items: Sequence[Any] = items
        self.spread: bool = spread
        self.pickled: bool = pickled


class Parcels:
    """Makes the parcels of one map.

    Args:
        fn: Its function.
        spread: Each item is a tuple of arguments.
    """

    def __init__(self, fn: Any, spread: bool) -> None:
        self._fn = fn
        self._spread = spread
        self._packed: bytes | None = None  # the function, where each item is to have its own; empty where it need not
        #: The items are better sent one by one: they are large, or the function is, or it cannot be pickled as it is.
        self.alone: bool = False

    def pack(self, items: Sequence[Any]) -> Parcel:
        """Return a parcel with the first ones of some items, or with the first one alone."""
        if self._packed is None and not self._pack_function():
            return self._parcel(items[:1], False)
        kinds = {int} if type(items) is range else set(map(type, self._values(items)))
        if kinds <= PLAIN:
            size = 0 if kinds <= _NUMBERS else sum(map(sys.getsizeof, self._values(items)))
            return self._parcel(items[: max(1, len(items) * _BYTES // size)] if size > _BYTES else items, False)
        packed: list[Any] = []
        size = 0
        for item in items:
            try:
                packed.append(dumps(item))
            except Exception:
                break  # it fails by itself, when it is sent alone
            size += len(packed[-1])
            if size > _BYTES:
                self.alone = len(packed) == 1  # others will be as large
                break
        return self._parcel(packed or items[:1], True)

    def _parcel(self, items: Sequence[Any], pickled: bool) -> Parcel:
        return Parcel(self._packed or self._fn, items, self._spread, pickled)

    def _values(self, items: Sequence[Any]) -> Iterable[Any]:
        return itertools.chain.from_iterable(items) if self._spread else items

    def _pack_function(self) -> bool:
        """Pickle the function; return whether it travels with several items."""
        try:
            packed = dumps(self._fn)
        except Exception:  # it goes by value, or not at all, which its executor knows
            packed = None
        if packed is None or len(packed) > _BYTES:
            self.alone = True
            return False
        self._packed = b"" if by_name(self._fn) else packed
        return True

"""Parcels: how several items of a map travel in one task, so that they share nothing in the worker.

See ``backends.batch`` for the other end.
"""

from __future__ import annotations

import itertools
import math
import pickle

from unirun import clock
from unirun.backends.batch import PLAIN, by_name, run
from unirun.backends.batch import timed as _timed
from unirun.pickling import NUMBERS, TEXTS, dumper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Final

    from unirun.backends.turns import News, Place

__all__ = ["Batch", "Parcel", "Parcels"]

#: Bytes of items in one parcel. What is larger travels alone, where its executor may know a quicker way for it.
_BYTES: Final = 1 << 16
#: Seconds of pickling for one parcel: the worker waits meanwhile.
_SECONDS: Final = 0.002
#: Items that are sent one by one after a large one, before it is tried again whether several fit into a parcel; when
#: they do not, twice as many. To find that out a large one is pickled once more.
_SINGLES: Final = 64


class Batch:
    """Items that are sent together.

    Args:
        number: That of its task; see ``backends.turns``.
        start: The place of the first item in its map.
        items: The items.
        news: What was heard before they were taken out of those that wait.
    """

    __slots__ = ("alone", "count", "done", "futures", "items", "news", "number", "start")

    def __init__(self, number: int, start: int, items: Sequence[Any], news: News) -> None:
        self.number: int = number
        self.start: int = start
        self.items: Sequence[Any] = items
        self.news: News = news
        self.count: int = len(items)
        self.alone: bool = False  # a task as any other, and not a batch of one
        self.done: bool = False
        self.futures: list[Any] = []  # of the task, from when it was submitted until somebody takes it


class Parcel:
    """The arguments for ``backends.batch.run``, but the last three.

    Args:
        fn: The function; or pickled, where each item is to have its own; or ``None``, where each is pickled with it.
        items: The items, or each of them pickled, or all of them in one pickle.
        spread: Each is a tuple of arguments.
        pickled: Each is pickled.
        count: How many they are.
    """

    __slots__ = ("count", "fn", "items", "pickled", "spread")

    def __init__(self, fn: Any, items: Sequence[Any] | bytes, spread: bool, pickled: bool, count: int) -> None:
        self.fn: Any = fn
        self.items: Sequence[Any] | bytes = items
        self.spread: bool = spread
        self.pickled: bool = pickled
        self.count: int = count

    def task(self, limit: float, place: Place, news: News) -> tuple[Any, ...]:
        """Return what to submit, for items of which no further one is begun after ``limit`` seconds."""
        return run, self.fn, self.items, self.spread, self.pickled, limit, place, news


class Parcels:
    """Makes the parcels of one map.

    Args:
        fn: Its function.
        spread: Each item is a tuple of arguments.
    """

    def __init__(self, fn: Any, spread: bool) -> None:
        self._fn = fn
        self._spread = spread
        # The function as it is now, where each item is to have its own; empty where it need not, and does not change.
        self._packed: bytes | None = None
        # So many items are still to be sent one by one: they are large, or the function is, or it cannot be pickled as
        # it is. And so many will be when the next one is large.
        self._singles: float = 0
        self._next_singles = _SINGLES

    @property
    def alone(self) -> bool:
        """Whether the next item is better sent by itself."""
        return self._singles > 0

    def pack(self, items: Sequence[Any]) -> Parcel:
        """Return a parcel with the first ones of some items, or with the first one alone."""
        if self._packed != b"" and not self._pack_function():
            return self._parcel(items[:1], False)
        first = _kinds(self._values(items[:1]))
        if not self._spread and type(items) is not range and first and first <= NUMBERS:
            numbers = _Numbers().pickled(items)
            if numbers is not None:
                return Parcel(self._packed or self._fn, numbers, False, False, len(items))
        kinds = {int} if type(items) is range else _kinds(self._values(items))
        if kinds is None:
            return self._parcel(items[:1], True)
        if kinds <= PLAIN:
            texts = (each for each in self._values(items) if type(each) in TEXTS)
            size = sum(map(len, texts)) if kinds & TEXTS else 0  # the others take next to no room
            count = max(1, len(items) * _BYTES // size) if size > _BYTES else len(items)
            self._note(large=count == 1 < len(items))
            return self._parcel(items[:count], False)
        if any(map(_is_large, self._values(items[:1]))):  # which would be pickled for nothing
            self._note(large=True)
            return self._parcel(items[:1], True)
        packed: list[Any] = []
        size = 0
        pickled = dumper(lasting=True)  # what has not begun in time is pickled again
        end = clock.now() + _SECONDS
        # With a function that has a state, as a bound method: the item may be a part of it, and is so in the worker.
        pairs = bool(self._packed)
        for item in items:
            try:
                packed.append(pickled((self._fn, item) if pairs else item))
            except Exception:
                break  # it fails by itself, or can be sent once, when it is sent alone
            size += len(packed[-1])
            if size > _BYTES or clock.now() > end:
                break
        self._note(large=len(packed) == 1 and size > _BYTES)
        if pairs and packed:
            return Parcel(None, packed, self._spread, True, len(packed))
        return self._parcel(packed or items[:1], True)

    def single(self, item: Any, *turn: Any) -> tuple[Any, ...]:
        """Return what to submit for an item that travels alone; given its place and news, it is timed."""
        self._singles = max(0, self._singles - 1)
        task = self._fn, *(item if self._spread else (item,))
        return (_timed, *turn, *task) if turn else task

    def _note(self, *, large: bool) -> None:
        """Take note of whether one item filled a parcel by itself: others will be as large, for a while."""
        if large:
            self._singles, self._next_singles = self._next_singles, 2 * self._next_singles
        else:
            self._next_singles = _SINGLES

    def _parcel(self, items: Sequence[Any], pickled: bool) -> Parcel:
        return Parcel(self._packed or self._fn, items, self._spread, pickled, len(items))

    def _values(self, items: Sequence[Any]) -> Iterable[Any]:
        return itertools.chain.from_iterable(items) if self._spread else items

    def _pack_function(self) -> bool:
        """Pickle the function; return whether it travels with several items."""
        try:
            packed = dumper(lasting=True)(self._fn)  # which each item loads
        except Exception:  # it goes by value, or once, or not at all, which its executor knows
            packed = None
        if packed is None or len(packed) > _BYTES:
            self._singles = math.inf
            return False
        self._packed = b"" if by_name(self._fn) else packed
        return True


def _kinds(values: Iterable[Any]) -> set[type] | None:
    """Return the types of some values; ``None`` if one cannot be hashed, and so none of its values be pickled."""
    try:
        return set(map(type, values))
    except TypeError:
        return None


def _is_large(value: Any) -> bool:
    """Tell a value of which it can be seen that its pickle fills a parcel: one that is memory, such as an array."""
    try:
        with memoryview(value) as view:
            return view.nbytes > _BYTES
    except Exception:  # it is none, or of a kind of its own
        return False


class _Numbers:
    """The file that a pickler of numbers writes to, which it does every 64 kB.

    A pickler remembers all that it has met, to refer to it when it meets it again, except numbers, ``True``, ``False``
    and ``None``. So what it remembers tells whether there was anything else, without asking for the type of each.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def pickled(self, items: Sequence[Any]) -> bytes | None:
        """Return the pickle of some items; ``None`` if there is anything else among them."""
        self._pickler = pickle.Pickler(self, 5)
        try:
            self._pickler.dump(items)
        except Exception:  # of `write`, or of the other's making
            return None
        finally:
            del self._pickler  # it holds this file
        return b"".join(self._chunks)

    def write(self, chunk: Any) -> None:
        if len(self._pickler.memo.copy()) > 1:  # more than the sequence itself
            raise TypeError("there are not only numbers")
        self._chunks.append(bytes(chunk))

"""Source: the iterables of a map, from which items are taken in order, whoever takes them."""

from __future__ import annotations

import itertools
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Any, Final

__all__ = ["Source", "inert"]

_SEQUENCES: Final = frozenset({list, tuple, range})  # a slice of which is one too, and quick


def inert(iterables: Iterable[Any]) -> bool:
    """Tell whether no code of the program's runs when items are taken."""
    return all(type(each) in _SEQUENCES for each in iterables)


class Source:
    """What is left of the iterables of a map.

    Args:
        iterables: Those given to ``map``.
    """

    def __init__(self, iterables: tuple[Iterable[Any], ...]) -> None:
        #: Each item is a tuple of arguments.
        self.spread: bool = len(iterables) != 1
        #: No code of the program's runs when items are taken.
        self.inert: bool = inert(iterables)
        #: It has an end, surely.
        self.finite: bool = all(hasattr(each, "__len__") for each in iterables)
        self._items: Iterator[Any] = zip(*iterables, strict=False) if self.spread else iter(iterables[0])
        first: Any = None if self.spread else iterables[0]
        self._whole: Sequence[Any] | None = first[:] if type(first) in _SEQUENCES else None
        self._ended = False
        #: Held while items are taken and added, which has to be in one order: by who asks for results, or shuts down.
        #: Reentrant: an iterable may shut the pool down.
        self.taking: AbstractContextManager[bool] = threading.RLock()
        self._taker: int | None = None  # the thread that does so

    @property
    def mine(self) -> bool:
        """Whether this thread takes items just now: the caller is an iterable, or the handler of a signal."""
        return self._taker == threading.get_ident()

    def take(
        self,
        count: int | None,
        add: Callable[[Sequence[Any]], object],
        more: Callable[[], bool],
        failed: Callable[[Exception], object] | None,
    ) -> bool:
        """Take so many items, or all; return whether there are no more. To be called with ``taking`` held.

        Args:
            count: How many; ``None`` for all.
            add: Gets what is taken: once, and where code of the program's runs for that, a list that is still empty.
            more: Called before the program is asked for the next item, which may wait for what is done with the others;
                tells whether that one is wanted.
            failed: Gets the error of the iterables, which ends them.

        Raises:
            Exception: What the iterables raise, without ``failed``.
        """
        outer, self._taker = self._taker, threading.get_ident()
        try:
            self._take(count, add, more, failed)
        finally:
            self._taker = outer
        return self._ended

    def _take(
        self,
        count: int | None,
        add: Callable[[Sequence[Any]], object],
        more: Callable[[], bool],
        failed: Callable[[Exception], object] | None,
    ) -> None:
        whole, self._whole = self._whole, None
        if self._ended:
            return
        if whole is not None and count is None:
            self._ended, self._items = True, iter(())  # which holds the caller's
            add(whole)
            return
        items: list[Any] = []
        if self.inert:
            items.extend(itertools.islice(self._items, count))
            add(items)
        else:
            add(items)
            try:
                for item in itertools.islice(self._items, count):
                    items.append(item)
                    if not more():
                        return
            except BaseException as error:
                if failed is None:  # the call raises it: whoever shuts the pool down meanwhile must not read on
                    self._ended = True
                    raise
                if not isinstance(error, Exception):
                    raise
                failed(error)  # before anybody else can take this for the end
        self._ended = count is None or len(items) < count

"""Sharing: which large buffers are the same in all tasks of a map, and so are sent once."""

from __future__ import annotations

from unirun.backends.batch import by_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from unirun.backends.pipes.memo import Memo

__all__ = ["memo_for"]


def memo_for(fn: Any, inert: bool, window: int | None) -> Memo:
    """Return what is to remember the buffers that a map has sent.

    Args:
        fn: The function.
        inert: No code of the program's runs when items are taken; a generator may fill one array anew for each.
        window: Items at most that are taken ahead, as the caller wants it. Who does may also change, between two
            results, what the next items and the function refer to.
    """
    from unirun.backends.pipes.memo import Memo

    if window:
        return Memo(())
    return Memo(None if inert else _objects(fn))


def _objects(fn: Any) -> Iterable[object]:
    """Return the objects whose buffers a function takes along."""
    from unirun.backends.pipes.protocol import dump

    if by_name(fn):
        return ()
    try:
        return [view.obj for view in dump(fn)[1]]
    except Exception:  # it goes by value, or not at all, which its task will say
        return ()

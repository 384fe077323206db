"""Memo: the large objects that one call of ``map`` has sent, so that each is sent once."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from unirun.backends.pipes.arena import Arena, Block

__all__ = ["Memo"]


class Memo:
    """The objects, and where they are.

    It holds the objects, so their ids stay their own, and their blocks, until it is closed.

    Args:
        only: Those that do not change meanwhile; ``None`` for all.
    """

    def __init__(self, only: Iterable[object] | None = None) -> None:
        #: By their ids.
        self.only: dict[int, object] | None = None if only is None else {id(each): each for each in only}
        self.sent: dict[tuple[int, int], tuple[object, Block]] = {}
        self.arena: Arena | None = None  # in which the blocks are
        self.closed: bool = False

    def close(self) -> None:
        """Let go of all."""
        self.closed = True
        if self.arena is not None:
            self.arena.forget(self)

"""Vacancy: tells whoever leaves a pool, and leaves it to others, that nothing of theirs is left in it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unirun.backends.pipes.bell import Bell

__all__ = ["Vacancy"]


class Vacancy:
    """Who is to be told that a pool has nothing left to do."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        # Of one user, who may ask again. A list, whose `pop` only one thread can do.
        self._asked: list[Callable[[], None]] = []
        self._ended = False

    @property
    def wanted(self) -> bool:
        """Whether somebody waits to be told."""
        return bool(self._asked)

    def ask(self, then: Callable[[], None]) -> None:
        """Have ``then`` called by the manager when all is done; now, if the manager has ended."""
        self._asked.append(then)
        self._bell.ring()
        if self._ended:
            self.tell()

    def tell(self) -> None:
        """Call who asked."""
        try:
            then = self._asked.pop()
        except IndexError:
            return
        then()

    def end(self) -> None:
        """The manager ends: who asked is told, also who asks from now on."""
        self._ended = True
        self.tell()

"""Places: how many workers a pool should have, and when to try again where one could not be started."""

from __future__ import annotations

import math
from typing import Final

from unirun import clock
from unirun.refusal import Failure

__all__ = ["Places"]

#: Seconds after a refusal until it is tried again to start a worker, while there are others; twice as many after the
#: next one. A refused fork costs its parent a millisecond, a refused start by another method some ten.
_FIRST: Final = 1.0
_LAST: Final = 60.0
#: Workers that end before they are ready, one after the other, until no more are started.
_FAILED_STARTS: Final = 5


class Places:
    """What the workers of a pool should be. Used with the lock of the dispatch, or by the manager thread alone.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: Why there are fewer than asked for, or ``None``.
        self.short: Failure | None = None
        self._again = 0.0  # when to try again,
        self._wait = _FIRST  # and after the next refusal so many seconds later
        self._failed = 0

    def refuse(self, why: Failure) -> None:
        """Note that the host has refused a worker."""
        self.short = why
        self._again = clock.now() + self._wait
        self._wait = min(2 * self._wait, _LAST)

    def fail(self, why: Failure) -> bool:
        """Note that a worker has ended before it was ready; return whether no more will be started beside others."""
        self._failed += 1
        if self._failed < _FAILED_STARTS:
            return False
        self.short, self._again = why, math.inf
        return True

    def grant(self) -> None:
        """Note that a worker could be started after all: the host may have room for the others as well."""
        self.short = None

    def came(self) -> None:
        """Note that a worker is ready."""
        self._failed, self._wait = 0, _FIRST

    def missing(self, staying: int, coming: int, queued: int) -> int:
        """Return how many workers should be started now.

        Args:
            staying: How many there are, without those that are just leaving.
            coming: How many of these cannot have a task yet.
            queued: How many tasks wait.
        """
        if self.short is not None and staying and clock.now() < self._again:
            return 0
        return max(0, min(self._most - staying, queued - coming))

    def all_taken(self, workers: int) -> bool:
        """Tell whether ``workers`` are as many as will come, as far as that is known."""
        return workers >= (min(1, self._most) if self.short is not None else self._most)

"""Places: how many workers a pool should have, and when to try again where one could not be started."""

from __future__ import annotations

from typing import Final

from unirun import clock
from unirun.refusal import Failure

__all__ = ["Places"]

#: Seconds after a refusal until it is tried again to start a worker, while there are others; twice as many after the
#: next one. A refused fork costs its parent a millisecond, a refused start by another method some ten.
_FIRST: Final = 1.0
_LAST: Final = 60.0
#: The same where no worker is left; and after the last of these the pool is given up.
_ATTEMPTS: Final = (0.05, 0.1, 0.2, 0.4)
#: Workers that end before they are ready, one after the other, until no more are started for a while.
_FAILED_STARTS: Final = 5


class Places:
    """What the workers of a pool should be. Used with the lock of the dispatch, or by the manager thread alone.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self.most: int = most
        #: Why there are fewer than asked for, or ``None``.
        self.short: Failure | None = None
        self._again = 0.0  # when to try again,
        self._wait = _FIRST  # and after the next refusal so many seconds later
        self._attempts = iter(_ATTEMPTS)
        self._failed = 0

    def refuse(self, why: Failure) -> None:
        """Note that the host has refused a worker beside others."""
        self.short = why
        self._again = clock.now() + self._wait
        self._wait = min(2 * self._wait, _LAST)

    def refuse_last(self, why: Failure) -> bool:
        """Note that the host has refused the only worker; return whether it is to be tried again."""
        seconds = next(self._attempts, None)
        if seconds is None:
            return False
        self.short, self._again = why, clock.now() + seconds
        return True

    def fail(self, why: Failure) -> bool:
        """Note that a worker has ended before it was ready; return whether none will be started now beside others."""
        self._failed += 1
        if self._failed < _FAILED_STARTS:
            return False
        self.short, self._again = why, clock.now() + _LAST
        return True

    def grant(self) -> None:
        """Note that a worker could be started after all: the host may have room for the others as well."""
        self.short = None
        self._attempts = iter(_ATTEMPTS)

    def came(self) -> None:
        """Note that a worker is ready."""
        self._failed, self._wait = 0, _FIRST

    def lost(self, left: int) -> None:
        """Note that a worker has ended; with no others ``left`` there is no waiting for the next one."""
        if not left:
            self._again = 0.0

    def missing(self, staying: int, coming: int, queued: int) -> tuple[int, float]:
        """Return how many workers should be started, and when, of ``clock.now``.

        Args:
            staying: How many there are, without those that are just leaving.
            coming: How many of these cannot have a task yet.
            queued: How many tasks wait.
        """
        return max(0, min(self.most - staying, queued - coming)), 0.0 if self.short is None else self._again

    @property
    def next_attempt(self) -> float | None:
        """When it will be tried again to start a worker, of ``clock.now``; ``None`` if nothing is waited for."""
        return self._again if self.short is not None and clock.now() < self._again else None

    def all_taken(self, workers: int) -> bool:
        """Tell whether ``workers`` are as many as will come before the next attempt, as far as that is known."""
        waiting = self.short is not None and clock.now() < self._again
        return workers >= (min(1, self.most) if waiting else self.most)

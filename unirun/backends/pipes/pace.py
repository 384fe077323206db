"""How many tasks to have on their way to a worker: sized by how long tasks have been taking."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["STARVED", "STUCK", "Pace"]

#: Seconds of work to have on its way: enough that the next message arrives before it is done.
_AHEAD: Final = 0.002
#: Tasks from this many seconds on are sent one by one: the pause between two is then no loss.
_LONG: Final = 0.01
#: Tasks at most. As many tokens fit into the smallest pipe there is, 4096 bytes where a user has too many.
_MOST: Final = 256
#: Seconds without an answer after which what a worker holds behind its task goes to an idle one.
STUCK: Final = 0.002
#: The same where no worker is idle, because others submit and submit: it goes to the front of the queue.
STARVED: Final = 0.01


class Pace:
    """An estimate of what a task takes: a long one counts at once, and is forgotten by many short ones.

    Overestimating costs a system call per task; underestimating lets tasks wait behind a long one until they are taken
    back. So the first is preferred. Guarded by the pool's lock.
    """

    def __init__(self) -> None:
        self._seconds = math.inf

    def learn(self, seconds: float) -> None:
        """Take note that a task took that long."""
        if seconds >= self._seconds or self._seconds == math.inf:
            self._seconds = seconds
        else:
            self._seconds += 0.2 * (seconds - self._seconds)

    def at_least(self, seconds: float) -> None:
        """Take note that a task is running for that long."""
        if self._seconds < math.inf:
            self._seconds = max(self._seconds, seconds)

    @property
    def ahead(self) -> int:
        """How many tasks to have on their way to a worker, the running one included."""
        if self._seconds >= _LONG:
            return 1
        return min(_MOST, max(2, int(_AHEAD / max(self._seconds, 1e-6))))

    @property
    def worth_taking_back(self) -> bool:
        """Whether tasks take so long that an idle worker should not wait for another one to be stuck."""
        return self._seconds >= STUCK / 4

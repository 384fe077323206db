"""How many items a batch should have: by how long the newest ones took."""

from __future__ import annotations

import math
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["AHEAD", "ITEMS", "LIMIT", "LOOK", "WINDOW", "Pace", "at_once"]

#: Seconds after which a worker begins no further item of a batch: several times what one should take, since the workers
#: and this process may share the processors.
LIMIT: Final = 0.02
#: Batches on their way for each worker: one that runs and one that waits for it.
AHEAD: Final = 2
#: Batches for each worker of which the results wait to be asked for, where the iterable is read as results are taken.
#: So many that the others go on while the first one takes longer than most; and items in all, some 30 MB of numbers.
WINDOW: Final = 8
ITEMS: Final = 1 << 16
#: Seconds of taking items after which it is time to look whether a worker is idle.
LOOK: Final = 0.0005
#: Seconds of work in one batch: some twenty times what it takes to send one and to hear of it, which is time of the
#: workers where these have all processors. With 2 ms maps of items of 5 to 500 us took a tenth longer; with 8 no less.
_WORK: Final = 0.005
#: Seconds of work that a worker's share of what is left must have to be sent in two halves: less is not worth it.
_LEAST: Final = 0.002
#: Seconds that an item may take to travel with others.
_SHORT: Final = 0.002
#: Seconds that an item takes at least, whatever a coarse clock says.
_CLOCK: Final = 1e-9
#: Items in one batch at most.
_MOST: Final = 16384


def at_once(count: int, seconds: float) -> int:
    """Return how many items to take from the iterables at once, after taking ``count`` took so long."""
    return 2 * count if seconds < LOOK else max(1, int(count * LOOK / seconds))


class Pace:
    """An estimate of what an item takes: the longest average of the newest batches, one for each worker.

    The workers should finish together. So the batches go in rounds, in each of which all workers get equal ones: half
    of what is left. That is "factoring"; see Hummel, Schonberg and Flynn, Communications of the ACM 35 (8), 1992.

    Guarded by the lock of the map.

    Args:
        workers: How many batches count.
        seconds: What it took in an earlier map, or ``None``.
    """

    def __init__(self, workers: int, seconds: float | None) -> None:
        self._newest: deque[float] = deque([] if seconds is None else [seconds], maxlen=workers)
        self._workers = workers
        # Items in a batch: as many as the newest one that was cut short has done, and more by and by.
        self._most = _MOST
        self._share = 0  # the items in a batch of this round,
        self._round = 0  # of which so many are to come
        self._done, self._took = 0, 0.0  # items, and the seconds that all of them took

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return bool(self._newest)

    @property
    def seconds(self) -> float:
        """What an item takes."""
        return max(self._newest, default=math.inf)

    @property
    def average(self) -> float:
        """What an item took so far, for later maps: a batch that the host has held up says little about these."""
        return max(self._took / self._done, _CLOCK) if self._done else self.seconds

    def learn(self, seconds: float, count: int, given: int) -> None:
        """Take note that ``count`` of the ``given`` items of a batch were done, and in how many seconds."""
        self._done += count
        self._took += seconds
        if count < given and seconds > LIMIT:  # because of a long one, and those beside it may be the same
            self._newest.append(seconds)
            # Or because they are long only in a batch, where their unpickling counts: what was cut off is sent again.
            self._most = count
            return
        self._newest.append(max(seconds / count, _CLOCK))
        if count < given:  # because their results are large
            self._most = count
        elif count >= self._most:
            self._most = min(2 * count, _MOST)

    def ahead(self, size: int) -> int:
        """Return how many batches of ``size`` items should be on their way for each worker: more of short ones."""
        return max(AHEAD, min(WINDOW, int(_WORK / (size * self.seconds))))

    def wanted(self, left: int | None, most: int | None) -> int:
        """Return how many items the next batch should have.

        Args:
            left: How many are left, this batch included; ``None`` if that is not known.
            most: More it must not have.
        """
        seconds = self.seconds
        if seconds > _SHORT:
            return 1
        count = int(min(self._most, _MOST if most is None else most, _WORK / seconds))
        if left is not None:
            count = min(count, self._part(left, seconds))
        return max(1, count)

    def _part(self, left: int, seconds: float) -> int:
        if not self._round:
            share = left / self._workers
            self._share = math.ceil(share / 2 if share * seconds >= _LEAST else share)
            self._round = self._workers
        self._round -= 1
        return self._share

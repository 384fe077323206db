"""How many items a batch should have: by how long the newest ones took."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

__all__ = ["Pace"]

#: Seconds of work in one batch: some ten times what it takes to send one and to hear of it.
_WORK: Final = 0.002
#: Seconds of work that no batch goes below on account of the end being near: sending more of them would take longer.
_LEAST: Final = 0.0004
#: Seconds that an item may take to travel with others.
_SHORT: Final = 0.001
#: Items in one batch at most.
_MOST: Final = 8192


class Pace:
    """An estimate of what an item takes: the longest average of the newest batches, one for each worker.

    Guarded by the lock of the map.

    Args:
        workers: How many batches count.
        seconds: What it took in an earlier map, or ``None``.
    """

    def __init__(self, workers: int, seconds: float | None) -> None:
        self._newest: deque[float] = deque([] if seconds is None else [seconds], maxlen=workers)

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return bool(self._newest)

    @property
    def seconds(self) -> float:
        """What an item takes."""
        return max(self._newest, default=math.inf)

    def learn(self, seconds: float) -> None:
        """Take note that the items of a batch took that long, each."""
        self._newest.append(seconds)

    def wanted(self, share: int | None, most: int | None) -> int:
        """Return how many items the next batch should have.

        Args:
            share: As many as each batch would have if all that is left were sent now; ``None`` if that is not known.
            most: More it must not have.
        """
        seconds = self.seconds
        if seconds > _SHORT:
            return 1
        limit = _MOST if most is None else min(_MOST, most)
        count = int(min(limit, _WORK / seconds))
        if share is not None:  # the workers should finish together
            count = min(count, max(share, int(min(limit, _LEAST / seconds))))
        return max(1, count)

"""The clock by which this package waits and measures: it goes on where a program's tests stop ``time``."""

from __future__ import annotations

import time
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["now"]

#: Seconds since some moment, never fewer than before, as of ``time.monotonic``. freezegun replaces that one, in every
#: module that has it, and returns the real time to some of those who ask: two clocks, of which one stands still.
now: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, "CLOCK_MONOTONIC")
    else partial(time.monotonic)  # Windows
)

"""The clock by which this package waits and measures: it goes on where a program's tests stop ``time``."""

from __future__ import annotations

import time
from functools import partial
from types import BuiltinFunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["now"]

#: Seconds since some moment, never fewer than before, as of ``time.monotonic``. freezegun replaces that one, in every
#: module that has it, and returns the real time to some of those who ask: two clocks, of which one stands still. It
#: does not look in here. Where it has come first, the same clock has another name; that one takes twice as long.
now: Callable[[], float] = (
    partial(time.monotonic)
    if isinstance(time.monotonic, BuiltinFunctionType) or not hasattr(time, "CLOCK_MONOTONIC")  # Windows
    else partial(time.clock_gettime, time.CLOCK_MONOTONIC)
)

"""The clock by which this package waits and measures: it goes on where a program's tests stop ``time``."""

from __future__ import annotations

import sys
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
    partial(time.perf_counter)  # the other one has steps of 16 ms there, up to Python 3.12
    if sys.platform == "win32"
    else partial(time.monotonic)
    if isinstance(time.monotonic, BuiltinFunctionType) or not hasattr(time, "CLOCK_MONOTONIC")
    else partial(time.clock_gettime, time.CLOCK_MONOTONIC)
)

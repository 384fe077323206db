"""Whether this host refuses semaphores: one is made as ``multiprocessing`` would, already unlinked.

It needs no module that ``multiprocessing.pool`` has not loaded: the hook asks in every program that imports that one.
"""

from __future__ import annotations

import os

__all__ = ["refusal"]


def refusal() -> ImportError | OSError | None:
    """Return why no semaphore can be made just now, or ``None`` if one can."""
    try:
        from _multiprocessing import SemLock  # type: ignore[import-not-found]
        from multiprocessing.process import current_process
    except ImportError as error:
        return error.with_traceback(None)
    # With the prefix that the stdlib's have: a sandbox may allow that one and no other.
    prefix = current_process()._config["semprefix"]  # type: ignore[attr-defined]
    try:
        SemLock(1, 1, 1, f"{prefix}-{os.urandom(6).hex()}-probe", True)
    except OSError as error:
        return error.with_traceback(None)
    return None

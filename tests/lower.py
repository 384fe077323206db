"""What serves a request for processes where none can be started: it depends on the Python and on the start method."""

import multiprocessing
import sys
from typing import Final

__all__ = ["INTERPRETERS", "lower"]

#: Whether this Python has interpreters that may serve.
INTERPRETERS: Final = sys.implementation.name == "cpython" and sys.version_info >= (3, 14)


def lower(method: str | None = None) -> str:
    """Return the backend below processes and pipes.

    Args:
        method: The start method asked for; ``None`` means the default one. Forked workers have the program's state, as
            threads do, and interpreters do not.
    """
    forked = (method or multiprocessing.get_all_start_methods()[0]) == "fork"
    return "interpreters" if INTERPRETERS and not forked else "threads"

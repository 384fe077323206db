"""How the tests open a pool over pipes, and what they give to it."""

import multiprocessing
from typing import Any

from unirun.backends.pipes.pool import PipePool, open_pipes
from unirun.backends.pipes.terms import Terms
from unirun.backends.turns import numbers

__all__ = ["opened", "place"]


def opened(
    method: str = "fork", workers: int = 2, *, initializer: Any = None, initargs: Any = (), **terms: Any
) -> PipePool:
    return open_pipes(workers, multiprocessing.get_context(method), initializer, initargs, terms=Terms(**terms))


def place() -> tuple[int, int]:
    """Return the place of a task that is submitted next."""
    return next(numbers), 0

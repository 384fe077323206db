"""How the tests open a pool over pipes."""

import multiprocessing
from typing import Any

from unirun.backends.pipes.pool import PipePool, open_pipes
from unirun.backends.pipes.terms import Terms

__all__ = ["opened"]


def opened(
    method: str = "fork", workers: int = 2, *, initializer: Any = None, initargs: Any = (), **terms: Any
) -> PipePool:
    return open_pipes(workers, multiprocessing.get_context(method), initializer, initargs, terms=Terms(**terms))

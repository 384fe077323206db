"""The pickler for what plain pickling cannot send: lambdas, closures, what an interactive ``__main__`` defines."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["by_value"]


@cache
def by_value() -> Any:
    """Return a class like ``pickle.Pickler``, or ``None`` where it is not installed.

    Looked for when it is needed: most programs never do, and its import takes longer than that of this package.
    """
    try:
        from cloudpickle import Pickler
    except (ImportError, AttributeError):  # cloudpickle 3.1 cannot be imported on PyPy 3.11, which it says in this way
        return None
    return Pickler

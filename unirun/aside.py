"""Who gets the stdlib's own pool from a managed class: callers inside of ``disabled``, and excluded modules."""

from __future__ import annotations

from contextlib import contextmanager

from unirun import config
from unirun.caller import caller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import ContextVar

__all__ = ["disabled", "stands_aside"]

#: The variable that ``disabled`` sets, once it was called: most programs never do, and need no `contextvars`.
_variable: list[ContextVar[bool]] = []


@contextmanager
def disabled() -> Iterator[None]:
    """Let the managed classes construct the stdlib's own pools, in this thread or asyncio task, inside a ``with``
    block.

    ``ProcessPoolExecutor(...)`` then returns an instance of the stdlib's class, which knows nothing of unirun. A
    subclass of the program's is what it is, and its pools work as if it were derived from the stdlib's. Pools that were
    constructed before go on as they are.
    """
    from contextvars import ContextVar

    if not _variable:
        _variable.append(ContextVar("unirun_disabled", default=False))
    variable = _variable[0]  # the same for all, whichever thread came first
    token = variable.set(True)
    try:
        yield
    finally:
        variable.reset(token)


def stands_aside(kind: type | None = None) -> bool:
    """Tell whether the constructor that is being called is to make the stdlib's own pool, or a ``kind`` of it."""
    if _variable and _variable[0].get():
        return True
    excluded = config.autopatch_exclude()
    if not excluded:
        return False
    if kind is not None and is_excluded(kind.__module__, excluded):
        return True
    site = caller()
    return site is not None and is_excluded(str(site.module_globals.get("__name__")), excluded)


def is_excluded(module: str, excluded: tuple[str, ...]) -> bool:
    """Tell whether ``module`` is one of ``excluded``, or inside of one."""
    return any(module == each or module.startswith(f"{each}.") for each in excluded)

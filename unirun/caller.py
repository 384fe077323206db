"""Whose line asked: the innermost one on the stack that is the user's own, for warnings and traces."""

from __future__ import annotations

import warnings
from sys import _getframe  # as it is now, whatever a program's tests put in its place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Final

__all__ = ["Site", "caller"]


class Site:
    """A line of the user's code, as ``warnings`` wants it. Keeps the module's globals, not the frame."""

    __slots__ = ("filename", "lineno", "module_globals")

    def __init__(self, filename: str, lineno: int, module_globals: dict[str, Any]) -> None:
        self.filename: str = filename
        self.lineno: int = lineno
        self.module_globals: dict[str, Any] = module_globals

    def __str__(self) -> str:
        return f"{self.filename}:{self.lineno}"

    def warn(self, warning: Warning) -> None:
        """Issue ``warning`` as if this line had called ``warnings.warn``."""
        warnings.warn_explicit(
            warning,
            category=type(warning),
            filename=self.filename,
            lineno=self.lineno,
            module=str(self.module_globals.get("__name__") or "<unknown>"),
            registry=self.module_globals.setdefault("__warningregistry__", {}),
        )


#: Whose frames stand between the user's line and a pool.
_PASSED_THROUGH: Final = (
    *("unirun", "_unirun_autopatch", "importlib"),
    *("concurrent", "asyncio", "contextlib", "threading", "functools"),
)


def caller() -> Site | None:
    """Return the innermost line on this thread's stack that is the user's own."""
    frame: FrameType | None = _getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__")  # anything at all in code that was exec'd
        if not isinstance(name, str) or name.partition(".")[0] not in _PASSED_THROUGH:
            return Site(frame.f_code.co_filename, frame.f_lineno, frame.f_globals)
        frame = frame.f_back
    return None

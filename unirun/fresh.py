"""What a worker that is started now would have, and one that was started before has not: a reason to start anew."""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from functools import lru_cache
from typing import Any, Final

__all__ = ["Birth"]

#: Seconds by which the time that the kernel notes for a change may be behind the clock: a tick of its own, of 10 ms at
#: most (CONFIG_HZ=100).
_TICK: Final = 0.01


class Birth:
    """The moment at which workers are started that do not fork from this process, and what they get to see."""

    def __init__(self) -> None:
        self._when = time.time() - _TICK
        self._surroundings = _surroundings()

    def is_over(self) -> bool:
        """Tell whether workers that are started now would see something else.

        Another environment, current directory, ``sys.path`` or ``sys.argv``; or a module of the program's own whose
        file was changed since: its content, or what lies under its name. Modules of the standard library and of
        ``site-packages`` are not asked about, nor those that only a worker has imported.
        """
        return _surroundings() != self._surroundings or any(_changed_at(path) > self._when for path in _own_files())


def _surroundings() -> tuple[Any, ...]:
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        folder = ""
    return dict(os.environ), folder, list(sys.path), list(sys.argv)


def _changed_at(path: str) -> float:
    """Return when a file was changed; unlike its modification time nobody can set that back."""
    try:
        return os.stat(path).st_ctime
    except OSError:
        return 0.0  # in an archive, or gone: a new worker could not read it either


def _own_files() -> list[str]:
    """Return the files of the program's own modules."""
    roots = _roots()
    files = []
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and not path.startswith(roots):
            files.append(path)
    return files


@lru_cache(maxsize=1)
def _roots() -> tuple[str, ...]:
    """Return the folders of modules that do not change while a program runs."""
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({os.path.join(paths[name], "") for name in names} | {"<"})

"""What a worker that is started now would have, and one that was started before has not: a reason to start anew."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any, Final
from zipimport import zipimporter

__all__ = ["Birth", "ForkedBirth"]

#: Seconds by which the time that the kernel notes for a change may be behind the clock: a tick of its own, of 10 ms at
#: most (CONFIG_HZ=100).
_TICK: Final = 0.01
#: What is a folder of installed modules in any of Python's prefixes.
_INSTALLED: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
#: What a fork server preloads that is told nothing else.
_PRELOADED: Final = ["__main__"]


class Birth:
    """The moment at which workers are started, and what they get to see."""

    def __init__(self, start_method: str | None = "spawn") -> None:
        self._spawned = start_method == "spawn"
        self._forked = ForkedBirth() if start_method == "fork" else None
        self._when = time.time() - _TICK
        self._surroundings = _surroundings()
        self._settings = _settings(self._spawned)
        self._files = {path: _identity(path) for path in _own_files()}

    def is_over(self) -> bool:
        """Tell whether workers that are started now would see something else.

        That is: another environment, current directory, ``sys.path``, ``sys.argv`` or main module; other settings of
        multiprocessing; other rights, limits or CPUs; where they are spawned, other standard files, which a fork server
        has had since it was started; or a module of the program's own whose file is not the same any more. Modules of
        the standard library and of ``site-packages`` are not asked about, nor those that only a worker has imported,
        nor the umask, which cannot be read without being set for all threads, nor how signals are handled. And where
        workers are forked, a function or a class of the main module that is new, or defined anew.
        """
        if self._forked is not None and self._forked.is_over():
            return True
        elsewhere = self.is_elsewhere() or _settings(self._spawned) != self._settings
        return elsewhere or any(map(self._is_new, _own_files()))

    def is_elsewhere(self) -> bool:
        """Tell only about the environment, the current directory, ``sys.path`` and ``sys.argv``: that is quick."""
        return _surroundings() != self._surroundings

    def _is_new(self, path: str) -> bool:
        identity = _identity(path)
        try:
            return identity != self._files[path]
        except KeyError:  # imported since; a worker may have done so before
            self._files[path] = identity
            return identity is not None and max(identity[-2:]) / 1e9 > self._when


class ForkedBirth:
    """The moment at which workers are forked. They have the globals of then, by design; what a notebook has not."""

    def __init__(self) -> None:
        self._look(_main())

    def _look(self, main: dict[str, Any]) -> None:
        # Only these are kept alive. What else has a name there may be large, and is known by its address.
        self._defined = {name: value for name, value in main.items() if _defines(name, value)}
        self._seen = dict(zip(main, map(id, main.values()), strict=True))

    def is_over(self) -> bool:
        """Tell whether the main module has functions or classes now that it had not: new ones, or defined anew."""
        main, seen = _main(), self._seen
        if main.keys() == seen.keys() and list(map(id, main.values())) == list(seen.values()):
            return False  # nearly always; a main module may have thousands of names
        for name, value in main.items():
            if seen.get(name) != id(value) and self._defined.get(name) is not value and _defines(name, value):
                return True
        self._look(main)  # only variables have changed
        return False


def _main() -> dict[str, Any]:
    names = getattr(sys.modules.get("__main__"), "__dict__", None)
    return names.copy() if type(names) is dict else {}


def _defines(name: str, value: Any) -> bool:
    """Tell whether a name of the main module is that of a function or class which is pickled by it.

    No imported ones are; nor what else has a name there, such as a variable that goes through functions.
    """
    # Without asking the value itself, as in `_file`; and what it has may be of the program's own making.
    try:
        if issubclass(type(value), type):
            module, qualname = (type.__getattribute__(value, each) for each in ("__module__", "__qualname__"))
        elif type(value) is FunctionType:
            module, qualname = value.__module__, value.__qualname__
        else:  # what a decorator has made, such as `functools.lru_cache`
            names = object.__getattribute__(value, "__dict__")
            module, qualname = names.get("__module__"), names.get("__qualname__")
    except Exception:
        return False
    return type(module) is str and module == "__main__" and type(qualname) is str and qualname == name


def _identity(path: str) -> tuple[int, ...] | None:
    """Return what is another when a file is: the content, or what lies under the name. ``None`` if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # the latter for what no path can be
        return None
    # The last one tells of a change also where the modification time was set back, which it cannot be itself. (On
    # Windows it is when the file was made.)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _surroundings() -> tuple[Any, ...]:
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        folder = ""
    return _environment(), folder, list(sys.path), list(sys.argv)


def _environment() -> dict[str, str]:
    while True:
        try:
            return dict(os.environ)
        except KeyError:  # another thread has deleted a variable meanwhile
            pass


def _settings(spawned: bool) -> tuple[Any, ...]:
    # Here: whoever only uses threads loads this module too, and a Python may have no multiprocessing.
    from multiprocessing import process, spawn

    main = sys.modules.get("__main__")
    return (
        _folder(),
        getattr(getattr(main, "__spec__", None), "name", None),
        getattr(main, "__file__", None),
        spawn.get_executable(),
        list(sys.warnoptions),
        bytes(process.current_process().authkey),
        _preloaded(sys.modules.get("multiprocessing.forkserver")),
        _inherited(),
        _standard_files() if spawned else None,
    )


def _preloaded(module: Any) -> list[str]:
    server = getattr(module, "_forkserver", None)  # none while another thread imports it
    return list(server._preload_modules) if server else _PRELOADED


def _folder() -> tuple[Any, ...]:
    """Return which one the current directory is: another may have taken its place."""
    try:
        here = os.stat(".")
    except OSError:  # it cannot be read any more
        return ()
    return here.st_dev, here.st_ino


def _standard_files() -> list[tuple[int, int] | None]:
    """Return the standard files, as a new interpreter gets them."""
    files: list[tuple[int, int] | None] = []
    for fd in range(3):
        try:
            found = os.fstat(fd)
        except OSError:  # it is closed
            files.append(None)
        else:
            files.append((found.st_dev, found.st_ino))
    return files


def _inherited() -> tuple[Any, ...]:
    """Return what else a process hands on to those that it starts, where the platform has it."""
    if not hasattr(os, "getgroups"):
        return ()
    try:
        import resource
    except ImportError:  # some distributions have it apart
        return ()

    cpus = _asked(os.sched_getaffinity, 0) if hasattr(os, "sched_getaffinity") else None
    priority = _asked(os.getpriority, os.PRIO_PROCESS, 0)  # not `nice(0)`, which sets it, too
    limits = [_asked(resource.getrlimit, getattr(resource, name)) for name in _limits()]
    return os.getuid(), os.geteuid(), os.getgid(), os.getegid(), _asked(os.getgroups), priority, cpus, limits


def _asked(ask: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the system says; ``None`` where it does not: it would say as little in a new worker."""
    try:
        return ask(*arguments)
    except OSError as error:  # a sandbox forbids the question
        if error.errno is None:
            raise  # of the making of a signal handler, whose deadline it may tell
        return None


@lru_cache(maxsize=1)
def _limits() -> tuple[str, ...]:
    import resource

    return tuple(name for name in dir(resource) if name.startswith("RLIMIT_"))


# For which modules the program's own files were looked for, and what was found: looking takes as long as asking about
# them. Replaced as a whole.
_found: tuple[list[str], list[str]] = ([], [])


def _own_files() -> list[str]:
    """Return the files of the program's own modules."""
    global _found
    names = list(sys.modules)
    if names != _found[0]:
        _found = names, _find_own_files()
    return _found[1]


def _find_own_files() -> list[str]:
    roots = _roots()
    files = set()
    for module in list(sys.modules.values()):
        path = _file(module)
        if path is not None and not path.startswith(roots) and not any(part in path for part in _INSTALLED):
            files.add(path)
    return sorted(files)


def _file(module: Any) -> str | None:
    """Return the file of a module, or the archive that it is in."""
    try:
        # Without asking the module itself: one that loads itself when it is asked for something must not do so now.
        names: Any = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return None
    loader, path = names.get("__loader__"), names.get("__file__")
    if isinstance(loader, zipimporter):
        path = loader.archive
    return path if isinstance(path, str) else None


@lru_cache(maxsize=1)
def _roots() -> tuple[str, ...]:
    """Return the folders of modules that do not change while a program runs."""
    try:
        import sysconfig

        paths = sysconfig.get_paths()
    except (ImportError, AttributeError):  # a Python that was stripped of what it was built with
        return os.path.join(os.path.dirname(os.__file__), ""), "<"
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({os.path.join(paths[name], "") for name in names} | {"<"})

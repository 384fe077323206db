"""What the hook replaces, in a module that was just executed: the stdlib's pool classes by unirun's own.

    concurrent.futures.process ─ executed ─┐                          ┌─► the module's name
                                           ├─ both there? ─ settings ─┤
    unirun.process ───────────── executed ─┘         right?           └─► the package's, if it was resolved before

``unirun.process`` derives from the stdlib's class and so imports the stdlib's module; whichever of the two a program
imports first, both are complete only afterwards. The package resolves its names from its submodules when they are asked
for, on every supported version, and so follows by itself.
"""

from __future__ import annotations

import sys
from importlib import import_module, reload

from unirun.kinship import acknowledge, stdlib_class

TYPE_CHECKING = False  # loaded with `concurrent.futures`, as hook.py is
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["REPLACED", "TOLD", "failed", "loaded", "loading", "place", "remove", "settings_are_right"]

_PROCESS = "concurrent.futures.process"
_THREAD = "concurrent.futures.thread"
_INTERPRETER = "concurrent.futures.interpreter"
#: The stdlib's modules and unirun's, and the name that both have.
_HOMES = {_PROCESS: "unirun.process", _THREAD: "unirun.thread"}
_PARTS = {_PROCESS: "unirun.backends.processes", _THREAD: "unirun.backends.threads"}
_NAMES = {_PROCESS: "ProcessPoolExecutor", _THREAD: "ThreadPoolExecutor"}

#: What was replaced, by the name of the module: the stdlib's class and the one that stands in its place.
REPLACED: dict[str, tuple[type[Any], type[Any]]] = {}
#: The modules of which the hook knows, as they were loaded while it was on.
TOLD: set[str] = set()
#: What was said about settings that are not accepted, so that it is said once.
_complaints: set[str] = set()


def loading(module: ModuleType) -> bool:
    """Do what is due before ``module`` is executed; return whether anything was."""
    TOLD.add(module.__name__)
    if module.__name__ != _INTERPRETER:
        return False
    # Its pool is a thread pool of the stdlib's, and is derived from whatever stands in that place. Other threads may
    # meanwhile find the stdlib's class too: `place` puts right what the package made of it.
    thread = import_module(_THREAD)
    if _THREAD not in REPLACED or not _is_ours(thread.ThreadPoolExecutor, _THREAD):
        return False
    remove(_THREAD)
    return True


def loaded(module: ModuleType) -> bool:
    """Do what is due after ``module`` was executed; return whether anything was."""
    name = module.__name__
    TOLD.add(name)
    if not settings_are_right():
        return False
    if name == "multiprocessing.pool":
        from unirun.autopatch.threadpool import mend

        return mend(module)
    if name == _INTERPRETER:
        placed = place(_THREAD)
        if placed:
            acknowledge(*REPLACED[_THREAD])  # its pools are instances of ThreadPoolExecutor
        return placed
    return place(next(stdlib for stdlib, ours in _HOMES.items() if name in (stdlib, ours)))


def failed(module: ModuleType, error: BaseException) -> bool:
    """Do what is due after ``module`` could not be executed; return whether it can be used all the same."""
    if module.__name__ == _INTERPRETER:
        place(_THREAD)
    # Without _multiprocessing (Pyodide, iOS) this one cannot be executed before Python 3.13; nor without all of it.
    missing = isinstance(error, ImportError) and error.name in ("_multiprocessing", "multiprocessing")
    if module.__name__ != _PROCESS or not missing or not settings_are_right():
        return False
    from unirun.backends.standin import BrokenProcessPool
    from unirun.process import ProcessPoolExecutor

    module.__dict__.update(BrokenProcessPool=BrokenProcessPool, ProcessPoolExecutor=ProcessPoolExecutor)
    return True


def place(name: str) -> bool:
    """Put unirun's class in the place of the stdlib's, in the module ``name`` and in the package; return whether it is.

    It is not yet where one of the two modules is still being executed.
    """
    module, attribute = sys.modules.get(name), _NAMES[name]
    present: Any = module and module.__dict__.get(attribute)
    # Another thread that is loading it may wait for the stdlib's module, which this one loads: so this must not wait.
    managed: Any = getattr(sys.modules.get(_HOMES[name]) or import_module(_HOMES[name]), attribute, None)
    if present is None or managed is None:
        return False
    if present is not managed:
        if not _is_ours(present, name) and getattr(present, "__module__", None) != name:
            return False  # a class of the program's, which is to see each pool, or what a test has put there
        if stdlib_class(name, attribute) not in managed.__mro__:
            # The program dropped the module from sys.modules and has imported it anew: so must those made of it be.
            reload(import_module(_PARTS[name]))
            managed = getattr(reload(import_module(_HOMES[name])), attribute)
        REPLACED[name] = stdlib_class(name, attribute), managed
        setattr(module, attribute, managed)
    package = sys.modules["concurrent.futures"].__dict__
    # Not by getattr: from 3.15 on that would import the submodule.
    if package.get(attribute) in (present, REPLACED[name][0]) or _is_ours(package.get(attribute), name):
        package[attribute] = managed
    return True


def remove(name: str) -> None:
    """Undo ``place``."""
    original, managed = REPLACED.pop(name)
    for holder in (name, "concurrent.futures"):
        names = getattr(sys.modules.get(holder), "__dict__", {})  # a program may have dropped it
        present = names.get(_NAMES[name])
        if present is managed or _is_ours(present, name):
            names[_NAMES[name]] = original


def _is_ours(present: Any, name: str) -> bool:
    """Tell whether a class is unirun's for the module ``name``, also one of before a reload."""
    return getattr(present, "__module__", None) == _HOMES[name]


def settings_are_right() -> bool:
    """Tell whether every ``UNIRUN_*`` variable has a value that is accepted; warn once about one that has not.

    A program that never heard of unirun must not fail by them, and does not get half of what they say.
    """
    import os

    if not any(name.startswith("UNIRUN_") for name in os.environ):
        return True
    from unirun import config
    from unirun.caller import caller
    from unirun.errors import ConfigError

    try:
        while True:
            try:
                config.resolve()
                break
            except RuntimeWarning:
                pass  # made an error; of a variable that is none of ours, once for each. No reason to fail an import
        config.autopatch_exclude()
        return config.autopatch_enabled() and config.compat_mode() == "managed"
    except ConfigError as error:
        complaint = f"unirun leaves concurrent.futures as it is: {error}"
    site = caller()
    if complaint not in _complaints and site is not None and not _in_worker():
        _complaints.add(complaint)
        try:
            site.warn(RuntimeWarning(complaint))
        except RuntimeWarning:
            pass  # made an error, too; `python -m unirun doctor` says it again
    return False


def _in_worker() -> bool:
    """Tell whether multiprocessing has started this process, or is about to: the program that did so has been told."""
    process: Any = sys.modules.get("multiprocessing.process")
    if not hasattr(process, "_current_process"):
        return False  # it is not there, or half of it, as another thread imports it; in a worker all of it is
    return process.parent_process() is not None or hasattr(process.current_process(), "_inheriting")

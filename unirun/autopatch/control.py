"""Turning the hook on and off from a program, and seeing whether and how it is on."""

from __future__ import annotations

import importlib.util
import os.path
import sys
import threading
from collections.abc import Collection, Iterator
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any, Final

from unirun import config
from unirun.aside import is_excluded
from unirun.autopatch import hook, substitution
from unirun.caller import caller
from unirun.errors import ConfigError
from unirun.kinship import acknowledge, forget
from unirun.values import Value

__all__ = ["Handle", "Status", "install", "status", "uninstall"]

#: How the finder of the `.pth` line is called, and its module.
_LINE: Final = "unirun_autopatch"
_COMPANION: Final = "_unirun_autopatch"
#: The submodules whose names are replaced.
_STDLIB: Final = ("concurrent.futures.process", "concurrent.futures.thread")

_lock = threading.RLock()  # guards the finders on sys.meta_path and what is replaced, against a second install


class Status(Value):
    """Whether the hook is on in this interpreter, and what it did.

    Attributes:
        active: A program that asks for the stdlib's pool classes gets the managed ones.
        by: What turned it on: ``"pth"``, ``"install"``, ``"run"`` (``python -m unirun run``), or ``None``.
        file: The ``.pth`` file that did, or could, as far as it can be found.
        off_because: What keeps it from acting, in words, or ``None``.
        replaced: The names that are replaced by now, with the class that stands there.
        left: Names that still mean the stdlib's class, because they were imported before ``install``.
        early: Modules that were loaded before the line of the ``.pth`` file was read, as by an earlier one. They hand
            out the stdlib's classes until the program uses unirun's pools, or calls ``install``.
        errors: What went wrong, by module, in words.
    """

    active: bool
    by: str | None
    file: str | None
    off_because: str | None
    replaced: dict[str, str]
    left: tuple[str, ...]
    early: tuple[str, ...]
    errors: dict[str, str]


class Handle:
    """What ``install`` did; as a context manager it undoes that at the end of the block.

    Attributes:
        changed: This ``install`` turned the hook on; it was off before.
        rebound: Names in other modules that meant the stdlib's class and now mean the managed one, as ``module.name``.
        left: Those that still mean the stdlib's: excluded modules, and classes that are derived from it.
    """

    def __init__(self, changed: bool, rebound: tuple[str, ...], left: tuple[str, ...]) -> None:
        self.changed: bool = changed
        self.rebound: tuple[str, ...] = rebound
        self.left: tuple[str, ...] = left

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.uninstall()

    def uninstall(self) -> None:
        """Turn the hook off, if this ``install`` turned it on."""
        if self.changed:
            self.changed = False
            uninstall()

    def __repr__(self) -> str:
        return f"<Handle changed={self.changed} rebound={list(self.rebound)} left={list(self.left)}>"


#: Stands where the line of the ``.pth`` file would have put its own; made as that one is.
_FINDER: Final[Any] = SimpleNamespace(name=_LINE, by="install", find_spec=hook.find_spec)


_left: tuple[str, ...] = ()
#: The modules and names that meant a managed class before the hook was on: they had imported it from unirun.
_own: frozenset[tuple[str, str]] = frozenset()


def install() -> Handle:
    """Turn the hook on in this process, where no ``.pth`` file did: zipapps, notebooks, Pyodide, PYTHONPATH.

    Modules that have imported the classes before are changed too, as far as the names in them are concerned; a warning
    and the handle name what could not be. ``UNIRUN_AUTOPATCH=0`` and ``UNIRUN_COMPAT_MODE=passthrough`` forbid all of
    it.

    Returns:
        A handle that says what was done, and is a context manager that undoes it.

    Raises:
        ConfigError: A ``UNIRUN_*`` variable has a value that is not accepted.
    """
    global _left, _own
    config.resolve()
    excluded = config.autopatch_exclude()
    if not config.autopatch_enabled() or config.compat_mode() == "passthrough":
        return Handle(False, (), ())
    with _lock:
        changed = not _finders()
        if changed:
            sys.meta_path.insert(0, _FINDER)
        rebound: list[str] = []
        left: list[str] = []
        for name in _STDLIB:
            if name in sys.modules and substitution.place(name):
                original, managed = substitution.REPLACED[name]
                substitution.TOLD.add(name)
                acknowledge(original, managed)
                if changed:
                    _own = _own.union((module, key) for module, _, key in _meaning(managed))
                rebound += _rebind(original, managed, excluded, left)
        for name in ("concurrent.futures.interpreter", "multiprocessing.pool"):
            if name in sys.modules:
                hook.tell("loaded", sys.modules[name])  # what it lacks is for status() to say
        _left = tuple(left)
    if left:
        site = caller()
        message = f"unirun.autopatch.install() came after these were made of the stdlib's classes: {', '.join(left)}"
        if site is not None:
            site.warn(RuntimeWarning(message))
    return Handle(changed, tuple(rebound), tuple(left))


def uninstall() -> None:
    """Turn the hook off in this process, whatever turned it on, and give every name its stdlib class back.

    Pools that exist go on as they are.
    """
    global _left, _own
    with _lock:
        for finder in _finders():
            sys.meta_path.remove(finder)
        for name, (original, managed) in list(substitution.REPLACED.items()):
            substitution.remove(name)
            _rebind(managed, original, (), [], _own)
            forget(original)
        if "multiprocessing.pool" in sys.modules:
            from unirun.autopatch.threadpool import unmend

            unmend(sys.modules["multiprocessing.pool"])
        _left, _own = (), frozenset()


def status() -> Status:
    """Return whether the hook is on in this interpreter, through what, and what it replaced."""
    finders = _finders()
    by = getattr(finders[0], "by", "pth") if finders else None
    off = hook.switched_off() or (None if finders else "no finder of unirun's is on sys.meta_path")
    if off is None:
        try:
            config.resolve()
            config.autopatch_exclude()
            config.autopatch_enabled()
            config.compat_mode()
        except ConfigError as error:
            off = str(error)
    replaced = {
        f"{name}.{original.__name__}": f"{managed.__module__}.{managed.__qualname__}"
        for name, (original, managed) in substitution.REPLACED.items()
    }
    failures = {**hook.failures, **getattr(sys.modules.get(_COMPANION), "failures", {})}
    known = substitution.TOLD.union(failures)
    early = [name for name in _STDLIB if name in sys.modules and name not in known and off is None and by == "pth"]
    return Status(
        active=off is None,
        by=by,
        file=_file(),
        off_because=off,
        replaced=replaced,
        left=_left,
        early=tuple(early),
        errors={name: f"{type(error).__name__}: {error}" for name, error in failures.items()},
    )


def _finders() -> list[Any]:
    return [each for each in sys.meta_path if getattr(each, "name", None) == _LINE]


def _file() -> str | None:
    """Return the `.pth` file of the companion distribution, which stands beside its module."""
    spec = importlib.util.find_spec(_COMPANION)
    if spec is None or spec.origin is None:
        return None
    file = spec.origin.removesuffix(f"{_COMPANION}.py") + f"{_LINE}.pth"
    return file if os.path.exists(file) else None


def _rebind(
    old: type[Any], new: type[Any], excluded: tuple[str, ...], left: list[str], own: Collection[tuple[str, str]] = ()
) -> list[str]:
    """Let names of other modules that mean ``old`` mean ``new``; return them, and add to ``left`` what cannot be."""
    rebound = []
    for name, names, key in _meaning(old):
        if is_excluded(name, excluded):
            left.append(f"{name}.{key}")
        elif (name, key) not in own:
            names[key] = new
            rebound.append(f"{name}.{key}")
    if not issubclass(old, new):
        left += [f"{each.__module__}.{each.__qualname__} (derived from it)" for each in _derived(old, new)]
    return rebound


def _meaning(kind: type[Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the modules of the program that have a class, each with its names, and by which name it has it."""
    for name, names in _modules():
        yield from [(name, names, key) for key, value in list(names.items()) if value is kind]


def _modules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the modules of the program with their names, without waking those that are loaded lazily."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.partition(".")[0] not in ("unirun", "concurrent"):
            try:
                yield name, object.__getattribute__(module, "__dict__")
            except AttributeError:
                pass  # PyPy's cffi has modules without


def _derived(old: type[Any], new: type[Any]) -> Iterator[type[Any]]:
    for each in old.__subclasses__():
        if (
            not issubclass(new, each)
            and not issubclass(each, new)
            and each.__module__.partition(".")[0] not in ("unirun", "concurrent")
        ):
            yield each
            yield from _derived(each, new)

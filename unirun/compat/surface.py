"""The surface of a stdlib module with some of its names managed: what every compat module is made of."""

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType

from unirun.config import compat_mode

__all__ = ["surface"]


def surface(
    module: str, *, managed: Mapping[str, str] = MappingProxyType({}), submodules: tuple[str, ...] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a compat module.

    Args:
        module: The compat module's name; what follows ``unirun.compat.`` in it is the stdlib's.
        managed: The names that have a managed class, and the module that defines it. Which of the two such a name means
            is decided whenever it is looked up, by ``UNIRUN_COMPAT_MODE``.
        submodules: Those that the stdlib's package may have. Its own become attributes once something imported
            them; here they always are.

    Raises:
        ModuleNotFoundError: This Python has no such module.
    """
    original = _stdlib(module)

    def lookup(name: str) -> object:
        if name in managed and (compat_mode() == "managed" or original is None):
            # First what the hook waits for, as under `pools`: another thread must not get the stdlib's class meanwhile.
            _stdlib(f"unirun.compat.concurrent.futures.{managed[name].rpartition('.')[2]}")
            return getattr(importlib.import_module(managed[name]), name)
        try:
            if name in submodules:
                return importlib.import_module(f"{module}.{name}")
            if original is None:
                return getattr(importlib.import_module("unirun.backends.standin"), name)
            return getattr(original, name)
        except (AttributeError, ModuleNotFoundError) as error:
            raise AttributeError(f"module {module!r} has no attribute {name!r}") from error

    def names() -> list[str]:
        here = dir(original) if original is not None else importlib.import_module("unirun.backends.standin").__all__
        return sorted({*here, *managed, *submodules})

    return lookup, names


def _stdlib(module: str) -> ModuleType | None:
    """Return the stdlib's module; ``None`` for the one that a Python without ``_multiprocessing`` cannot import."""
    name = module.removeprefix("unirun.compat.")
    try:
        return importlib.import_module(name)
    except ImportError:
        if name != "concurrent.futures.process":
            raise
        return None

"""All of the hook that runs before unirun does: it lets a module be loaded, and then tells unirun of it.

The line in ``unirun_autopatch.pth`` puts a finder on ``sys.meta_path``. When a program asks for one of ``MODULES``, it
imports this file, which the companion distribution has as ``_unirun_autopatch``, and calls ``find_spec``. So this file
imports nothing that a bare interpreter has not, and unirun only when it has something to tell it.

Guarantees:
    ``UNIRUN_AUTOPATCH=0`` and ``UNIRUN_COMPAT_MODE=passthrough`` are read first, and then nothing is done.
    A module is found, loaded and described as it would be without.
    Nothing is printed or raised. Where unirun is missing or broken the module stays as it is; ``failures`` says why.

A ``.pth`` line like that one works through Python 3.17. Its successor, a ``.start`` file (PEP 829), would be read from
3.15 on, but makes every start of the interpreter import some thirty modules; so there is none before 3.18 is near.
"""

import os
import sys
from _thread import get_ident

TYPE_CHECKING = False  # annotations are strings, which older Pythons over the same site-packages can read too
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

#: What a program asks for, and what unirun's own classes are made of: the later of the two completes a substitution.
MODULES = (
    "concurrent.futures.process",
    "concurrent.futures.thread",
    "concurrent.futures.interpreter",
    "multiprocessing.pool",
    "unirun.process",
    "unirun.thread",
)

#: What kept unirun from its work, by module: it is missing, or broken.
failures: "dict[str, Exception]" = {}
# The searches that go on, as (thread, module): a finder that asks all finders, as wrapt's does, also asks this one.
_searches: "set[tuple[int, str]]" = set()


def find_spec(name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
    """Return the spec of one of ``MODULES``, as the other finders find it, with ``Loader`` around its loader."""
    search = (get_ident(), name)
    if name not in MODULES or search in _searches or sys.version_info < (3, 11) or switched_off():
        return None
    _searches.add(search)
    try:
        spec = _ask(name, path, target)
    finally:
        _searches.discard(search)
    if spec is None or not hasattr(spec.loader, "exec_module"):
        return None
    spec.loader = Loader(spec.loader)  # type: ignore[assignment]
    return spec


def _ask(name: str, *more: "Any") -> "ModuleSpec | None":
    """Return what the import system finds for ``name``."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find and find(name, *more)
        if spec:
            return spec
    return None


def switched_off() -> "str | None":
    """Tell which variable switches the hook off, as ``NAME=value``; ``None`` if none does."""
    for name, values in (("UNIRUN_AUTOPATCH", ("0", "false", "no", "off")), ("UNIRUN_COMPAT_MODE", ("passthrough",))):
        value = os.environ.get(name, "").strip()
        if value.lower() in values:
            return name + "=" + value
    return None


class Loader:
    """A module's own loader, after whose work unirun is told."""

    def __init__(self, loader: "Any") -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> "Any":
        if name == "_loader":  # of a copy that is being made and has none yet
            raise AttributeError(name)
        return getattr(self._loader, name)  # get_code, get_source, get_resource_reader ...

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: "Any") -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        tell("loading", module)
        try:
            self._loader.exec_module(module)
        except BaseException as error:
            if not tell("failed", module, error):
                raise
        else:
            tell("loaded", module)


def tell(what: str, module: "ModuleType", *more: object) -> bool:
    """Call a function of unirun's for a module. Tell whether it did what it is for."""
    try:
        if "unirun" not in sys.modules:
            spec = _ask("unirun", None)
            places = spec and spec.submodule_search_locations
            if not places or not _ask("unirun.autopatch", list(places)):  # a program may have a unirun of its own
                raise ModuleNotFoundError(
                    "the package unirun is not on sys.path, or something else of that name before it"
                )
        from unirun.autopatch import substitution

        return bool(getattr(substitution, what)(module, *more))
    except Exception as error:
        failures[module.__name__] = error
        return False

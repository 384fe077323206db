"""isinstance the other way round: a pool of the stdlib's own class passes for one of the class that replaces it.

A managed class derives from the stdlib's, so its pools are instances of both. Where the managed class has taken the
name, code that checks for it, as ``loop.set_default_executor`` does, must also accept the pools of the stdlib's class:
those made before, those of callers that unirun stands aside for, and an ``InterpreterPoolExecutor``.

A metaclass with ``__instancecheck__`` would do, and would stop programs from deriving a class with a metaclass of their
own, which the stdlib's classes allow. So it is done where ``isinstance`` looks last, at the ``__class__`` of the
object: a base class, put between the stdlib's class and ``Executor``, answers for it. Classes cannot be given that
property later, only a base that has it.

Does not promise:
    ``issubclass`` of the stdlib's class and the managed one: for that there is only the metaclass.
"""

from __future__ import annotations

import copyreg
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["acknowledge", "forget", "stdlib_class"]

#: What stood in the place of the base that answers, by the stdlib's class.
_bases: dict[type[Any], tuple[type[Any], ...]] = {}
#: What a class derived from the stdlib's passes for: itself and managed. Few, and as long-lived as the classes are.
_views: dict[type[Any], type[Any]] = {}


def stdlib_class(module: str, name: str) -> Any:
    """Return the class of the stdlib's own behind ``name`` in ``module``, which is imported.

    By now the name may mean a managed class, also one of a unirun that was dropped from ``sys.modules``; and while a
    dropped module is imported anew the package's attribute is still the old one, so that is not asked.
    """
    return next(each for each in getattr(sys.modules[module], name).__mro__ if each.__module__ == module)


def acknowledge(original: type[Any], managed: type[Any]) -> None:
    """Let instances of ``original``, a class of the stdlib's, pass for instances of ``managed``, derived from it."""
    if original in _bases:
        return
    real: Any = object.__dict__["__class__"]

    def passes_for(pool: Any) -> type[Any]:
        kind = type(pool)
        return kind if issubclass(kind, managed) else _view(kind, original, managed)

    namespace = {"__class__": property(passes_for, real.__set__), "__module__": __name__, "__doc__": __doc__}
    kin: Any = type("Kin", original.__bases__, namespace)
    _bases[original] = original.__bases__
    original.__bases__ = (kin,)


def forget(original: type[Any]) -> None:
    """Undo ``acknowledge``, if it was done."""
    bases = _bases.pop(original, None)
    if bases is not None:
        original.__bases__ = bases


class _View(type):
    """The class of a view, which does as what it stands for, for a program that comes by it as ``pool.__class__``."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.__base__(*args, **kwargs)  # type: ignore[misc]

    def __setattr__(cls, name: str, value: Any) -> None:
        setattr(cls.__base__, name, value)

    def __delattr__(cls, name: str) -> None:
        delattr(cls.__base__, name)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__base__

    def __hash__(cls) -> int:
        return hash(cls.__base__)


def _itself(kind: type[Any]) -> type[Any]:
    return kind


def _reduce(view: type[Any]) -> tuple[Any, ...]:
    return _itself, (view.__base__,)


copyreg.pickle(_View, _reduce)


def _view(kind: type[Any], original: type[Any], managed: type[Any]) -> type[Any]:
    """Return a class that is ``kind`` and ``managed``; ``kind`` itself where deriving from it would be noticed."""
    if kind is original:
        return managed
    view = _views.get(kind)
    if view is None:
        view = kind
        if type(kind) is type and not any("__init_subclass__" in vars(base) for base in kind.__mro__[:-1]):
            names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
            try:
                view = _View(kind.__name__, (kind, managed), names)
            except TypeError:
                pass  # it has bases that cannot stand beside those of the managed class
        _views[kind] = view
    return view

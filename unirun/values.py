"""Value: a base class for immutable values, such as settings and decisions, that costs nothing to import.

``dataclasses`` would do, but loads ``inspect`` and ``ast``, and generates and compiles code for each class: in a short
program that was a good part of what its first pool cost. Here nothing is generated.

Guarantees:
    What ``copy``, ``pickle``, ``inspect.signature`` and the functions of ``dataclasses`` (``fields``, ``replace``,
    ``asdict``, ``is_dataclass``) do with a frozen dataclass they do with a value.

Does not promise:
    That ``@dataclass`` can derive from a value, or that an ABC can, which has another metaclass. A plain subclass can,
    with fields of its own if it annotates some.
"""

from __future__ import annotations

import sys
from operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import Field
    from inspect import Signature
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**options):
        """Stand in for that of ``typing``, which only type checkers need."""
        return lambda kind: kind


__all__ = ["Value"]


class _AsDataclass:
    """An attribute by which ``dataclasses`` knows its own, made when somebody asks for it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, value: Value | None, kind: ValueType) -> object:
        import dataclasses  # whoever asks has it

        twin = dataclasses.make_dataclass(
            kind.__name__,
            [
                (
                    name,
                    annotation,
                    dataclasses.field(
                        default=kind._defaults.get(name, dataclasses.MISSING), compare=name not in kind._uncompared
                    ),
                )
                for name, annotation in kind._annotations.items()
            ],
            frozen=True,
            kw_only=True,
        )
        made: object = getattr(twin, self._name)
        setattr(kind, self._name, made)  # in this one's place
        return made


def _annotations(namespace: dict[str, Any]) -> Mapping[str, Any]:
    """Return the annotations in a class body, without those of class variables."""
    found: Mapping[str, Any] = namespace.get("__annotations__", {})
    if not found and sys.version_info >= (3, 14):
        # A user's subclass in a module that does not import `annotations` has them in a function.
        from annotationlib import Format, call_annotate_function, get_annotate_from_class_namespace

        annotate = get_annotate_from_class_namespace(namespace)
        # As strings: what they name may not be there yet.
        found = {} if annotate is None else call_annotate_function(annotate, Format.STRING)
    return {name: annotation for name, annotation in found.items() if not _is_class_variable(annotation)}


def _is_class_variable(annotation: object) -> bool:
    # `ClassVar`, `typing.ClassVar[int]`; as text, for which `typing` need not be loaded.
    return str(annotation).partition("[")[0].rpartition(".")[2] == "ClassVar"


@dataclass_transform(kw_only_default=True, frozen_default=True)
class ValueType(type):
    """The class of value classes: makes slots of the annotations in a class, and constructor arguments of those.

    All annotations but those with ``ClassVar`` are fields, in their order. A module with value classes imports
    ``annotations`` from ``__future__``: then nothing has to be evaluated, or loaded for that, to learn their names.
    """

    _annotations: dict[str, str]
    _defaults: dict[str, Any]
    _uncompared: frozenset[str]
    _key: attrgetter[Any]

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], uncompared: tuple[str, ...] = ()
    ) -> ValueType:
        """Return the class; fields named in ``uncompared`` count neither for equality nor for the hash."""
        own = _annotations(namespace) if bases else {}  # `Value` itself has no fields
        defaults = {field: namespace.pop(field) for field in own if field in namespace}
        namespace["__slots__"] = tuple(own)
        # In each class, as what is put in their place is true of that class alone.
        for attribute in ("__dataclass_fields__", "__dataclass_params__"):
            namespace[attribute] = _AsDataclass(attribute)
        made = super().__new__(cls, name, bases, namespace)
        if bases:
            (parent,) = (base for base in bases if isinstance(base, ValueType))
            made._annotations = {**parent._annotations, **own}
            made._defaults = {**parent._defaults, **defaults}
            made._uncompared = parent._uncompared.union(uncompared)
            # With the class, so that it is a tuple where there is one field, and something where there is none.
            made._key = attrgetter(
                "__class__", *(field for field in made._annotations if field not in made._uncompared)
            )
        else:
            made._annotations, made._defaults, made._uncompared = {}, {}, frozenset()
        return made

    @property
    def __signature__(cls) -> Signature:
        from inspect import Parameter, Signature  # whoever asks has it

        parameters = [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=cls._defaults.get(name, Parameter.empty),
                annotation=annotation,
            )
            for name, annotation in cls._annotations.items()
        ]
        return Signature(parameters, return_annotation=None)


class Value(metaclass=ValueType):
    """An immutable value: its class's annotations are its fields, which the constructor takes by keyword.

    Values of one class are equal if their fields are, and then have the same hash.

    Raises:
        TypeError: From the constructor: a field without a default is missing, or an argument is no field.
        AttributeError: A field is assigned to or deleted.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init__(self, /, *positional: Any, **fields: Any) -> None:
        kind = type(self)
        if positional:
            raise TypeError(f"{kind.__qualname__} takes its fields by keyword, not {positional[0]!r}")
        values = {**kind._defaults, **fields}
        if values.keys() != kind._annotations.keys():
            raise _mismatch(kind, values)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields. Replaces one, where it must, by ``object.__setattr__``."""

    def replace(self, /, **changes: Any) -> Self:
        """Return a value like this one, but for ``changes``.

        Raises:
            TypeError: There is no such field.
        """
        return type(self)(**{**self._fields(), **changes})

    __replace__ = replace  # for `copy.replace` (Python 3.13)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in a dict, and values among them, also inside of tuples and dicts, as dicts too."""
        return {name: _plain(value) for name, value in self._fields().items()}

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self)._annotations}

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        key = type(self)._key
        return bool(key(self) == key(other))

    def __hash__(self) -> int:
        return hash(type(self)._key(self))

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in self._fields().items())})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to {name!r}: a {type(self).__name__} is immutable; see its replace()")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name!r}: a {type(self).__name__} is immutable; see its replace()")

    def __getstate__(self) -> dict[str, Any]:
        return self._fields()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in {**type(self)._defaults, **state}.items():  # of an older version, which had fewer fields
            object.__setattr__(self, name, value)


def _mismatch(kind: ValueType, given: Mapping[str, Any]) -> TypeError:
    """Say what is wrong with constructor arguments, as Python does for a function."""
    constructor = f"{kind.__qualname__}.__init__()"
    for name in given:
        if name not in kind._annotations:
            fields = ", ".join(kind._annotations)
            return TypeError(f"{constructor} got an unexpected keyword argument {name!r}; its fields are {fields}")
    missing = [repr(name) for name in kind._annotations if name not in given]
    arguments = "argument" if len(missing) == 1 else "arguments"
    return TypeError(f"{constructor} missing {len(missing)} required keyword-only {arguments}: {', '.join(missing)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.as_dict()
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value

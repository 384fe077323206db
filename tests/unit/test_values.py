"""Values: what they take, how they compare, that they do not change, and what the stdlib makes of them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import pprint
import sys
import typing
from typing import Any, ClassVar

import pytest

from unirun.config import RuntimeConfig
from unirun.errors import ConfigError
from unirun.refusal import Failure
from unirun.trace import DecisionTrace
from unirun.values import Value


class Point(Value, uncompared=("label",)):
    x: int
    y: int = 0
    label: str | None = None

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(f"x is {self.x}")


class Box(Value):
    corners: tuple[Point, ...]
    named: dict[str, Point]
    tags: list[str]


class Pixel(Point):
    color: str = "black"


class Single(Value):
    only: object


class Nothing(Value):
    """Has no fields."""


class Counted(Point):
    unit: ClassVar[str] = "cm"
    units: typing.ClassVar = ("cm", "mm")


#: A user's module, which need not import `annotations`, and names in them what it has not made yet.
USERS = """
from typing import ClassVar
from unirun import RuntimeConfig

class Wide(RuntimeConfig):
    rows: int = 1
    shape: "Shape | None" = None
    known: ClassVar[dict[str, int]] = {}

class Plain(RuntimeConfig):
    pass
"""


REFUSED = Failure(backend="processes", stage="construct", error="OSError", errno=38, message="no such thing")
DECISION = DecisionTrace(
    origin="Run",
    name=None,
    asked="processes",
    flavor="processes",
    ladder=("processes", "threads"),
    refused=(REFUSED,),
    backend="threads",
    workers=2,
    start_method=None,
    short=None,
    reason="asked for",
    settled=True,
    where="program.py:3",
)
VALUES = [
    Point(x=1, label="a"),
    Box(corners=(Point(x=1), Point(x=2)), named={"a": Point(x=3)}, tags=["b"]),
    Pixel(x=1, color="red"),
    Single(only=None),
    Nothing(),
    RuntimeConfig(max_workers=2, ladder=("pipes",)),
    REFUSED,
    DECISION,
]


def fields(value: Value) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"Point.__init__\(\) missing 1 required keyword-only argument: 'x'"),
        ({"x": 1, "z": 2}, r"Point.__init__\(\) got an unexpected keyword argument 'z'"),
        ({"z": 2}, r"Point.__init__\(\) got an unexpected keyword argument 'z'"),
    ],
)
def test_constructor_arguments_that_do_not_fit(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Point(**arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="2 required keyword-only arguments: 'corners', 'named'"):
        Box(tags=[])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Point takes its fields by keyword, not 1"):
        Point(1)  # type: ignore[call-arg]


def test_fields_and_defaults() -> None:
    point = Point(label="a", x=1)
    assert (point.x, point.y, point.label) == (1, 0, "a")
    pixel = Pixel(x=1)
    assert (pixel.x, pixel.y, pixel.label, pixel.color) == (1, 0, None, "black")
    assert not hasattr(point, "__dict__")
    assert not hasattr(pixel, "__dict__")
    with pytest.raises(ValueError, match="x is -1"):
        Point(x=-1)


def test_class_variables_are_no_fields() -> None:
    assert list(fields(Counted(x=1))) == ["x", "y", "label"]
    assert (Counted.unit, Counted(x=1).units) == ("cm", ("cm", "mm"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'unit'"):
        Counted(x=1, unit="mm")  # type: ignore[call-arg]


def test_a_subclass_in_a_module_that_does_not_import_annotations() -> None:
    users: dict[str, Any] = {"__name__": "users"}
    exec(compile(USERS, "users.py", "exec", dont_inherit=True), users)
    names = list(fields(RuntimeConfig()))
    assert list(fields(users["Wide"]())) == [*names, "rows", "shape"]
    wide = users["Wide"](max_workers=2, rows=3)
    assert (wide.max_workers, wide.rows, wide.shape, wide.known) == (2, 3, None, {})
    assert wide == dataclasses.replace(users["Wide"](max_workers=2), rows=3) != users["Wide"](max_workers=2)
    assert list(fields(users["Plain"](max_workers=2))) == names


def test_repr_says_how_to_make_one() -> None:
    assert repr(Point(x=1, label="a")) == "Point(x=1, y=0, label='a')"
    for value in VALUES:
        assert eval(repr(value)) == value


def test_equality_and_hash() -> None:
    assert Point(x=1) == Point(x=1, y=0, label="not compared") != Point(x=2)
    assert hash(Point(x=1)) == hash(Point(x=1, label="not compared"))
    assert Point(x=1) != Pixel(x=1)
    assert Pixel(x=1, label="a") == Pixel(x=1, label="b") != Pixel(x=1, color="red")
    assert Point(x=1) != (1, 0)
    assert Single(only=1) == Single(only=1) != Single(only=2)
    assert Nothing() == Nothing() != Single(only=1)
    assert hash(Nothing()) == hash(Nothing())
    nan = float("nan")
    assert Single(only=nan) == Single(only=nan)  # as tuples compare, and dataclasses
    assert len({Single(only=1), Single(only=1), Point(x=1), Point(x=1, label="a")}) == 2
    assert RuntimeConfig() == RuntimeConfig()
    assert hash(RuntimeConfig()) == hash(RuntimeConfig())
    assert DECISION == DECISION.replace(where="elsewhere.py:9") != DECISION.replace(workers=3)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Single(only=[]))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_it_does_not_change(value: Value) -> None:
    before = repr(value)
    for name in (*fields(value), "nothing"):
        with pytest.raises(AttributeError, match=f"cannot assign to '{name}': a {type(value).__name__} is immutable"):
            setattr(value, name, 1)
        with pytest.raises(AttributeError, match=f"cannot delete '{name}'"):
            delattr(value, name)
    assert repr(value) == before


def test_replace() -> None:
    point = Point(x=1, label="a")
    assert repr(point.replace(x=2)) == repr(dataclasses.replace(point, x=2)) == "Point(x=2, y=0, label='a')"
    if sys.version_info >= (3, 13):
        assert repr(copy.replace(point, x=2)) == "Point(x=2, y=0, label='a')"
    assert repr(point) == "Point(x=1, y=0, label='a')"
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        point.replace(z=1)
    with pytest.raises(ConfigError):
        RuntimeConfig().replace(max_workers=0)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_copies(value: Value) -> None:
    copies = [copy.copy(value), copy.deepcopy(value)]
    copies += [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for each in copies:
        assert type(each) is type(value)
        assert each == value
        assert repr(each) == repr(value)
    for name, mutable in fields(value).items():
        if isinstance(mutable, (list, dict)):
            assert getattr(copies[0], name) is mutable
            assert getattr(copies[1], name) is not mutable


def test_a_pickle_of_an_older_version_has_fewer_fields() -> None:
    """Those that it has not are as by default, as a dataclass has them."""
    older = RuntimeConfig(max_workers=2, reuse=True).__getstate__()
    del older["reuse"]
    value = RuntimeConfig.__new__(RuntimeConfig)
    value.__setstate__(older)
    assert value == RuntimeConfig(max_workers=2)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_dataclasses_takes_it_for_one_of_its_own(value: Value) -> None:
    assert dataclasses.is_dataclass(value)
    assert dataclasses.is_dataclass(type(value))
    names = list(inspect.signature(type(value)).parameters)
    assert [field.name for field in dataclasses.fields(type(value))] == names == list(fields(value))
    assert dataclasses.replace(value) == value
    plain = dataclasses.asdict(value)
    assert {name: plain[name] for name in names} == plain == {name: value.as_dict()[name] for name in names}
    assert pprint.pformat(value, width=10) == repr(value)


def test_what_dataclasses_says_of_the_fields() -> None:
    x, y, label, color = dataclasses.fields(Pixel)
    assert (x.default, y.default, color.default) == (dataclasses.MISSING, 0, "black")
    assert (x.compare, label.compare, label.kw_only) == (True, False, True)
    assert len(dataclasses.fields(Point)) == 3  # and not what was found for a derived class, or the other way round
    assert str(inspect.signature(Point)) == "(*, x: 'int', y: 'int' = 0, label: 'str | None' = None) -> None"


def test_as_dict_goes_down() -> None:
    box = Box(corners=(Point(x=1),), named={"a": Point(x=2)}, tags=["b"])
    one = {"x": 1, "y": 0, "label": None}
    assert box.as_dict() == {"corners": (one,), "named": {"a": {**one, "x": 2}}, "tags": ["b"]}
    assert DECISION.as_dict() == {**dataclasses.asdict(DECISION), "downgraded": True}

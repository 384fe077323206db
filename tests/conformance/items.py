"""Short items for maps, which workers import by name: see ``tasks``."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from tests.conformance import tasks
from tests.conformance.tasks import Journal

#: Of one thread each: where threads stand in for processes, two of them would change the same list at once.
OWN: Final = threading.local()


class Counter:
    """A callable with a state of its own."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, number: int) -> tuple[int, int]:
        self.calls += 1
        return number, self.calls

    def method(self, number: int) -> tuple[int, int]:
        return self(number)


class Fragile:
    """Something that can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return tasks.fail, (OSError("does not load"),)


class Large:
    """So large that each travels alone, once it is known."""

    def __init__(self, number: int) -> None:
        self.data = [number] * 100_000


class Stubborn(Exception):
    """An exception that can be raised, and not pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


class Node:
    """Equal to itself only."""


class Graph:
    """Knows its nodes, not their copies."""

    def __init__(self, size: int) -> None:
        self.nodes = [Node() for _ in range(size)]

    def place(self, *nodes: Node) -> list[int]:
        return [self.nodes.index(node) for node in nodes]


def note(journal: Journal, number: int) -> int:
    journal.note(number)
    return number


def append(items: list[int]) -> list[int]:
    items.append(1)
    return items


def appended(item: Any) -> Any:
    return append(item) if isinstance(item, list) else item


def share(number: int) -> list[int]:
    shared: list[int] = OWN.__dict__.setdefault("shared", [])
    shared[:] = [number]
    return shared


def fail_at(place: int, number: int) -> int:
    if number == place:
        raise ValueError(f"item {number}")
    return number


def stop_at(place: int, number: int) -> int:
    if number == place:
        raise StopIteration(number)
    return number


def stubborn_at(place: int, number: int) -> int:
    if number == place:
        raise Stubborn("mine")
    return number


def fragile_at(place: int, number: int) -> object:
    return Fragile() if number == place else number


def unpicklable_at(place: int, number: int) -> object:
    return tasks.Unpicklable(TypeError("cannot be pickled")) if number == place else number


def die_at(place: int, number: int) -> int:
    if number == place:
        os._exit(7)
    return number


def slow_from(place: int, number: int) -> tuple[int, float, float]:
    begin = time.monotonic()
    if number >= place:
        time.sleep(0.1)
    return os.getpid(), begin, time.monotonic()


def kind(value: object) -> str:
    return type(value).__name__


def noted_unless(journal: Journal, place: int, number: int) -> int:
    if number == place:
        raise ValueError(number)
    journal.note(number)
    return number


def noted_slowly(journal: Journal, number: int) -> int:
    journal.note(number)
    time.sleep(0.0002)
    return number


def interrupted_at(place: int, number: int) -> int:
    if number == place:
        raise KeyboardInterrupt
    return number

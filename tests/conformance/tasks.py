"""What the workers of the executor contract run: a module of its own, because they import it by its name.

Tasks and tests meet at files: a path is the one thing that reaches a worker of any kind, be it the calling thread,
another thread or a new interpreter.
"""

import decimal
import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from signal import signal as set_handler
from typing import Any, Final, NoReturn

#: Seconds after which whoever waits gives up and fails. Far more than anything here takes on a busy machine.
PATIENCE: Final = 30.0
#: Seconds between two looks at the file system.
TICK: Final = 0.002


def until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition that another process or thread brings about; fail if it does not."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {patience} s")
        time.sleep(TICK)


@dataclass(frozen=True, slots=True)
class Gate:
    """A closed door at which tasks of any process stop, until the test opens it for good."""

    folder: str

    def open(self) -> None:
        Path(self.folder, "open").touch()

    def pass_through(self, name: str) -> None:
        """Say that ``name`` is here, and wait until the gate is open."""
        Path(self.folder, f"{name}.here").touch()
        until(Path(self.folder, "open").exists, "the opening of the gate")

    def await_arrival(self, name: str) -> None:
        until(Path(self.folder, f"{name}.here").exists, f"the arrival of {name} at the gate")


@dataclass(frozen=True, slots=True)
class Journal:
    """A list of words that tasks of any process append to."""

    path: str

    def note(self, word: object) -> None:
        # One short write to a file opened for appending: the words of several processes do not mix.
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{word}\n")

    def read(self) -> list[str]:
        try:
            return Path(self.path).read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return []


# -------------------------------------------------------------------------------------------------- tasks that return


def add(left: int, right: int) -> int:
    return left + right


def map_in_a_pool(kind: type[Executor], numbers: list[int]) -> list[int]:
    """Be a task that has a pool of its own."""
    make: Any = kind
    with make(2) as pool:
        return list(pool.map(square, numbers, timeout=PATIENCE))


def square(number: int) -> int:
    return number * number


def doze(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def identity(value: Any) -> Any:
    return value


def arguments(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def same(left: object, right: object) -> bool:
    return left is right


def whereabouts(_: object = None) -> tuple[int, int]:
    """Return the process and the thread that run this."""
    return os.getpid(), threading.get_ident()


def append(items: list[Any], item: object) -> list[Any]:
    items.append(item)
    return items


def noted(journal: Journal, word: object) -> object:
    journal.note(word)
    return word


def mark(folder: str, number: int, seconds: float) -> int:
    """Make a file by which others see that this ran, and take so long."""
    Path(folder, str(number)).touch()
    time.sleep(seconds)
    return number


def follow(folder: str, number: int) -> int:
    """Wait for the mark of another task."""
    until(Path(folder, str(number)).exists, f"the mark of {number}")
    return number


def follow_two(folder: str, number: int, seconds: float) -> int:
    """Wait for the marks of the two tasks before, take so long, and make this one's."""
    for earlier in range(max(0, number - 2), number):
        follow(folder, earlier)
    time.sleep(seconds)
    return mark(folder, number, 0)


def hold(gate: Gate, name: str = "holder") -> str:
    gate.pass_through(name)
    return name


def hold_one(gate: Gate, journal: Journal, held: int, number: int) -> int:
    """Note ``number``; if it is ``held``, wait at the gate first."""
    if number == held:
        gate.pass_through(str(number))
    journal.note(number)
    return number


def perform(journal: Journal, number: int, kind: str, items: Any) -> object:
    """Be a task of a random program: note ``number``, then do what ``kind`` says."""
    journal.note(number)
    match kind:
        case "raise":
            raise ValueError(number)
        case "exit":
            raise SystemExit(number)
        case "change":
            items.append(number)
            return items
        case "unpicklable result":
            return lambda: None
        case "slow":
            time.sleep(TICK)
    return number


class Counter:
    """Has state and a method: a bound method is a task too, and takes its object along."""

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def increase(self, by: int) -> int:
        self.count += by
        return self.count


# --------------------------------------------------------------------------------------------------- tasks that raise


class DetailedError(Exception):
    """An exception with an attribute, which pickling keeps."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 0


class Unusual(BaseException):
    """Not an ``Exception``: what ``except Exception`` lets through."""


def fail(error: BaseException) -> NoReturn:
    raise error


def fail_in_detail() -> NoReturn:
    error = DetailedError("with details")
    error.code = 7
    error.add_note("noted in the worker")
    raise error


def fail_from_another() -> NoReturn:
    try:
        raise KeyError("the first")
    except KeyError as first:
        raise ValueError("the second") from first


def fail_if(number: int, wrong: int) -> int:
    if number == wrong:
        raise ValueError(number)
    return number


def fail_at_gate(gate: Gate, name: str) -> NoReturn:
    gate.pass_through(name)
    raise ValueError(name)


def crash(program: int, journal: Journal | None = None) -> NoReturn:
    """End the worker as a segfault would; ``program`` is the process that must survive it."""
    if journal is not None:
        journal.note("crash")
    if os.getpid() == program:
        raise AssertionError("a task that crashes was run in the program itself")
    os._exit(3)


# ----------------------------------------------------------------------------------------- what pickling cannot carry


class Unpicklable:
    """Cannot be pickled, for a reason of its own."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


def explode() -> NoReturn:
    raise ValueError("cannot be loaded")


class Unloadable:
    """Can be pickled, but not loaded again."""

    def __reduce__(self) -> tuple[Callable[[], NoReturn], tuple[()]]:
        return explode, ()


class HalfMade:
    """Cannot be loaded again, and says so by an error that shows what it is about, which cannot be shown."""

    def __init__(self) -> None:
        self.number = 1

    def __repr__(self) -> str:
        return f"HalfMade({self.number})"

    def __setstate__(self, state: object) -> NoReturn:
        raise ValueError(self)


@dataclass(frozen=True)
class FrozenError(Exception):
    """An error of which no attribute can be set."""

    text: str


class Unhashed(type):
    """The class of classes that cannot be hashed."""

    def __eq__(cls, other: object) -> bool:
        return cls is other

    __hash__ = None  # type: ignore[assignment]


class Unfit(metaclass=Unhashed):
    """Cannot be pickled, as its class is no key of a table of reducers."""


class UnloadableError(Exception):
    """The classic: its arguments are not those that its constructor needs when it is loaded."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def return_unpicklable() -> object:
    return lambda: None


def return_iterator() -> Iterator[int]:
    return (number for number in range(3))


def return_unloadable() -> Unloadable:
    return Unloadable()


def return_half_made() -> HalfMade:
    return HalfMade()


def fail_unpicklably() -> NoReturn:
    raise ValueError(lambda: None)


def fail_unloadably() -> NoReturn:
    raise UnloadableError(404, "not found")


def make_lock() -> Any:
    """Return what may only be inherited by a process, never sent to it."""
    return multiprocessing.Lock()


# ------------------------------------------------------------------------------------------------------- initializers

_state: dict[str, Any] = {}


def set_up(journal: Journal, value: object) -> None:
    journal.note("set_up")
    _state["value"] = value


def read_state(key: str = "value") -> Any:
    return _state.get(key)


def set_precision(digits: int) -> None:
    """Set what ``decimal`` computes with: it is in the context of the thread."""
    decimal.getcontext().prec = digits


def third(seconds: float = 0) -> str:
    time.sleep(seconds)
    return str(decimal.Decimal(1) / 3)


def precise_third(digits: int) -> str:
    set_precision(digits)
    return third()


def forget_state() -> None:
    _state.clear()


def fail_to_set_up(error: BaseException) -> NoReturn:
    raise error


def append_in_set_up(items: list[Any]) -> None:
    items.append("set up")
    _state["value"] = list(items)


def ignore_interrupts() -> None:
    """The usual idiom, by the module; the line after it shows whether it got this far."""
    _state["before"] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    _state["value"] = "ready"


def ignore_interrupts_by_name() -> None:
    """The same by a name that was imported before any pool existed."""
    set_handler(signal.SIGINT, signal.SIG_IGN)
    _state["value"] = "ready"


def ignore_terminations(gate: Gate, name: str) -> None:
    """Set a handler at both ends of a wait."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    gate.pass_through(name)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


twice: Final = functools.partial(add, right=2)

"""What workers run in the tests of the pipes backend, and the programs that start and lose them."""

import logging
import os
import signal
import stat
import sys
import threading
import time
from typing import Any


def square(number: int) -> int:
    return number * number


def pid() -> int:
    return os.getpid()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def spin(seconds: float) -> float:
    """Compute without a pause, in Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


def echo(value: Any) -> Any:
    return value


def note(path: str, word: str, seconds: float = 0) -> str:
    """Append a word to a file, in one write, and take a while."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{word}\n".encode())
    os.close(fd)
    time.sleep(seconds)
    return word


def hold(gate: str) -> bool:
    """Say that this task has begun, and wait for a file."""
    open(f"{gate}.held", "w").close()
    while not os.path.exists(gate):
        time.sleep(0.001)
    return True


def span(path: str, word: str, seconds: float) -> str:
    """Write down when this task begins and when it ends, with the process that runs it."""
    note(path, f"begin {word} {os.getpid()}", seconds)
    note(path, f"end {word} {os.getpid()}")
    return word


def crash(how: str) -> None:
    print("these are my last words", file=sys.stderr)
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)


def write_garbage() -> None:
    """Write into every socket that this process has: the worker's own pipe is one."""
    for fd in range(3, 4096):  # a descriptor that was given on keeps the parent's number, often a high one
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b"this is no message at all, and long enough to be read as one")
        except OSError:
            pass
    time.sleep(60)


def close_everything() -> None:
    """As a task that makes a daemon of itself does."""
    os.closerange(3, 4096)
    time.sleep(60)


def lock() -> Any:
    return threading.Lock()


class Unloadable(Exception):
    """An exception that fails to unpickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__("only one")


def raise_unloadable() -> None:
    raise Unloadable("one", "two")


def raise_unpicklable() -> None:
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def log(level: int, word: str) -> None:
    logging.getLogger("job").log(level, "%s", word)


def grandchild() -> int:
    """Leave a child behind that holds all that a fork inherits."""
    child = os.fork()
    if child == 0:
        time.sleep(3)
        os._exit(0)
    return child

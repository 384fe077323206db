"""Functions for workers to import."""

import os
import threading
import time


def square(number: int) -> int:
    """Return the square."""
    return number * number


def pid() -> int:
    """Return the worker's process id."""
    return os.getpid()


def thread_id() -> int:
    """Return the worker's thread."""
    return threading.get_ident()


def nap(seconds: float) -> float:
    """Sleep and return how long."""
    time.sleep(seconds)
    return seconds


def crash(_: object = None) -> None:
    """End the worker process without a word."""
    os._exit(3)


def fail(text: str) -> None:
    """Raise."""
    raise LookupError(text)


def mark(path: str, text: str = "x") -> None:
    """Append a line to a file."""
    with open(path, "a") as file:
        file.write(f"{text}\n")

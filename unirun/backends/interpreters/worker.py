"""What runs in a sub-interpreter: it becomes like a worker that was spawned, and runs one pickled task after the other.

Guarantees:
    No exception leaves these functions but as part of what they return: an interpreter hands on only its text.
    Tasks have one context, in which the initializer ran: those of a worker process have one, too.
"""

from __future__ import annotations

import io
import pickle
import sys
from _contextvars import Context

from unirun import pickling
from unirun.backends import turns
from unirun.backends.raised import pack, words
from unirun.pickling import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

__all__ = ["begin", "initialize", "run"]

_context: Final = Context()  # each call from outside comes with a new one


def begin(prepared: bytes, extensions: tuple[str, ...], tracker: int | None, by_value: bool) -> str | None:
    """Become a worker.

    Args:
        prepared: What ``multiprocessing.spawn`` prepares a worker by.
        extensions: Modules that have to be found here.
        tracker: The descriptor of the program's resource tracker, if that runs.
        by_value: Results and exceptions, too, go by value where they cannot go by name.

    Returns:
        Why this cannot be a worker, or ``None``.
    """
    try:
        from multiprocessing import process

        turns.single()
        sys.stdin = io.StringIO()  # what the program would read must not be in a buffer of this one's
        if tracker is not None:
            from multiprocessing import resource_tracker

            helper: Any = resource_tracker
            helper._resource_tracker._fd = tracker  # as a worker process does
        if by_value:
            from unirun.backends.pipes.by_value import by_value as find

            pickling.by_value = find
        me: Any = process.current_process()
        me._inheriting = True  # a main module without a guard must not start workers of its own: see `BootstrapError`
        try:
            _prepare(prepared, extensions)
        finally:
            del me._inheriting
    except BaseException as error:
        return _why(error)
    return None


def _prepare(prepared: bytes, extensions: tuple[str, ...]) -> None:
    from importlib import import_module
    from multiprocessing import spawn

    spawn.prepare(pickle.loads(prepared))
    for name in extensions:
        import_module(name)


def _why(error: BaseException) -> str:
    """Return in a line why something cannot be imported: in the words of the module that cannot, not of its users."""
    while isinstance(error, ImportError) and isinstance(error.__cause__ or error.__context__, ImportError):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    try:
        lines = str(error).strip().splitlines()
    except BaseException:
        return words(error)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def initialize(pickled: bytes) -> bytes | None:
    """Run the user's initializer; return what it raised, or ``None``. Its changes of signal handlers are skipped."""
    from unirun.backends.lowered import leaving_signals

    try:
        initializer, initargs = pickle.loads(pickled)
        _context.run(leaving_signals, initializer, *initargs)
    except BaseException as error:
        return dumps(pack(error))
    return None


def run(pickled: bytes) -> bytes:
    """Run a task.

    Args:
        pickled: The function, its arguments and its keyword arguments.

    Returns:
        A pickled triple: the result; what was raised, as ``pack`` has it, or ``None``; why the task could not be
        unpickled, or ``None``.
    """
    try:
        fn, args, kwargs = pickle.loads(pickled)
    except BaseException as error:
        return dumps((None, None, f"the task could not be unpickled: {words(error)}"))
    try:
        return _context.run(_dumped, fn, args, kwargs)
    except BaseException as error:
        return dumps((None, pack(error), None))


def _dumped(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    return dumps((fn(*args, **kwargs), None, None))

"""Raised: what a task has raised, on its way to whoever waits for it: pickled, and beside it the traceback as text.

Beside it, as there are exceptions that can be pickled and not unpickled: those that do not pass on what they were made
of. Then the text is all that tells what has happened.
"""

from __future__ import annotations

import sys
import traceback

from unirun.pickling import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RemoteTraceback", "pack", "remote_traceback", "set_cause", "unpack", "words"]


def pack(error: BaseException) -> tuple[bytes, str]:
    """Return an exception pickled, without its traceback, and that as text; in place of one that cannot be, why."""
    text = "".join(traceback.format_exception(error))
    try:
        return dumps(error.with_traceback(None)), text
    except BaseException as unpicklable:
        text = "".join(traceback.format_exception(unpicklable))
        try:
            return dumps(unpicklable.with_traceback(None)), text
        except BaseException:
            plain = RuntimeError(f"a {type(error).__qualname__} that cannot be pickled, nor what pickling it raises")
            return dumps(plain), text


def unpack(
    packed: bytes,
    text: str,
    broken: Callable[[str], BaseException],
    expected: type[BaseException] | tuple[type[BaseException], ...] = BaseException,
) -> BaseException:
    """Return an exception of ``pack``, with its traceback as the cause.

    Args:
        packed: The exception.
        text: Its traceback.
        broken: Makes the error for one that cannot be unpickled.
        expected: What unpickling may raise.

    Raises:
        BaseException: What unpickling raises, if it is not of that kind.
    """
    import pickle  # not with this module: every pool of threads loads it, and most need no copy

    try:
        error: BaseException = pickle.loads(packed)
        set_cause(error, text)
    except expected as unloadable:  # or it is no exception any more
        error = broken(f"the exception could not be unpickled: {words(unloadable)}")
        set_cause(error, text)
    return error


def words(error: BaseException) -> str:
    """Return the ``repr`` of an exception, or its class where that raises: who asks has others to serve, too."""
    try:
        return repr(error)
    except BaseException:
        return f"{type(error).__qualname__}, which cannot be shown"


def set_cause(error: BaseException, text: str) -> None:
    """Give an exception a traceback as its cause, as ``raise`` does: even if its attributes cannot be set."""
    vars(BaseException)["__cause__"].__set__(error, remote_traceback(text))


def remote_traceback(text: str) -> Exception:
    """Return the traceback of an exception that was copied, as text: to be the cause of the copy.

    Of the stdlib's own class, which a program may ask for, where its module is loaded.
    """
    module = sys.modules.get("concurrent.futures.process")
    kind: type[Exception] = getattr(module, "_RemoteTraceback", RemoteTraceback)
    return kind(f'\n"""\n{text}"""')


class RemoteTraceback(Exception):
    """What ``concurrent.futures.process`` calls so, where that is not loaded."""

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return self.tb

"""What the messages of a worker mean in the parent: results and exceptions for futures, words, log records."""

from __future__ import annotations

import logging
import traceback
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final

from unirun.backends.pipes import protocol
from unirun.backends.processes import BrokenProcessPool
from unirun.backends.raised import unpack, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun.backends.pipes.future import PipeFuture

__all__ = ["answer", "cancel", "log", "may_put", "opened", "put_alone", "resolve", "text"]

#: The stdlib's pools report failed callbacks of futures here.
LOGGER: Final = logging.getLogger("concurrent.futures")


def opened(message: protocol.Frame, expected: type[BaseException]) -> tuple[Any, BaseException | None]:
    """Return what a task has returned, or raised, whatever the answer unpickles to.

    Args:
        message: The answer.
        expected: What unpickling may raise.

    Raises:
        BaseException: What unpickling raises, if it is not of that kind.
    """
    try:
        value = protocol.load(message)
    except expected as unloadable:
        broken = BrokenProcessPool(f"the result could not be unpickled: {words(unloadable)}")
        broken.__cause__ = unloadable
        return None, broken
    if message.kind != protocol.ERROR:
        return value, None
    raised, text = value
    return None, unpack(raised, text, BrokenProcessPool, expected)


def answer(future: PipeFuture, message: protocol.Frame, known: tuple[Any, BaseException | None] | None) -> None:
    """Resolve a future by the answer to its task, which who listened may have opened, but not put."""
    # It runs: what a worker was given cannot be cancelled unless it is taken back.
    value, error = known or opened(message, BaseException)
    if not future.settle(value, error):
        _put(future, value, error)


def resolve(future: Future[Any], value: Any = None, *, error: BaseException | None = None) -> None:
    """Resolve a future, unless it was cancelled; run its callbacks, whatever they raise."""
    try:
        if not future.running() and not future.set_running_or_notify_cancel():
            return
    except RuntimeError:
        return  # the user resolved it by hand
    _put(future, value, error)


def _put(future: Future[Any], value: Any, error: BaseException | None) -> None:
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
    except InvalidStateError:  # by the user's own hand, or who listened was interrupted just then:
        with future._condition:
            future._condition.notify_all()
    except BaseException:  # of a callback; the manager serves the others
        LOGGER.exception("exception calling callback for %r", future)


def may_put(future: PipeFuture) -> bool:
    """Tell whether ``put_alone`` would resolve a future now."""
    waited_for = vars(future).get  # without making the lists
    return not waited_for("_done_callbacks") and not waited_for("_waiters")


def put_alone(future: PipeFuture, value: Any, error: BaseException | None) -> bool:
    """Resolve a future for a thread that waits for it; return whether that was possible.

    Not if there are callbacks, which are to run in the manager thread, or somebody waits for several futures: if this
    thread is interrupted in the middle, the others that wait for this one need only be woken.
    """
    if future.settle(value, error):
        return True
    it: Any = future
    # While this is held nobody adds any. Not the condition, nor `set_result`, which enters it: Python code does, and
    # an interrupt can leave it locked then.
    with it._condition._lock:
        if it._state != "RUNNING" or it._done_callbacks or it._waiters:
            return False
        it._result, it._exception = value, error
        it._state = "FINISHED"
        it._condition.notify_all()
        return True


def cancel(future: Future[Any]) -> None:
    """Cancel the future of a task that nobody has; run its callbacks, whatever they raise."""
    try:
        if future.cancel():
            future.set_running_or_notify_cancel()
    except BaseException:
        LOGGER.exception("exception calling callback for %r", future)


def text(message: protocol.Frame) -> str:
    """Return what a worker says, in words."""
    try:
        return str(protocol.load(message))
    except Exception as error:
        return f"(what it said cannot be read: {words(error)})"


def log(message: protocol.Frame) -> None:
    """Handle a log record of a worker as if it had been logged here."""
    try:
        record = protocol.load(message)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except BaseException:  # a handler may raise SystemExit; the manager serves the others
        try:
            logging.getLogger("unirun").exception("a log record of a worker process cannot be handled")
        except BaseException:
            traceback.print_exc()

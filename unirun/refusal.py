"""Which errors mean "not on this host", and which are the task's or the caller's own.

An error is matched by class, errno *and stage*: the same ``OSError(EAGAIN)`` is a refusal when it comes from
starting a worker and a result when it comes from a task. The table is that of the design; the evidence for each row
is the behaviour of CPython 3.11 to 3.15 and PyPy on hosts that refuse.
"""

from __future__ import annotations

import errno
import sys

from unirun.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final, Literal

    #: import: the module is not there. construct: the pool's own resources. start: its first worker, before any task
    #: can run. bootstrap: a worker ended before it said that it is ready.
    Stage = Literal["import", "construct", "start", "bootstrap"]

__all__ = [
    "LONG_PATH",
    "NO_ROOM",
    "USUALLY",
    "Failure",
    "Refused",
    "failure",
    "is_refusal",
    "lasting",
    "passing",
    "refused_start",
]


class Failure(Value):
    """One rung's refusal, as plain data: it keeps no exception and so no frames alive.

    Attributes:
        backend: The backend that could not serve.
        stage: Where it failed.
        error: The name of the error's class.
        errno: The error number of an ``OSError``, else ``None``.
        message: The error's text.
    """

    backend: str
    stage: Stage
    error: str
    errno: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.backend} refused ({self.error}: {self.message}, at {self.stage})"


def failure(backend: str, stage: Stage, error: BaseException) -> Failure:
    """Return ``error`` as a ``Failure`` of ``backend`` at ``stage``."""
    return Failure(
        backend=backend,
        stage=stage,
        error=type(error).__name__,
        errno=error.errno if isinstance(error, OSError) else None,
        message=str(error) or "no message",
    )


class Refused(Exception):
    """A backend cannot start on this host. Never leaves the library.

    Raised by a backend only after it cleaned up: no worker of it lives and no task of it can still run.
    """

    def __init__(self, stage: Stage, error: BaseException) -> None:
        super().__init__(stage, error)
        self.stage: Stage = stage
        self.error = error


#: Semaphores and pipes that cannot be made.
_CONSTRUCT: Final = frozenset(
    {
        errno.ENOSYS,
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        # Further ways in which a system says that there cannot be such a file.
        errno.EFBIG,
        errno.EDQUOT,
        errno.EIO,
        errno.ELOOP,
        errno.ENOTDIR,
    }
)
#: Those of them that stay as they are while the interpreter lives; the others come and go with the load.
_LASTING: Final = frozenset({errno.ENOSYS, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS})
#: What there is too little of for the moment.
NO_ROOM: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})
_NO_THREAD: Final = "can't start new thread"
#: How the interpreter says that it will not start a thread or a process; it has no class or number for that.
_REFUSING_WORDS: Final = (
    _NO_THREAD,
    "fork not supported for",  # in a sub-interpreter
    "daemon threads are disabled in this",  # likewise; the stdlib's queues need one
)


#: How the interpreter says that the folder for temporary files has too long a name for a socket in it.
LONG_PATH: Final = "AF_UNIX path too long"
#: Why workers end early, most of the time.
USUALLY: Final = (
    "the program does not call multiprocessing.freeze_support() first of all"
    if getattr(sys, "frozen", False)
    else "its main module cannot be imported, or has no `if __name__ == '__main__':` guard"
)


def lasting(error: BaseException) -> bool:
    """Tell whether a refusal at ``import`` or ``construct`` cannot change while the interpreter lives."""
    return not isinstance(error, OSError) or error.errno in _LASTING


def passing(why: Failure) -> bool:
    """Tell whether a refusal may be over in a while, as others give back what there was too little of."""
    return why.errno in NO_ROOM or why.message.startswith(_NO_THREAD)


def is_refusal(stage: Stage, error: BaseException) -> bool:
    """Tell whether ``error``, raised by a pool's own code at ``stage``, means "not on this host"."""
    if _raised_by_pickling(error.__traceback__):
        return False  # the caller's own initializer or its arguments
    if stage == "import":
        return isinstance(error, ImportError)
    if stage == "construct":
        if isinstance(error, OSError):
            return error.errno in _CONSTRUCT
        return isinstance(error, (ImportError, NotImplementedError))
    if isinstance(error, OSError):
        # Else it is of a signal handler's making, whose deadline it may tell; or of the fork server's socket.
        return error.errno is not None or str(error) == LONG_PATH
    if isinstance(error, EOFError):
        return True
    if isinstance(error, AssertionError):
        return "daemonic processes" in str(error)
    return isinstance(error, RuntimeError) and str(error).startswith(_REFUSING_WORDS)


def refused_start(error: Exception, mp_context: Any) -> Refused:
    """Return the ``Refused`` for an error of the start of a pool's first worker."""
    if isinstance(error, BrokenPipeError) and mp_context.get_start_method() == "spawn":
        text = "the first worker ended before it could be told what to do; what it wrote to standard error says why"
        error = OSError(error.errno, f"{error.strerror}; {text} (usually {USUALLY})")
    elif isinstance(error, (ConnectionError, EOFError)) and mp_context.get_start_method() == "forkserver":
        # The server imports the main module, and dies of what that raises: from 3.14 on, and in later 3.13, too.
        said = error.strerror if isinstance(error, OSError) else error
        text = (
            f"{said}; the fork server ended, and what it wrote to standard error says why "
            f"(usually it cannot fork here, {USUALLY})"
        )
        error = OSError(error.errno, text) if isinstance(error, OSError) else EOFError(text)
    return Refused("start", error)


def _raised_by_pickling(traceback: TracebackType | None) -> bool:
    """Tell whether an error comes from pickling what the new worker is to be given.

    `Process.start` pickles the initializer and its arguments between its own system calls, where an OSError of the
    user's `__reduce__` looks like one of fork's. `reduction.dump` is the one door that all of it goes through.
    """
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_name == "dump" and traceback.tb_frame.f_globals.get("__name__") == "multiprocessing.reduction":
            return True
        traceback = traceback.tb_next
    return False

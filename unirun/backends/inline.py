"""The inline backend: tasks run in the calling thread, at the call."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["InlinePool"]


class InlinePool(Executor):
    """An executor whose ``submit`` runs the task before it returns.

    Guarantees:
        A task's exception is on its future, whatever it is. Only ``KeyboardInterrupt`` also leaves ``submit``: here it
        is the user's own Ctrl-C, which would otherwise wait in a future for somebody to look.

    Does not promise:
        That tasks overlap: one that waits for a later one waits forever.
    """

    def __init__(self) -> None:
        self._shut = False
        self._lock = threading.Lock()  # guards _shut against a submit of another thread

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            _run(future, fn, args, kwargs)
            return future
        finally:
            # A failed task's traceback holds this frame too, as the caller of the one that it was raised in.
            del future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further tasks. There is nothing to wait for or to cancel: what was submitted has run."""
        with self._lock:
            self._shut = True


def _run(future: Future[Any] | None, fn: Any, args: Any, kwargs: Any) -> None:
    assert future is not None
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:
        future.set_exception(error)
        # The exception's traceback holds this frame, which must hold neither the future nor the task; see GH-60488.
        future = fn = args = kwargs = None
        if isinstance(error, KeyboardInterrupt):
            raise
    else:
        future.set_result(result)

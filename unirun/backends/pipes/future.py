"""The future of a task that goes to a worker over a pipe: the stdlib's, with its lock made when somebody needs it.

A future of the stdlib's has a condition, and that a lock and a queue. Making them, entering them for each change of
state, and having the garbage collector visit them is half of what a short task costs its parent. Most futures never
need them: they are made, resolved by the pool, and read when they are done.

So a future belongs to its pool alone until somebody asks for its condition, as the stdlib's methods do: those that
wait, cancel, add a callback, or ask for a state that is not final. From then on the pool goes by it like all others.

Guarantees:
    Which of the two it is changes once, and between two changes of state: never in the middle of one.

How: the attribute ``_alone`` can be deleted by one thread only. Who has done so has the future for himself, until he
puts it back; who finds it missing waits, or finds the condition that ends this. Nothing may come between, or nobody
could ask for that future any more. So these are single lines without a call or a jump: CPython looks for signals and
switches threads at calls and jumps, tracing functions run between lines, and the collector of 3.11 runs where memory is
allocated, see ``_make_room``. (Without the GIL other threads do run in between, and wait.)
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Final

from unirun import clock
from unirun.backends.pipes.ear import MOMENT

if TYPE_CHECKING:
    from typing import Any

    from unirun.backends.pipes.ear import Ear

__all__ = ["PipeFuture"]

#: Whether a future can do without what the stdlib's constructor makes: not if that makes more, nor with PyPy, where a
#: handler of a signal may come between any two steps, and wait for this thread.
_ALONE: Final = sys.implementation.name == "cpython" and vars(Future()).keys() == {
    "_condition", "_state", "_result", "_exception", "_waiters", "_done_callbacks"
}  # fmt: skip


class _Condition:
    """The attribute ``_condition`` of a future that belongs to its pool alone: asking for it ends that."""

    def __get__(self, future: Any, kind: type | None = None) -> Any:
        if future is None:
            return self
        condition = threading.Condition()
        while True:
            try:
                del future._alone; future._condition = condition  # fmt: skip  # noqa: E702
            except AttributeError:  # another thread has asked, or resolves it just now
                if (made := vars(future).get("_condition")) is not None:
                    return made
                time.sleep(0)
            else:
                return condition


class _Late:
    """A list of a future that is made when somebody first asks for it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, future: Any, kind: type | None = None) -> Any:
        return self if future is None else vars(future).setdefault(self._name, [])


class PipeFuture(Future["Any"]):
    """A future that can be cancelled until its task has begun, also while that is on its way to a worker.

    Who waits for its result hears the worker by himself, where that can be.
    """

    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _condition: Any = _Condition()
    _waiters: Any = _Late()
    _done_callbacks: Any = _Late()

    def __init__(self, ear: Ear) -> None:
        self._ear = ear
        if _ALONE:
            self._alone: bool = True
        else:
            super().__init__()

    # For the pool.

    def start(self) -> bool:
        """Note that the task is on its way to a worker; return ``False`` if the future is cancelled.

        Raises:
            RuntimeError: The user has resolved it.
        """
        try:
            del self._alone; self._state = RUNNING; self._alone = True  # fmt: skip  # noqa: E702
        except AttributeError:
            return self.set_running_or_notify_cancel()
        return True

    def unstart(self) -> None:
        """Make it pending again: its task was on its way to a worker, and is not any more."""
        # In one step, and without the condition: `wait` may hold that one while a signal handler waits for the pool's
        # lock, which is held here.
        if self._state == RUNNING:
            self._state = PENDING

    def settle(self, value: Any, error: BaseException | None) -> bool:
        """Resolve it if it runs and belongs to the pool alone; return whether that is so."""
        if self._state != RUNNING:
            return False
        # fmt: off
        try:
            del self._alone; self._result = value; self._exception = error; self._state = FINISHED; self._alone = True  # noqa: E702
        except AttributeError:
            return False
        # fmt: on
        return True

    # For everybody. What is finished does not change any more, and needs no lock.

    def result(self, timeout: float | None = None) -> Any:
        timeout = self._listen(timeout)
        if self._state == FINISHED and self._exception is None:
            return self._result
        try:
            return super().result(timeout)
        finally:
            del self  # its exception's traceback holds this frame

    result.__doc__ = Future.result.__doc__

    def exception(self, timeout: float | None = None) -> BaseException | None:
        timeout = self._listen(timeout)
        return self._exception if self._state == FINISHED else super().exception(timeout)

    exception.__doc__ = Future.exception.__doc__

    def done(self) -> bool:
        return self._state == FINISHED or super().done()

    done.__doc__ = Future.done.__doc__

    def cancel(self) -> bool:
        if self._state == FINISHED:
            return False
        if self._cancel():
            return True
        if self._state == RUNNING:
            self._ear.dispatch.reclaim(self)
        return self._cancel()

    cancel.__doc__ = Future.cancel.__doc__

    def _cancel(self) -> bool:
        """Do what the stdlib's ``cancel`` does."""
        # But for the entering of the condition, in which Ctrl-C can come and leave it locked: see `put_alone`.
        it: Any = self
        with it._condition._lock:
            first = it._state == PENDING
            if first:
                it._state = CANCELLED
                it._condition.notify_all()
            cancelled = it._state in (CANCELLED, CANCELLED_AND_NOTIFIED)
        if first:
            it._invoke_callbacks()
        return cancelled

    def _listen(self, timeout: float | None) -> float | None:
        """Listen for a moment, if the task is on its way; return what is left of ``timeout``."""
        if self._state == RUNNING:
            if timeout is None:
                self._ear.listen(self)
            elif timeout > MOMENT:
                end = clock.now() + timeout
                self._ear.listen(self)
                return max(0.0, end - clock.now())
        return timeout


def _make_room() -> None:
    """Give all attributes a place in the table that instances share.

    Python 3.11 gives up a place for each new instance as long as some have none, and an attribute without one makes a
    dictionary of the instance's own when it is set, for which the collector may run just then.
    """
    nobody: Any = None
    future = PipeFuture(nobody)
    future.start()
    future.settle(None, None)
    assert future._condition is not None


_make_room()

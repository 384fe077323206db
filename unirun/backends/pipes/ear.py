"""Ear: who waits for a result hears the worker by himself, for a moment.

The manager thread hears all workers. When one answers, the kernel has to wake the manager, and the manager whoever
waits: most of what a round trip takes. So a thread that waits for the only task of a worker takes this worker out of
what the manager watches, hears it, and puts it back.

Guarantees:
    A worker is heard by one thread at a time.
    Nothing is lost when the waiting is interrupted, as by Ctrl-C: what was read is then left to the manager.
    Who is suspended in the middle of it cannot keep others from the worker for longer than he is: no handler of a
    signal that may wait for the pool can come between.
"""

from __future__ import annotations

# Not `signal`, whose `getsignal` makes enumerations and takes ten times as long.
import _signal  # type: ignore[import-not-found]
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

from unirun.backends.pipes import answers, protocol

if TYPE_CHECKING:
    from unirun.backends.pipes.bell import Bell
    from unirun.backends.pipes.dispatch import Dispatch
    from unirun.backends.pipes.future import PipeFuture
    from unirun.backends.pipes.handle import Handle
    from unirun.backends.pipes.terms import Terms
    from unirun.backends.pipes.vacancy import Vacancy
    from unirun.backends.pipes.watch import Watch

__all__ = ["MOMENT", "Ear", "heard"]

#: Seconds after which a lock that is held for microseconds may be held by the waiting thread itself. Then the manager
#: hears the worker.
_HELD: Final = 0.05
#: Seconds that a thread listens by itself. A longer task takes so long that one more thread to wake is nothing.
MOMENT: Final = 0.001
#: Handlers that run no code of the user's. The last one raises KeyboardInterrupt.
_HARMLESS: Final = frozenset({int(signal.SIG_DFL), int(signal.SIG_IGN), None, signal.default_int_handler})
_SIGNALS: Final = range(1, signal.NSIG)
#: Whether Ctrl-C keeps out of what is one step here (see ``Handle.overhear``) and of the taking of a lock by `with`.
#: With PyPy it does not; in 3.14 it comes between the taking and the block, and the lock stays locked.
_KEPT_OUT: Final = sys.implementation.name == "cpython" and sys.version_info[:2] != (3, 14)


class Ear:
    """Hears a worker in the thread that waits for its task.

    Args:
        dispatch: The queue and the workers.
        watch: What the manager waits for.
        vacancy: Whom the manager tells when nothing is left to do.
        terms: How tasks and workers are treated.
        bell: Wakes the manager.
    """

    def __init__(self, dispatch: Dispatch, watch: Watch, vacancy: Vacancy, terms: Terms, bell: Bell) -> None:
        #: The queue and the workers.
        self.dispatch: Dispatch = dispatch
        self._watch = watch
        self._vacancy = vacancy
        self._terms = terms
        self._bell = bell

    def listen(self, future: PipeFuture) -> None:
        """Wait for the answer to a task and resolve its future, if that is possible here, and no longer than a moment.

        Raises:
            BaseException: What interrupts the waiting.
        """
        if not self._watch.shared or self.dispatch.foreign or not _undisturbed():
            return
        worker: Handle | None = None
        held: list[bool] = []
        try:
            try:
                # One step, as in `reclaim`: this thread itself may hold it, in which a finalizer waits.
                held.extend(map(self.dispatch.lock.acquire, (True,), (_HELD,)))
                worker = self._only_for(future) if held[0] else None
                if worker is None:
                    return
                worker.listener = future
                self._watch.drop(worker.fd)
            finally:
                if True in held:
                    self.dispatch.lock.release()
            if worker.wait(MOMENT):
                self._hear(worker, future)
        finally:
            if worker is not None:
                try:
                    self._give_back(worker, future)
                except BaseException:  # Ctrl-C, which must not leave a worker that nobody hears
                    self._give_back(worker, future)
                    raise

    def _hear(self, worker: Handle, future: PipeFuture) -> None:
        message = worker.overhear()
        if message is None or message.kind not in (protocol.RESULT, protocol.ERROR) or not answers.may_put(future):
            return
        try:
            # One step: what was unpickled is known, and is not unpickled again by the manager.
            worker.opened.update(zip((message.serial,), map(answers.opened, (message,), (Exception,)), strict=True))
        except KeyboardInterrupt:
            raise
        except BaseException:  # which is not for this thread: the manager makes an error of it
            return
        # Before the manager can learn that the task is done, and end: who has seen it end finds all futures resolved.
        if answers.put_alone(future, *worker.opened[message.serial]):
            self.dispatch.answered(worker, message.serial, message.seconds)
            worker.opened.clear()
            worker.unheard.clear()

    def _give_back(self, worker: Handle, future: PipeFuture) -> None:
        with self.dispatch.lock:
            if worker.listener is future:
                self._watch.add(worker.fd)
                worker.awaited = False
                worker.listener = None
            timed = self._terms.task_timeout is not None and worker.tasks  # nobody looked at its time meanwhile
            ring = worker.unheard or worker.writing or timed or not self._calm()
        if ring:
            self._bell.ring()

    def _only_for(self, future: PipeFuture) -> Handle | None:
        """Return the worker that has the task of ``future`` and no other, if nobody is at it. The lock is held."""
        for worker in self.dispatch.workers:
            if len(worker.tasks) == 1 and next(iter(worker.tasks.values())).future is future:
                at_it = worker.listener is not None or worker.claimed is not None
                if at_it or worker.writing or worker.dropping or worker.unheard or not answers.may_put(future):
                    return None
                return worker
        return None

    def _calm(self) -> bool:
        """Tell whether the manager has nothing to do now that a worker has done its only task. The lock is held."""
        it = self.dispatch
        ending = it.closed or it.cancelling or it.broken is not None or self._bell.abandoned or self._vacancy.wanted
        return it.quiet and not ending and self._terms.max_tasks_per_child is None


def heard(worker: Handle) -> bool:
    """Tell whether somebody hears a worker, or has: then the manager does not know whether it has answered in time."""
    return worker.listener is not None or bool(worker.unheard)


def _undisturbed() -> bool:
    """Tell whether no handler of a signal but that of Ctrl-C can come between two steps of this thread.

    They run in the main one.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return True
    return _KEPT_OUT and _HARMLESS.issuperset(map(_signal.getsignal, _SIGNALS))

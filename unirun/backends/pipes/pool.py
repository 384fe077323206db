"""The executor of the pipes backend, and how it is opened."""

from __future__ import annotations

import os
import select
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from unirun.backends.chunks import ChunkingExecutor
from unirun.backends.pipes.bell import Bell
from unirun.backends.pipes.dispatch import Dispatch
from unirun.backends.pipes.future import PipeFuture
from unirun.backends.pipes.manager import Manager
from unirun.backends.pipes.memo import Memo
from unirun.backends.pipes.pace import Pace
from unirun.backends.pipes.task import Task
from unirun.backends.pipes.terms import Terms
from unirun.backends.pipes.worker import Orders, User
from unirun.backends.repairs import ensure_helpers
from unirun.refusal import Failure, Refused, failure, is_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun.backends.turns import Place
    from unirun.refusal import Stage

__all__ = ["Pending", "PipePool", "open_pipes"]


class Pending(Mapping[int, Task]):
    """The tasks of a pool that are not done, by numbers that mean nothing: counted when somebody asks.

    Not those that are just being pickled, nor any after ``close``.
    """

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch: Dispatch | None = dispatch

    def close(self) -> None:
        """Show none any more: whoever still looks has given the pool back, and the tasks are another one's."""
        self._dispatch = None

    def __len__(self) -> int:
        it = self._dispatch
        return 0 if it is None else len(it.queue) + sum(len(worker.tasks) for worker in it.workers.copy())

    def __iter__(self) -> Iterator[int]:
        return iter(self._tasks())

    def __getitem__(self, number: int) -> Task:
        return self._tasks()[number]

    def _tasks(self) -> dict[int, Task]:
        if (it := self._dispatch) is None:
            return {}
        with it.lock:
            held = [task for worker in it.workers for task in worker.tasks.values()]
            return {id(task): task for task in (*held, *it.queue)}


class PipePool(ChunkingExecutor):
    """A process pool that has started. ``open_pipes`` makes it."""

    def __init__(self, manager: Manager, bell: Bell) -> None:
        self._manager = manager
        self._bell = bell
        manager.serves = weakref.ref(self, bell.abandon)

    @property
    def short(self) -> Failure | None:
        """Why fewer workers than asked for could be started, or ``None``."""
        return self._manager.dispatch.places.short

    @property
    def processes(self) -> dict[int, Any]:
        """The worker processes that live, by their ids: a table that follows what happens."""
        return self._manager.processes

    @property
    def pending(self) -> Pending:
        """The tasks that are not done: a view that follows what happens."""
        return Pending(self._manager.dispatch)

    @property
    def broken(self) -> str | None:
        """Why it takes no more tasks, where that is not the end that its owner gave it."""
        return self._manager.dispatch.broken

    @property
    def usable(self) -> bool:
        """Whether it is as good as new: not shut down, not broken, and no worker was lost or could not be started."""
        dispatch = self._manager.dispatch
        return not (dispatch.closed or dispatch.broken or dispatch.foreign or self.short or self._manager.worn)

    @property
    def foreign(self) -> bool:
        """Whether this is a forked child's copy."""
        return self._manager.dispatch.foreign

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = PipeFuture(self._manager.ear)
        self._manager.dispatch.submit(Task(future, fn, args, kwargs))
        return future

    def submit_sharing(self, memo: Memo, place: Place, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Submit a task that has a place among the others.

        It may share large buffers with others of the same ``memo``: each object is sent once.
        """
        future = PipeFuture(self._manager.ear)
        self._manager.dispatch.submit(Task(future, fn, args, {}, memo, place))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._manager.shutdown(cancel=cancel_futures)
        if wait:
            self._manager.join()

    def vacate(self, then: Callable[[], None]) -> None:
        """Call ``then`` when all is done, callbacks of futures included, or the pool has ended.

        In the pool's own thread, or in this one if that has ended. The caller sees to it that nothing is submitted
        until then.
        """
        self._manager.vacancy.ask(then)

    def soon(self, step: Callable[[], object]) -> None:
        """Have something done in the pool's own thread, by who may hold any lock; in this one if that has ended."""
        self._bell.leave(step)

    def cancel(self) -> None:
        """Cancel what has not begun. Nothing begins any more until ``renew`` is called."""
        self._manager.dispatch.cancelling = True
        self._bell.ring()

    def renew(self) -> None:
        """Forget whoever has used this pool; called by what was given to ``vacate``."""
        manager = self._manager
        with manager.dispatch.lock:
            manager.dispatch.cancelling = False
            manager.dispatch.pace = Pace()
            for worker in manager.dispatch.workers:
                worker.tail = ""
        table, manager.processes = manager.processes, manager.processes.copy()
        table.clear()  # whoever has left and still holds it must not find another one's workers there

    def served_by(self, thread: threading.Thread) -> bool:
        """Tell whether a thread is the one that serves this pool."""
        return self._manager.runs_in(thread)

    def terminate_workers(self) -> None:
        """Shut down and terminate the workers: what they run fails, what they have not begun is cancelled."""
        self._end_workers("terminate")

    def kill_workers(self) -> None:
        """Shut down and kill the workers: what they run fails, what they have not begun is cancelled."""
        self._end_workers("kill")

    def interrupt(self) -> None:
        """Shut down after a Ctrl-C: cancel what waits, interrupt what runs, and kill what does not end then."""
        self._manager.interrupt()

    def _end_workers(self, how: str) -> None:
        processes = self.processes.copy()
        self._manager.shutdown(cancel=True, final=True)
        for process in processes.values():
            try:
                getattr(process, how)()
            except ValueError:
                pass  # it has ended, and the manager has closed it


def open_pipes(
    workers: int,
    context: Any,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    terms: Terms | None = None,
    *,
    again: bool = False,
) -> PipePool:
    """Return a pool of which one worker is ready.

    Args:
        workers: How many workers at most.
        context: The ``multiprocessing`` context to start them by.
        initializer: Called in each worker before its first task.
        initargs: Its arguments.
        terms: How tasks and workers are treated.
        again: There was no place for a thread beside more workers.

    Raises:
        Refused: No worker can be started, or all that were ended before they were ready. Nothing of them is left.
    """
    if not (hasattr(os, "readv") and hasattr(os, "fork")):  # Windows, whose semaphores nothing refuses; Pyodide
        raise Refused("import", ModuleNotFoundError("this platform has no processes as on Unix"))
    if not hasattr(select, "poll"):
        raise Refused("import", ImportError("the module 'select' has no 'poll': eventlet removes it"))
    terms = terms or Terms()
    try:
        # Before anything is opened: in a daemon that has closed all, the number by which multiprocessing knows a helper
        # would be that of a file of ours, into which it would write to see whether the helper lives.
        ensure_helpers(context)
    except Exception as error:
        stage: Stage = "import" if isinstance(error, ImportError) else "start"
        if is_refusal(stage, error):
            raise Refused(stage, error) from None
        raise
    try:
        bell = Bell()
    except (ImportError, OSError) as error:
        raise Refused("import" if isinstance(error, ImportError) else "construct", error) from None
    orders = Orders(terms.log_level, User(initializer, initargs), initializer is not None, by_value=terms.by_value)
    manager = None
    try:
        manager = Manager(workers, context, orders, terms, bell)
        pool = PipePool(manager, bell)  # before it starts: what nobody holds, as after Ctrl-C, ends
        manager.start()
    except BaseException as error:
        started = 0 if manager is None else len(manager.dispatch.workers)
        bell.silence() if manager is None else manager.give_up()
        # What a start method is made of is imported when the first worker is started.
        stage = "import" if isinstance(error, ImportError) else "start"
        if not isinstance(error, Exception) or isinstance(error, Refused) or not is_refusal(stage, error):
            raise
        if started < 2:
            raise Refused(stage, error) from None
        # The thread was refused. Where the processes of a user or of a container are counted, threads count as well,
        # and the workers have taken all that there may be: one fewer will do. Else there may be no threads at all.
        why = failure("pipes", "start", error)
    else:
        return pool
    fewer = started // 2 if again else started - 1
    pool = open_pipes(fewer, context, initializer, initargs, terms, again=True)
    places = pool._manager.dispatch.places
    places.most = workers
    places.refuse(why)
    return pool

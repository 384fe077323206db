"""Where the stdlib's pool waits for ever: it loses a worker at a bad moment, or it ends while a task still fails."""

from __future__ import annotations

import os
import threading
import weakref
from concurrent.futures import InvalidStateError
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, partial
from types import SimpleNamespace

from unirun import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["fail_pending", "keep", "let_feed", "let_in", "replace", "watch_results", "watch_workers"]


def watch_workers(manager: Any) -> None:
    """Have the thread that ends a pool free the locks of workers that are killed when it has told them all to end.

    An idle worker waits for its task with the lock of the queue held, and the others wait for that lock. If the one is
    killed, the others do not hear that they are to end, and the stdlib waits for them for ever.
    """
    manager.__class__ = _watching(manager.__class__)  # the thread runs, and is not at its end: the caller has its lock


#: Seconds in which no worker has ended, after which those that are left may wait for a lock. Who ends needs it for far
#: less: to read or to write a word of a few bytes.
_GRACE = 1.0
#: Seconds after which it is asked again whether a worker has ended. What tells so by itself may be held open by a child
#: of the worker's, or by another pool's worker that was forked at the same time.
_LOOK = 0.1


@cache
def _watching(base: Any) -> type[Any]:
    class WatchingManager(base):  # type: ignore[misc]
        #: Just now futures are done, whose callbacks may submit.
        _unirun_delivers = False

        def process_result_item(self, result_item: Any) -> None:
            self._unirun_delivers = True
            try:
                super().process_result_item(result_item)
            finally:
                self._unirun_delivers = False

        def terminate_broken(self, *why: Any) -> None:
            pool = self.executor_reference()
            with let_in(pool) if pool is not None else nullcontext():
                while True:
                    try:
                        super().terminate_broken(*why)
                        return
                    except (InvalidStateError, RuntimeError):
                        # Up to 3.11 a future was cancelled; or the thread that pickles takes one out meanwhile.
                        if not self._unirun_forget_done():
                            raise

        def _unirun_forget_done(self) -> int:
            """Forget what is done; return how many there were."""
            pending = self.pending_work_items
            done = [number for number, item in list(pending.items()) if item.future.done()]
            return sum(pending.pop(number, None) is not None for number in done)

        def join_executor_internals(self) -> None:
            pool = self.executor_reference()
            with let_in(pool) if pool is not None else nullcontext():
                super().join_executor_internals()

        def _replace_dead_worker(self) -> Any:
            # The last versions of 3.14 and 3.15 ask here, and would start a worker past the guard of its start.
            pool = self.executor_reference()
            if pool is not None and not pool._force_shutting_down:
                with suppress(Exception):  # the stdlib's own way says why, if it is none either
                    replace(pool)
                    return None
            return super()._replace_dead_worker()

        def shutdown_workers(self) -> None:
            super().shutdown_workers()
            if not self.call_queue._reader.closed:  # as it is before 3.12 when the pool is broken, and all are killed
                _see_them_end(
                    list(self.processes.values()), (self.call_queue._rlock, getattr(self.result_queue, "_wlock", None))
                )

    return WatchingManager


@contextmanager
def let_in(pool: Any) -> Iterator[None]:
    """Let callbacks submit to a pool that breaks or ends, which tells them so at once.

    The stdlib's thread has the lock of ``submit`` and ``shutdown`` meanwhile (from 3.12 on, and where it replaces
    workers). It would wait for itself where it calls them; and for the thread that pickles where that does, as a task
    cannot be pickled.
    """
    lock = pool._shutdown_lock
    pool._shutdown_lock = _Held(lock, pool)
    try:
        yield
    finally:
        pool._shutdown_lock = lock


def let_feed(pool: Any) -> None:
    """Let the thread that pickles tasks tell of one that cannot be, without the lock that the pool's end may hold.

    Up to 3.13.0 it takes that to wake the pool's thread, which waits for it then. The wakeup has a lock of its own.
    """
    if hasattr(pool._call_queue, "shutdown_lock"):
        pool._call_queue.shutdown_lock = nullcontext()


class _Held:
    """A lock that this thread has, and may take again; and others too, as soon as it guards nothing any more.

    A pool that is broken or shut down only tells so: there is nothing left that ``submit`` changes.
    """

    def __init__(self, lock: Any, pool: Any) -> None:
        self._lock = lock
        self._pool = pool
        self._whose = threading.get_ident()
        self._here = threading.local()  # for each time that a thread is within, whether it has taken the lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)

    def __enter__(self) -> bool:
        free = self._whose == threading.get_ident() or self._pool._broken or self._pool._shutdown_thread
        if not free:
            self._lock.__enter__()
        vars(self._here).setdefault("taken", []).append(not free)
        return True

    def __exit__(self, *error: object) -> None:
        if self._here.taken.pop():
            self._lock.__exit__(*error)


def _see_them_end(workers: list[Any], locks: tuple[Any, ...]) -> None:
    """Free the locks that dead workers have while others wait for them.

    Returns when all have ended, or none can be waiting for a lock: then each ends when it is done with what it does.
    """
    from multiprocessing.connection import wait

    living, pause, end = workers, _LOOK / 100, clock.now() + _GRACE
    while living:
        count = len(living)
        # One that tells so itself is gone, even if it counts as alive: others have waited for it.
        gone = wait([worker.sentinel for worker in living], pause)
        living = [worker for worker in living if worker.sentinel not in gone and worker.is_alive()]
        pause = min(2 * pause, _LOOK)
        if len(living) < count:
            end = clock.now() + _GRACE
        elif clock.now() > end:
            end = clock.now() + _GRACE
            held = [lock for lock in locks if lock is not None and _is_held(lock)]
            if not held:
                return
            # One that has ended by itself has let go of them before; and one that was only stopped will go on.
            if any(worker not in living and worker.exitcode != 0 for worker in workers):
                for lock in held:
                    with suppress(ValueError):  # it was free again just now
                        lock.release()


def _is_held(lock: Any) -> bool:
    """Tell whether a process has a lock for longer than a moment."""
    if lock.acquire(timeout=_LOOK):
        lock.release()
        return False
    return True


def watch_results(pool: Any) -> None:
    """Have who receives a pool's results hear of it when a worker is killed in the middle of a large one.

    The stdlib's thread waits for what is left of it, and for nothing else: for ever, since the other workers and this
    process could still write it.
    """
    import select

    reader = pool._result_queue._reader
    if hasattr(select, "poll") and hasattr(reader, "_recv"):  # elsewhere it is not read so
        reader._recv = partial(_receive, weakref.ref(reader), pool._processes)


#: Bytes of a result that are written to a pipe in one piece with the four bytes of their number before them: as many as
#: Linux has it. The number of those of a result of more than 2 GB has eight bytes, and comes by itself.
_PIECE, _NUMBER = 4096 - 4, 8


def _receive(connection: Callable[[], Any], workers: dict[int, Any], size: int, read: Any = os.read) -> Any:
    """Do what a connection's ``_recv`` does."""
    reader = connection()
    if size > _PIECE or size == _NUMBER:
        import select

        more = select.poll()
        more.register(reader.fileno(), select.POLLIN)
        read = partial(_read, more, workers)
    return type(reader)._recv(reader, size, read)


def _read(more: Any, workers: dict[int, Any], descriptor: int, count: int) -> bytes:
    """Read from a pipe as soon as there is something, which a dead worker may have been about to write.

    Raises:
        EOFError: A worker has ended, and no other one writes anything. One that ends by itself has sent all it has
            to say, and is not among the workers any more once that was read.
    """
    while not more.poll(_LOOK * 1e3):
        if _any_ended(list(workers.values())) and not more.poll(0):
            raise EOFError("a worker ended in the middle of a result")
    return os.read(descriptor, count)


def _any_ended(workers: list[Any]) -> bool:
    from multiprocessing.connection import wait

    # What tells so by itself may be held open by a child of the worker's, and the exit status be another's to ask for.
    return any(worker.exitcode is not None for worker in workers) or bool(wait([each.sentinel for each in workers], 0))


def replace(pool: Any) -> bool:
    """Start a worker in place of one that has had its ``max_tasks_per_child``, in the thread that has seen it end.

    Up to 3.13 the stdlib starts none there where it believes another one to be idle, of which it counts how many have
    ended a task: a pool may be left without any (gh-115634). Nor does it after ``shutdown(wait=False)``, where the pool
    has forgotten its workers, although there are tasks (gh-132969).

    Returns:
        Whether this is that thread, and no ``submit`` in a callback there: that starts a worker if none is idle.
    """
    manager: Any = threading.current_thread()
    if not hasattr(manager, "executor_reference") or manager.executor_reference() is not pool:
        return False
    if getattr(manager, "_unirun_delivers", True):
        return False
    wanted = manager.pending_work_items or not pool._shutdown_thread
    if wanted and len(manager.processes) < pool._max_workers:
        known = {
            "_processes": manager.processes,
            "_call_queue": manager.call_queue,
            "_result_queue": manager.result_queue,
            "_executor_manager_thread": manager,
        }
        # Not by the pool's own, which a `shutdown` in another thread may make it forget meanwhile.
        pool._spawn_process(SimpleNamespace(**{**vars(pool), **known}))
    return True


def fail_pending(pool: Any, manager: Any, error: Callable[[], BaseException]) -> None:
    """Fail what is pending because there is no worker left; in the manager thread, the shutdown lock held."""
    pool._broken = str(error())
    pool._shutdown_thread = True
    with let_in(pool):
        for item in list(manager.pending_work_items.values()):
            with suppress(InvalidStateError):  # it was cancelled
                item.future.set_exception(error())
    manager.pending_work_items.clear()
    while not manager.work_ids_queue.empty():  # from which that thread would take them next
        manager.work_ids_queue.get_nowait()


def keep(pool: Any, manager: Any) -> None:
    """Have a pool live as long as its thread, which needs it to replace workers, though nobody waits for that."""
    if manager is not None and pool._max_tasks_per_child is not None:
        manager._unirun_pool = pool

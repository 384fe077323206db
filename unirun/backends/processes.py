"""The processes backend: the stdlib's process pool, plus a guard that tells a refused start from a crash.

     parent                                          worker
    ┌───────────────────────────┐   start    ┌──────────────────────────────┐
    │ first submit ─► stdlib ───┼───────────►│ import __main__              │
    │      │                    │   "ready"  │ say ready ◄─ then, not before│
    │      └─ waits for ◄───────┼────────────┤ the user's initializer       │
    │         ready, or ◄───────┼── broken   │ tasks …                      │
    │         the pool's end    │            └──────────────────────────────┘
    └───────────────────────────┘

The first ``submit`` gives the task to the stdlib's pool and returns when one worker has said *ready*, or raises
``Refused`` when all ended without: then no task can have started. Every later ``submit`` is the stdlib's own.
That first wait costs what a worker takes to start: a few milliseconds with fork, 10 to 100 with a fork server, and with
spawn the time in which a new interpreter imports the main module.

Guarantees:
    ``Refused`` is raised only after every worker was killed and reaped, and only if none had said ready.
    A worker that cannot be started is an error only while there is none at all: half a start is a start.

Does not promise:
    Anything after the first ready: a crash is the stdlib's ``BrokenProcessPool``.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from functools import partial

from unirun.backends import losses, repairs
from unirun.backends.ready import Ready, wake
from unirun.kinship import stdlib_class
from unirun.refusal import USUALLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    import concurrent.futures.process as stdlib
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

    from unirun.refusal import Failure, Stage

    _Base = stdlib.ProcessPoolExecutor
    BrokenProcessPool = stdlib.BrokenProcessPool
else:
    try:
        import concurrent.futures.process  # noqa: F401

        stdlib = sys.modules["concurrent.futures.process"]
        _Base, BrokenProcessPool = stdlib_class(stdlib.__name__, "ProcessPoolExecutor"), stdlib.BrokenProcessPool
    except (ImportError, AttributeError):  # no _multiprocessing, and a Python that cannot import this without it
        from unirun.backends.standin import BrokenProcessPool
        from unirun.backends.standin import ProcessPoolStandIn as _Base

        stdlib = None

__all__ = ["BrokenProcessPool", "GuardedProcessPool", "died_early"]


class _Awake:
    """In place of what wakes the pool's thread, while that thread itself submits."""

    def wakeup(self) -> None:
        pass


_AWAKE = _Awake()
#: Those that were constructed. No set: a class of the program's may have no hash.
_pools: list[weakref.ref[GuardedProcessPool]] = []


class GuardedProcessPool(_Base):
    """The stdlib's pool, plus the guard of its start."""

    if TYPE_CHECKING:  # not for `typing.get_type_hints`, which could not resolve them at run time
        _unirun_ready: Ready | None
        _unirun_short: Failure | None
        _processes: Any
        _pending_work_items: Any
        _broken: Any
        _shutdown_thread: Any
        _queue_count: Any
        _mp_context: Any
        _initializer: Any
        _initargs: Any
        _executor_manager_thread: Any

    _unirun_ready = None
    #: The stdlib's own table of workers, as it is where there are none: programs look into it to kill them.
    _processes = {}  # noqa: RUF012 - never written to; the stdlib sets its own on the instance
    #: And more that programs read: for backpressure, progress, or to see whether a pool is any good. As it is in a pool
    #: that was just made.
    _pending_work_items = {}  # noqa: RUF012 - likewise
    _broken = _shutdown_thread = False
    _queue_count = 0
    _mp_context = _initializer = _executor_manager_thread = None
    _initargs = ()
    #: Workers would not find this package: they are those of the stdlib's own pool, as if there were no guard.
    _unirun_unguarded = False

    def _unirun_submit_awake(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Submit a task in the pool's own thread, which is not to be woken: it looks for tasks before it waits.

        And only this thread reads the pipe by which it is woken: it must not wait for room in there.
        """
        it: Any = self
        wakeup = getattr(self, "_executor_manager_thread_wakeup", None)
        if wakeup is not None:
            # Another thread that gets this one has queued its task before, which is looked for, too.
            it._executor_manager_thread_wakeup = _AWAKE
        try:
            return super().submit(fn, *args)
        finally:
            if getattr(self, "_executor_manager_thread_wakeup", None) is _AWAKE:  # else it was shut down meanwhile
                it._executor_manager_thread_wakeup = wakeup

    def _unirun_construct(
        self,
        max_workers: int | None,
        mp_context: Any,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_tasks_per_child: int | None,
    ) -> None:
        """Do what the stdlib's ``__init__`` does.

        Raises:
            Refused: Semaphores or pipes cannot be made on this host.
        """
        initialize = super().__init__

        def construct() -> None:
            initialize(max_workers, mp_context, first, initargs, max_tasks_per_child=max_tasks_per_child)

        first = initializer
        try:
            if not repairs.starts_by_fork(mp_context, max_tasks_per_child):
                repairs.ensure_tracker()
                repairs.forget_others_server()
                self._unirun_unguarded = not repairs.workers_find_us()
            if not self._unirun_unguarded:
                first, initargs = Ready(initializer, initargs), ()
                self._unirun_ready = first
            try:
                construct()
            except PermissionError as error:
                if not repairs.from_system_limits(error):
                    raise
                # Only the question how many semaphores there are is forbidden; they may well work.
                repairs.without_system_limits(stdlib, construct)
            repairs.lock_wakeup(self, self._executor_manager_thread_wakeup)
            losses.watch_results(self)
            losses.let_feed(self)
            _pools.append(weakref.ref(self, _pools.remove))
        except Exception as error:
            self._unirun_release()
            raise self._unirun_refused_construction(error) from None

    @staticmethod
    def _unirun_refused_construction(error: Exception) -> Exception:
        """Return the ``Refused`` for an error of construction, or the error itself where it is the caller's."""
        from unirun.refusal import Refused, is_refusal

        if isinstance(error, Refused):
            return error
        stage: Stage = "import" if isinstance(error, ImportError) else "construct"
        return Refused(stage, error) if is_refusal(stage, error) else error

    def _unirun_start(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Future[Any], bool]:
        """Submit a task, and wait for a worker to say ready.

        Returns:
            The task's future, and whether a worker is ready. It is not where the task failed before any worker was up,
            as one does that cannot be pickled.

        Raises:
            Refused: No worker can be started, or all of them ended before they were ready. The task did not run.
        """
        ready = self._unirun_ready
        replaced = getattr(self, "_initializer", None) is not ready
        if ready is None or replaced:
            # An earlier call broke the pool; or workers do not say ready, as a program has put another initializer in
            # that one's place, or runs where they would not find this package.
            return super().submit(fn, *args, **kwargs), True
        ready.waiting += 1
        try:
            return self._unirun_start_waiting(ready, fn, args, kwargs)
        finally:
            ready.waiting -= 1

    def _unirun_start_waiting(
        self, ready: Ready, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Future[Any], bool]:
        from unirun.refusal import Refused, is_refusal, refused_start

        if not ready.armed:  # an earlier call started it, and was then interrupted
            return super().submit(fn, *args, **kwargs), True
        try:
            future = super().submit(fn, *args, **kwargs)
        except Exception as error:
            workers = bool(self._unirun_workers())
            refused = is_refusal("start", error)
            if self._unirun_manager_alive() if workers else not refused:
                raise
            repairs.undo_start(error)
            self._unirun_abandon()
            if refused:
                raise refused_start(error, self._mp_context) from None
            # There are workers, but the interpreter is shutting down and starts no thread that would end them.
            self._broken = why = f"the threads of the pool cannot be started: {error!r}"
            raise BrokenProcessPool(why) from error
        if not self._unirun_workers():  # a program's subclass starts them at a time of its own
            ready.disarm()
            return future, True
        future.add_done_callback(partial(wake, weakref.ref(ready)))
        self._unirun_start_more(self._unirun_to_follow())
        while True:
            try:
                up = ready.wait()
            except BaseException:  # Ctrl-C: the caller gets no future, so the task should not run
                future.cancel()
                raise
            if not ready.armed:  # a signal handler submitted meanwhile, and has heard the word
                return future, True
            if up:
                ready.disarm()
                return future, True
            if not future.done():
                continue  # the end of an earlier task, whose caller was interrupted
            if future.cancelled() or not isinstance(future.exception(), BrokenProcessPool):
                return future, False
            for worker in self._unirun_workers():
                repairs.kill(worker)  # SIGTERM may be ignored, and the manager thread waits for them
            super().shutdown(wait=True)
            if ready.was_said():
                return future, True  # a worker was up: it is a crash, and the task may have run
            self._unirun_release()
            raise Refused("bootstrap", died_early())

    def _unirun_to_follow(self) -> int:
        """Return how many tasks will certainly follow the first one, as far as that is known."""
        return 0

    def _unirun_start_more(self, tasks: int) -> None:
        """Start the workers of tasks that follow now, and not when each is submitted: after the wait for the first one.

        Only as many as the stdlib's pool would, which starts one for each task that finds none idle.
        """
        it: Any = self
        if not it._safe_to_dynamically_spawn_children:  # all were forked at once
            return
        with it._shutdown_lock:
            for _ in range(min(tasks, it._max_workers - len(it._processes or ()))):
                try:
                    self._spawn_process()
                except BrokenProcessPool:
                    return  # the first has ended already, of which the wait will hear
                it._idle_worker_semaphore.release()  # it has no task, and the next one starts no other

    def _launch_processes(self) -> None:
        super()._launch_processes()  # type: ignore[misc]
        # After the forks: a child of a process with threads may inherit a lock that they hold.
        self._unirun_start_feeder()

    def _start_executor_manager_thread(self) -> None:
        if self._executor_manager_thread is None:
            self._executor_manager_thread_wakeup._unirun_owner = os.getpid()  # type: ignore[attr-defined]
            if self._safe_to_dynamically_spawn_children:  # type: ignore[attr-defined]
                self._unirun_start_feeder()
            super()._start_executor_manager_thread()
            losses.watch_workers(self._executor_manager_thread)

    def _adjust_process_count(self) -> None:
        if not losses.replace(self):
            super()._adjust_process_count()

    def _replace_dead_worker(self) -> None:  # which comes before that one in the last versions of 3.13
        losses.replace(self)

    def _unirun_start_feeder(self) -> None:
        """Start the thread that feeds the call queue now, where a refusal is one of the start.

        The stdlib starts it from its manager thread, with the first task. Before 3.12 a refusal ends that thread
        there, and every future waits forever; later it counts as a crash.
        """
        queue: Any = self._call_queue  # type: ignore[attr-defined]
        with queue._notempty:
            if queue._thread is None:
                queue._start_thread()

    def _spawn_process(self, known: Any = None) -> None:
        """Start a worker; by what is ``known`` to the thread that replaces one, if it calls this."""
        try:
            repairs.ensure_descriptors(self._mp_context)
            if known is None:
                super()._spawn_process()  # type: ignore[misc]
            else:
                _Base._spawn_process(known)  # type: ignore[attr-defined]
        except Exception as error:
            from unirun.refusal import failure, is_refusal

            if not is_refusal("start", error):
                if self._broken:
                    # Since `submit` has looked: before 3.12 the manager thread closes the queue without the lock.
                    raise BrokenProcessPool(self._broken) from error
                raise
            it: Any = known or self
            manager, workers = it._executor_manager_thread, list((it._processes or {}).values())
            if workers:
                repairs.undo_start(error)
                self._unirun_short = failure("processes", "start", error)
                for worker in [each for each in workers if repairs.lost_server(each, error)]:
                    repairs.kill(worker)  # it is not dead, as the stdlib takes it to be: it would wait for ever
            elif manager is not None and manager is threading.current_thread():
                # The last worker has done its max_tasks_per_child and cannot be replaced. The stdlib, before the last
                # versions of 3.14, would let its manager thread die of this, and every future wait forever.
                repairs.undo_start(error)
                why = f"no worker is left and none can be started: {error!r}"
                losses.fail_pending(self, manager, partial(BrokenProcessPool, why))
            else:
                raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        workers, manager = self._unirun_workers(), getattr(self, "_executor_manager_thread", None)
        super().shutdown(wait, cancel_futures=cancel_futures)
        if not wait:
            losses.keep(self, manager)
            return
        for worker in workers:
            if repairs.is_stray(worker):
                repairs.kill(worker)
        if self._unirun_ready is not None and not self._unirun_ready.waiting:
            self._unirun_ready.close()

    def _unirun_workers(self) -> list[Any]:
        return list((getattr(self, "_processes", None) or {}).values())

    def _unirun_manager_alive(self) -> bool:
        manager = getattr(self, "_executor_manager_thread", None)
        return manager is not None and manager.is_alive()

    def _unirun_abandon(self) -> None:
        """Tear down a pool whose manager thread never started: it has workers at most, and nobody else to end them."""
        for worker in self._unirun_workers():
            repairs.kill(worker)
            worker.join()
        self._executor_manager_thread = None  # never started
        self._pending_work_items.clear()
        self._shutdown_thread = True
        self._unirun_release()

    def _unirun_release(self) -> None:
        """Close what the pool holds open, now and not when it is collected; half of it may never have been made."""
        for name in ("_executor_manager_thread_wakeup", "_call_queue", "_result_queue"):
            held = getattr(self, name, None)
            if held is not None:
                setattr(self, name, None)  # as the stdlib's shutdown leaves it, which another thread may be in
                held.close()
                if name == "_call_queue":
                    held.join_thread()
        if self._unirun_ready is not None:
            self._unirun_ready.close()
            self._unirun_ready = None


def _free_locks() -> None:
    """In a forked child, free the locks of pools: their threads, which go on with maps, held them, and are not here."""
    for pool in [made() for made in _pools.copy()]:
        wakeup = getattr(pool, "_executor_manager_thread_wakeup", None)
        locks: tuple[Any, ...] = getattr(pool, "_shutdown_lock", None), getattr(wakeup, "_lock", None)
        for lock in filter(None, locks):
            lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)


def died_early() -> BaseException:
    """Return the error of a pool of which no worker came up."""
    return BrokenProcessPool(
        f"every worker ended before it was ready; what it wrote to standard error says why (usually {USUALLY})"
    )

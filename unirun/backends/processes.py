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
That first wait costs what a worker takes to start: about 2 ms with fork, 10 ms once a fork server runs, and with
spawn the time in which a new interpreter imports the main module.

Guarantees:
    ``Refused`` is raised only after every worker was killed and reaped, and only if none had said ready.
    A worker that cannot be started is an error only while there is none at all: half a start is a start.

Does not promise:
    Anything after the first ready: a crash is the stdlib's ``BrokenProcessPool``.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from unirun.refusal import Failure, Refused, Stage, failure, is_refusal

if TYPE_CHECKING:
    import concurrent.futures.process as stdlib

    _Base = stdlib.ProcessPoolExecutor
    BrokenProcessPool = stdlib.BrokenProcessPool
else:
    try:
        import concurrent.futures.process as stdlib

        _Base, BrokenProcessPool = stdlib.ProcessPoolExecutor, stdlib.BrokenProcessPool
    except ImportError:  # no _multiprocessing, and a Python that needs it to import this module
        from unirun.backends.standin import BrokenProcessPool
        from unirun.backends.standin import ProcessPoolStandIn as _Base

        stdlib = None

__all__ = ["BrokenProcessPool", "GuardedProcessPool"]

_READY: Final = b"R"
_ENDED: Final = b"E"


class Ready:
    """The initializer of every worker: says ready, then runs the user's.

    The user's initializer travels pickled inside of it where the start method pickles at all, so that loading it, which
    runs code of the user's, comes after ready too.
    """

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        from multiprocessing.connection import Pipe

        self._user = (initializer, initargs)
        # Both ends stay open as long as the pool object lives: a worker that says ready late must find the pipe,
        # or the signal SIGPIPE might end it.
        self._reader, self._writer = Pipe(duplex=False)
        #: New workers shall say ready.
        self.armed: bool = True

    def __call__(self) -> None:
        """Run in the worker, where the fork start method made a copy of this object."""
        say_ready(self._writer)
        self._reader.close()
        run_user(*self._user)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        from multiprocessing.reduction import ForkingPickler

        user = bytes(ForkingPickler.dumps(self._user))
        return _Told, (self._writer if self.armed else None, user)

    def disarm(self) -> None:
        """From here on new workers need not say ready; their word would only fill the pipe."""
        self.armed = False

    def ended(self, future: Future[Any]) -> None:
        """Wake the waiting ``submit``: its future is done, by a crash or otherwise."""
        self._writer.send_bytes(_ENDED)

    def wait(self) -> bool:
        """Wait until a worker is ready (true) or the first task's future is done (false), whichever comes first."""
        return self._reader.recv_bytes() == _READY

    def was_said(self) -> bool:
        """Tell whether any worker said ready. Exact once all workers are dead: nobody writes any more."""
        while self._reader.poll():
            if self._reader.recv_bytes() == _READY:
                return True
        return False

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class _Told:
    """What ``Ready`` becomes in a worker that does not fork."""

    def __init__(self, writer: Any, user: bytes) -> None:
        self._writer = writer
        self._user = user

    def __call__(self) -> None:
        import pickle

        if self._writer is not None:
            say_ready(self._writer)
        run_user(*pickle.loads(self._user))


def say_ready(writer: Any) -> None:
    """Tell the parent that this worker is ready. A short message: written at once or not at all."""
    try:
        writer.send_bytes(_READY)
    except OSError:
        pass  # the parent is gone, or has closed its pool; the worker learns that from its queue
    writer.close()


def run_user(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    """Run the user's initializer, if there is one."""
    if initializer is not None:
        initializer(*initargs)


class GuardedProcessPool(_Base):
    """The stdlib's pool, plus the guard of its start."""

    _ready: Ready | None = None
    #: Why there are fewer workers than asked for, or None.
    _short: Failure | None = None

    def _construct(
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
        try:
            ready = self._ready = Ready(initializer, initargs)
        except (ImportError, OSError) as error:
            raise self._refused_construction(error) from None

        def construct() -> None:
            super(GuardedProcessPool, self).__init__(
                max_workers, mp_context, ready, (), max_tasks_per_child=max_tasks_per_child
            )

        try:
            _ensure_tracker(mp_context, max_tasks_per_child)
            try:
                construct()
            except PermissionError as error:
                if not _from_system_limits(error):
                    raise
                # Only the question how many semaphores there are is forbidden; they may well work.
                with _without_system_limits():
                    construct()
        except Exception as error:
            self._release()
            raise self._refused_construction(error) from None

    @staticmethod
    def _refused_construction(error: Exception) -> Exception:
        """Return the ``Refused`` for an error of construction, or the error itself where it is the caller's."""
        if isinstance(error, Refused):
            return error
        stage: Stage = "import" if isinstance(error, ImportError) else "construct"
        return Refused(stage, error) if is_refusal(stage, error) else error

    def _start(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Future[Any], bool]:
        """Submit a task, and wait for a worker to say ready.

        Returns:
            The task's future, and whether a worker is ready. It is not where the task failed before any worker was up,
            as one does that cannot be pickled.

        Raises:
            Refused: No worker can be started, or all of them ended before they were ready. The task did not run.
        """
        ready = self._ready
        assert ready is not None
        if not ready.armed:  # an earlier call started it, and was then interrupted
            return super().submit(fn, *args, **kwargs), True
        try:
            future = super().submit(fn, *args, **kwargs)
        except Exception as error:
            if (self._workers() and self._manager_alive()) or not is_refusal("start", error):
                raise
            _close_leaked_pipes(error)
            self._abandon()
            raise Refused("start", error) from None
        future.add_done_callback(ready.ended)
        while True:
            try:
                up = ready.wait()
            except BaseException:  # Ctrl-C: the caller gets no future, so the task should not run
                future.cancel()
                raise
            if up:
                ready.disarm()
                return future, True
            if not future.done():
                continue  # the end of an earlier task, whose caller was interrupted
            if future.cancelled() or not isinstance(future.exception(), BrokenProcessPool):
                return future, False
            for worker in self._workers():
                worker.kill()  # SIGTERM may be ignored, and the manager thread waits for them
            super().shutdown(wait=True)
            if ready.was_said():
                return future, True  # a worker was up: it is a crash, and the task may have run
            self._release()
            raise Refused("bootstrap", _died_early())

    def _launch_processes(self) -> None:
        super()._launch_processes()  # type: ignore[misc]
        self._start_feeder()  # after the forks: a child of a process with threads may inherit a lock that they hold

    def _start_executor_manager_thread(self) -> None:
        if self._executor_manager_thread is None and self._safe_to_dynamically_spawn_children:
            self._start_feeder()
        super()._start_executor_manager_thread()

    def _start_feeder(self) -> None:
        """Start the thread that feeds the call queue now, where a refusal is one of the start.

        The stdlib starts it from its manager thread, with the first task. Before 3.12 a refusal ends that thread
        there, and every future waits forever; later it counts as a crash.
        """
        queue: Any = self._call_queue  # type: ignore[attr-defined]
        with queue._notempty:
            if queue._thread is None:
                queue._start_thread()

    def _spawn_process(self) -> None:
        try:
            super()._spawn_process()  # type: ignore[misc]
        except Exception as error:
            if not is_refusal("start", error):
                raise
            manager: Any = self._executor_manager_thread
            if self._workers():
                _close_leaked_pipes(error)
                self._short = failure("processes", "start", error)
            elif manager is not None and manager is threading.current_thread():
                # The last worker has done its max_tasks_per_child and cannot be replaced. The stdlib (before 3.15)
                # would let its manager thread die of this, and every future wait forever.
                _close_leaked_pipes(error)
                self._fail_pending(manager, error)
            else:
                raise

    def _fail_pending(self, manager: Any, error: Exception) -> None:
        """Fail what is pending because there is no worker left; runs in the manager thread, the shutdown lock held."""
        why = f"no worker is left and none can be started: {error!r}"
        self._broken = why  # type: ignore[assignment]
        self._shutdown_thread = True
        for item in manager.pending_work_items.values():
            if not item.future.done():
                item.future.set_exception(BrokenProcessPool(why))
        manager.pending_work_items.clear()

    def _workers(self) -> list[Any]:
        return list((getattr(self, "_processes", None) or {}).values())

    def _manager_alive(self) -> bool:
        manager = getattr(self, "_executor_manager_thread", None)
        return manager is not None and manager.is_alive()

    def _abandon(self) -> None:
        """Tear down a pool whose manager thread never started: it has workers at most, and nobody else to end them."""
        for worker in self._workers():
            worker.kill()
            worker.join()
        self._executor_manager_thread = None  # type: ignore[assignment]  # never started
        self._pending_work_items.clear()
        self._shutdown_thread = True
        self._release()

    def _release(self) -> None:
        """Close what the pool holds open, now and not when it is collected; half of it may never have been made."""
        for name in ("_executor_manager_thread_wakeup", "_call_queue", "_result_queue"):
            held = self.__dict__.pop(name, None)
            if held is not None:
                held.close()
                if name == "_call_queue":
                    held.join_thread()
        if self._ready is not None:
            self._ready.close()
            self._ready = None


def _died_early() -> BaseException:
    return BrokenProcessPool(
        "every worker ended before it was ready; what it wrote to standard error says why "
        "(usually its main module cannot be imported, or has no `if __name__ == '__main__':` guard)"
    )


def _ensure_tracker(mp_context: Any, max_tasks_per_child: int | None) -> None:
    """Start the resource tracker that start methods other than fork need, before there is anything to track.

    The stdlib starts it with the first semaphore, which stays in the system when the start is refused.
    """
    import multiprocessing
    from multiprocessing import resource_tracker

    if mp_context is None:
        mp_context = multiprocessing.get_context("spawn" if max_tasks_per_child is not None else None)
    if mp_context.get_start_method() == "fork":
        return
    try:
        resource_tracker.ensure_running()
    except OSError as error:
        raise Refused("start", error) from None


_limits_lock = threading.Lock()  # guards the exchange of the stdlib's check


@contextmanager
def _without_system_limits() -> Iterator[None]:
    with _limits_lock:
        check = stdlib._check_system_limits
        stdlib._check_system_limits = lambda: None
        try:
            yield
        finally:
            stdlib._check_system_limits = check


def _from_system_limits(error: BaseException) -> bool:
    """Tell whether ``error`` comes from the stdlib's question for the number of semaphores (`os.sysconf`)."""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_name == "_check_system_limits":
            return True
        traceback = traceback.tb_next
    return False


def _close_leaked_pipes(error: BaseException) -> None:
    """Close the pipes that `multiprocessing` makes just before a fork and forgets when it fails.

    `popen_fork.Popen._launch` opens four descriptors, then forks; an error of `os.fork` leaves them open for good. They
    are only to be had from its frame.
    """
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "_launch" and frame.f_globals.get("__name__") == "multiprocessing.popen_fork":
            for name in ("parent_r", "child_w", "child_r", "parent_w"):
                if name in frame.f_locals:
                    os.close(frame.f_locals[name])
        traceback = traceback.tb_next

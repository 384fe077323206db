"""Where the stdlib's process machinery needs help: what it forgets to close, to kill, or not to ask."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from functools import cache

from unirun.refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

__all__ = [
    "ensure_descriptors",
    "ensure_helpers",
    "ensure_tracker",
    "forget_others_server",
    "from_system_limits",
    "is_stray",
    "kill",
    "lock_wakeup",
    "lost_server",
    "starts_by_fork",
    "undo_start",
    "without_system_limits",
    "workers_find_us",
]


def is_stray(worker: Any) -> bool:
    """Tell a worker that counts as dead only because the fork server that started it is: 255 is then made up."""
    popen: Any = getattr(worker, "_popen", None)
    return getattr(popen, "method", None) == "forkserver" and popen.returncode == 255


def lost_server(worker: Any, error: BaseException) -> bool:
    """Tell whether the fork server that started a worker died of the start of another one, which failed with an error.

    Where that is the server's word, or the end of it, this may be known before the server is dead.
    """
    worker.is_alive()  # notices a dead server
    served = getattr(getattr(worker, "_popen", None), "method", None) == "forkserver"
    return is_stray(worker) or (served and isinstance(error, (EOFError, ConnectionError)))


def ensure_descriptors(context: Any) -> None:
    """Ask for as many descriptors as the start of a worker by a fork server takes in this process, if one starts it.

    Where there are some of them only, the stdlib opens a connection to the server and closes it again, without a word:
    which the server dies of, and with it, for the stdlib, all workers; and the next start, if it is still dying then.

    Raises:
        OSError: There are not so many.
    """
    if context.get_start_method() != "forkserver":
        return
    ends: list[int] = []
    try:
        for _ in range(3):
            ends += os.pipe()
    finally:
        for end in ends:
            os.close(end)


def kill(worker: Any) -> None:
    """Kill a worker, also one that its process object takes for dead."""
    worker.kill()
    worker.is_alive()  # notices a dead server
    if is_stray(worker):
        try:
            os.kill(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was dead


def starts_by_fork(mp_context: Any, max_tasks_per_child: int | None) -> bool:
    """Tell whether the workers of a pool that is made with these arguments are forked."""
    import multiprocessing

    if mp_context is None:
        mp_context = multiprocessing.get_context("spawn" if max_tasks_per_child is not None else None)
    return bool(mp_context.get_start_method() == "fork")


def ensure_tracker() -> None:
    """Start the resource tracker that start methods other than fork need, before there is anything to track.

    The stdlib starts it with the first semaphore, which stays in the system when the start is refused.
    """
    if os.name != "posix":
        return  # there is none, but on Windows its module can be imported, and fails when it is asked to start one
    from multiprocessing import resource_tracker  # which imports much that forking needs nothing of

    try:
        _with_this_mask(resource_tracker.ensure_running)
    except OSError as error:
        raise Refused("start", error) from None


def _with_this_mask(start: Callable[[], object]) -> None:
    """Start a helper, after which up to 3.13.0 the stdlib lets Ctrl-C in, whether or not this thread has it blocked."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def forget_others_server() -> None:
    """Have the next start make a fork server of this process's own, if the one that it knows is no child of it.

    In a child that was forked it is the parent's, of which the stdlib cannot tell whether it lives: every start fails
    with a ``ChildProcessError``. So it does where a handler of SIGCHLD has waited for it. See also GH-86354.
    """
    server: Any = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    if server is None:
        return
    with server._lock:
        if server._forkserver_pid is None:
            return
        try:
            if not os.waitpid(server._forkserver_pid, os.WNOHANG)[0]:
                return
            os.close(server._forkserver_alive_fd)
        except ChildProcessError:
            pass  # the pipe stays open: in a daemon that has closed all, its number may be another file's
        server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None
        server._forkserver_authkey = None


def ensure_helpers(context: Any) -> None:
    """Start the helpers of a start method, if it has some: what is started with Ctrl-C blocked keeps it blocked."""
    method = context.get_start_method()
    if method == "fork":
        return
    from multiprocessing import resource_tracker

    _with_this_mask(resource_tracker.ensure_running)
    if method == "forkserver":
        from multiprocessing import forkserver

        forget_others_server()
        forkserver.ensure_running()


def lock_wakeup(pool: Any, wakeup: Any) -> None:
    """Have the exit of the interpreter wake a pool's thread only in the thread's process, and while its pipe is open.

    `_python_exit` wakes it without the pool's lock. Up to 3.13.0 it then writes to a closed descriptor, which may be
    another file's by now, when the pool ends at that moment. Later stdlibs have a lock for it, for which a forked child
    waits for ever at its exit, if another thread held it at the fork.
    """
    # Guards the ends of the pipe. Reentrant: a signal handler may submit within it.
    wakeup._unirun_lock = threading.RLock()
    wakeup._unirun_pool = weakref.ref(pool)
    wakeup._unirun_main = threading.main_thread().ident
    #: The process that has the thread, once there is one: a pool may be made before a fork and used after it.
    wakeup._unirun_owner = None
    wakeup._unirun_ready = pool._unirun_ready
    wakeup.__class__ = _locked(wakeup.__class__)  # the thread, the queue and the table of the exit hold this object


@cache
def _locked(base: Any) -> type[Any]:
    class LockedWakeup(base):  # type: ignore[misc]
        def close(self) -> None:
            with self._unirun_lock:
                super().close()
            # The pool has come to its end in its own thread, and nobody may have waited for it.
            ready = self._unirun_ready
            if ready is not None and not ready.armed and not ready.waiting:
                ready.close()

        # The functions are held here: the collector may find an executor when modules have lost their names.
        def wakeup(self, getpid: Any = os.getpid, get_ident: Any = threading.get_ident) -> None:
            if self._unirun_owner in (None, getpid()):
                # At the exit the collector must not find the pool within: its end takes the pool's lock, which the
                # pool's thread may have, and wait for this one. Only in the thread that exits: elsewhere the caller
                # may have the pool's lock, for which the end of the last reference would wait.
                kept = self._unirun_pool() if get_ident() == self._unirun_main else None
                with self._unirun_lock:
                    super().wakeup()
                del kept

    return LockedWakeup


_limits_lock = threading.Lock()  # guards the exchange of the stdlib's check


def without_system_limits(stdlib: Any, construct: Callable[[], object]) -> None:
    """Construct one of the stdlib's pools, and keep it from asking how many semaphores there are."""
    with _limits_lock:
        check = stdlib._check_system_limits
        stdlib._check_system_limits = lambda: None
        try:
            construct()
        finally:
            stdlib._check_system_limits = check


def from_system_limits(error: BaseException) -> bool:
    """Tell whether ``error`` comes from the stdlib's question for the number of semaphores (`os.sysconf`)."""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_name == "_check_system_limits":
            return True
        traceback = traceback.tb_next
    return False


def workers_find_us() -> bool:
    """Tell whether a new interpreter, which is given this one's `sys.path`, would find this package.

    Or cannot be known not to: then the guard will tell.
    """
    from importlib.machinery import PathFinder
    from multiprocessing import process

    try:
        # As a worker sees it: it goes to where the program was when it imported multiprocessing.
        origin: Any = process.ORIGINAL_DIR  # type: ignore[attr-defined]
        if PathFinder.find_spec("unirun", [folder or origin for folder in sys.path]) is not None:
            return True
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        return any(finder.find_spec("unirun", None, None) is not None for finder in finders)
    except Exception:  # of a finder of the program's
        return True


def undo_start(error: BaseException) -> None:
    """Undo what `multiprocessing` has begun and forgets when a start fails, or is interrupted by a signal's handler.

    `popen_fork.Popen._launch` opens four descriptors, then forks; what is raised by then leaves them open. They
    are only to be had from its frame. Once the fork is done there is a worker that nobody knows of; which of the four
    are still open cannot be told, and their numbers may be another file's. `forkserver` forgets its first pipe when
    there is none left for the second.

    The first such frame is that of this start: an error that is raised again, as a mock does, has those of others too.
    """
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "_launch" and frame.f_globals.get("__name__") == "multiprocessing.popen_fork":
            if pid := getattr(frame.f_locals["self"], "pid", None):
                _end(pid)
            else:
                _close(frame, "parent_r", "child_w", "child_r", "parent_w")
            return
        if frame.f_code.co_name == "connect_to_new_process" and "child_r" not in frame.f_locals:
            _close(frame, "parent_r", "child_w")  # the second pipe could not be made
            return
        traceback = traceback.tb_next


def _close(frame: FrameType, *names: str) -> None:
    """Close descriptors by the names that they have in a frame."""
    for name in names:
        if name in frame.f_locals:
            os.close(frame.f_locals[name])


def _end(pid: int) -> None:
    """Kill a child, and wait for it."""
    try:
        if not os.waitpid(pid, os.WNOHANG)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it is waited for by the kernel, where SIGCHLD is ignored, or by a handler

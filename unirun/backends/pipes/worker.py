"""What runs in a worker process of the pipes backend: ready, the initializer, one task after the other, the end.

    ┌─────────┐  ready   ┌─────────────┐ initialized  ┌───────────────┐  result, before the next begins
    │ started ├─────────►│ initializer ├─────────────►│ task … task … ├──────────────────────────────►
    └─────────┘          └─────────────┘              └───────────────┘

A task begins only with a token, one byte read from a second pipe. The parent takes tasks back by reading tokens out of
the same pipe: each byte goes to one of the two, so each task has one owner, and no semaphore is needed. (GNU make
shares its jobs among processes so; see "POSIX Jobserver" in its manual.)

Guarantees:
    The result of a task is written before the next task begins, so the parent knows which one a crash has cost.
    A worker ends when its parent does: at once where the kernel can be told (Linux), else with the running task.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from unirun import clock, pickling
from unirun.backends.pipes import forks, protocol
from unirun.backends.pipes.by_value import by_value
from unirun.backends.pipes.lastwords import Watched
from unirun.backends.pipes.mapped import Shared, keep, make_private
from unirun.backends.raised import pack, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from unirun.backends.pipes.protocol import Frame

__all__ = ["Orders", "User", "work"]

#: The stdlib's pools report a failed initializer here.
LOGGER: Final = logging.getLogger("concurrent.futures")

#: `F_SETSIG` of Linux's <fcntl.h>, for a Python that does not name it.
_F_SETSIG: Final = 10


class User:
    """The user's initializer and its arguments, unpickled only when called: that runs the user's code."""

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        self._given = initializer, initargs

    def __call__(self) -> tuple[Callable[..., object] | None, tuple[Any, ...]]:
        return self._given

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        from multiprocessing.reduction import ForkingPickler

        # In the course of `Process.start`: locks and queues of multiprocessing can be pickled only then.
        return _PickledUser, (bytes(ForkingPickler.dumps(self._given)),)


class _PickledUser:
    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def __call__(self) -> Any:
        import pickle

        return pickle.loads(self._pickled)


class Orders(NamedTuple):
    """What a worker is told when it is started.

    Attributes:
        log_level: Send log records from this level on to the parent; ``None`` to leave logging alone.
        user: The initializer. Called after ready.
        initializes: Whether there is one.
        shared: The memory where large buffers are; ``None`` where there is none.
        by_value: Results and exceptions, too, go by value where they cannot go by name; see ``Terms``.
    """

    log_level: int | None
    user: User
    initializes: bool
    shared: Shared | None = None
    by_value: bool = False


def work(pipe: Any, tokens: Any, orders: Orders, deaf: bool) -> None:
    """Be a worker: the target of its process.

    Args:
        pipe: The worker's end of its duplex pipe.
        tokens: The pipe from which the tokens are read.
        orders: What else it has to know.
        deaf: The program has blocked Ctrl-C, as for a thread that waits for it, and so it is in its workers.
    """
    forks.close_in_children(pipe, tokens, *(() if orders.shared is None else (orders.shared,)))
    # As the start methods leave them, a program that a task starts may have them, and then they close with that one.
    for fd in (pipe.fileno(), tokens.fileno(), *(() if orders.shared is None else (orders.shared.fd,))):
        os.set_inheritable(fd, False)
    _die_with_parent()
    os.set_blocking(pipe.fileno(), True)  # gevent's sockets are not, nor is what comes out of them
    signal.set_wakeup_fd(-1)  # the parent's event loop would take this worker's signals for its own
    pickling.by_value = by_value if orders.by_value else None
    worker = _Worker(pipe.fileno(), tokens.fileno(), orders.shared)
    forks.on_fork(worker.disown)
    os.register_at_fork(before=worker.provide)
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler or isinstance(getattr(handler, "__self__", None), _Worker):
        signal.signal(signal.SIGINT, worker.interrupt)  # in place of an outer worker's, where a worker opens a pool
    try:
        # The parent blocked it until here; a fork server may have been started before the program blocked it.
        signal.pthread_sigmask(signal.SIG_BLOCK if deaf else signal.SIG_UNBLOCK, {signal.SIGINT})
        worker.run(orders)
    except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass  # the parent is gone; or it was Ctrl-C, of which the parent was told by itself
    finally:
        worker.finish()


class _Worker:
    def __init__(self, pipe: int, tokens: int, shared: Shared | None) -> None:
        self._shared = shared
        self._pipe = pipe
        self._tokens = tokens
        # Guards the writing end: a frame of a task's own threads (standard error, logging) must not cut another one.
        # Reentrant, and with the next two: in the course of a long frame a signal handler or a finalizer may print.
        self._lock = threading.RLock()
        self._sending = False
        self._later: list[list[bytes | memoryview]] = []
        self._reader = protocol.Reader()
        self._mappings: list[Any] = []  # of the running task
        self._interruptible = True
        self._interrupted = False

    def run(self, orders: Orders) -> None:
        if orders.initializes:
            self._send(protocol.frame(protocol.READY))
        self._watch_stderr()
        if orders.log_level is not None:
            _send_logs(self, orders.log_level)
        if orders.initializes and not self._initialize(orders):
            return
        self._send(protocol.frame(protocol.INITIALIZED))  # and ready: an end before this is the host's, not the user's
        while not self._interrupted:
            count = os.readv(self._pipe, [self._reader.room()])
            if not count:
                return  # the parent is gone
            try:
                for message in self._reader.got(count):
                    if message.kind == protocol.END:
                        return
                    if message.kind != protocol.TASK:
                        raise protocol.ProtocolError(f"no message to a worker has the kind {message.kind}")
                    if not self._take_token():
                        self._send(protocol.frame(protocol.DROPPED, message.serial))
                    else:
                        self._run_task(message)
                    del message  # its buffers, before the next ones come
                    if self._interrupted:
                        return
            except protocol.ProtocolError as error:
                self._send(protocol.frame(protocol.FOREIGN, 0, protocol.dump(str(error))))
                return

    def _initialize(self, orders: Orders) -> bool:
        try:
            initializer, initargs = orders.user()
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:
            if not (isinstance(error, KeyboardInterrupt) and self._interrupted):
                LOGGER.critical("Exception in initializer:", exc_info=True)
            text = "".join(traceback.format_exception_only(error)).strip()
            self._send(protocol.frame(protocol.UNINITIALIZED, 0, protocol.dump(text)))
            return False
        return True

    def _take_token(self) -> bool:
        try:
            return os.read(self._tokens, 1) != b""
        except BlockingIOError:
            return False  # the parent took it back

    def _run_task(self, message: Frame) -> None:
        serial, begin = message.serial, clock.now()
        mappings: list[Any] = []
        try:
            buffers: Any = message.buffers
            if buffers and self._shared is not None:
                buffers, mappings = self._shared.fetch(buffers)
                self._mappings = mappings
            fn, args, kwargs = protocol.load(message, buffers)
        except protocol.ProtocolError:
            raise
        except BaseException as error:
            self._interruptible = False
            answer = _answer_unloadable(error)
        else:
            del message, buffers  # these are the arguments' now, and go with them
            try:
                value = fn(*args, **kwargs)
                self._interruptible = False  # until it waits for a message again: a frame is written whole
            except BaseException as error:
                self._interruptible = False
                answer = _answer_error(error)
            else:
                try:
                    answer = protocol.RESULT, _dump(value)
                except BaseException as error:
                    answer = _answer_error(error)
                del value
            del fn, args, kwargs
        kind, parts = answer
        pieces = protocol.frame(kind, serial, parts, seconds=clock.now() - begin)
        del answer, parts
        self._send(pieces, mappings)
        self._interruptible = True
        try:
            sys.stdout.flush()  # what it printed must not be lost if a later task kills this worker
        except Exception:
            pass  # there is none, it is closed, or of the task's own making; print() would have said so to the task

    def send_beside(self, kind: int, value: object) -> None:
        """Send something that is not the answer to a task."""
        try:
            self._send(protocol.frame(kind, 0, protocol.dump(value)))
        except OSError:
            pass  # the parent is gone

    def _send(self, pieces: list[bytes | memoryview], mappings: list[Any] | None = None) -> None:
        """Write a frame and leave nothing in ``pieces``; make private what is kept of ``mappings`` before its end.

        It empties both.
        """
        with self._lock:
            if self._sending:
                self._later.append(pieces)
                return
            interruptible, self._interruptible = self._interruptible, False
            self._sending = True
            try:
                if len(pieces) > 1 and mappings:  # these may be what is sent, and kept by nobody else
                    last = memoryview(pieces.pop()).cast("B")
                    end = bytes(last[-1:])
                    pieces.append(last[:-1])
                    del last
                    self._write(pieces)
                    pieces = [end]
                if mappings:
                    keep(mappings)
                self._write(pieces)
                while self._later:
                    self._write(self._later.pop(0))
            finally:
                self._sending = False
                self._interruptible = interruptible

    def _write(self, pieces: list[bytes | memoryview]) -> None:
        while pieces:
            piece = pieces.pop(0)
            written = os.write(self._pipe, piece)
            if written != len(piece):  # of a view, its items
                left = memoryview(piece).cast("B")[written:]
                while left:
                    left = left[os.write(self._pipe, left) :]

    def provide(self) -> None:
        """Before a task forks: the child, which may outlive it, is to have the task's arguments as they are now."""
        make_private(list(self._mappings))

    def disown(self) -> None:
        """In a child that a task forks: the pipes are closed there, and their numbers may soon be another file's."""
        self._mappings = []
        self._pipe = self._tokens = -1
        self._lock, self._sending, self._later = threading.RLock(), False, []
        if isinstance(sys.stderr, Watched):
            sys.stderr = sys.stderr.unwatched()

    def interrupt(self, signum: int, frame: Any) -> None:
        """Be the handler of SIGINT: end the running task by ``KeyboardInterrupt``, and then the worker, quietly.

        Once: a terminal sends a signal to all, and the parent one more. The second one must not hit what a task does
        in the course of the first.
        """
        first, self._interrupted = not self._interrupted, True
        if first and self._interruptible:
            raise KeyboardInterrupt

    def finish(self) -> None:
        """From here on there is nothing to interrupt, and nobody to tell."""
        self._interruptible = False

    def _watch_stderr(self) -> None:
        if sys.stderr is not None:
            sys.stderr = Watched(sys.stderr, partial(self.send_beside, protocol.STDERR))


def _send_logs(worker: _Worker, level: int) -> None:
    """Let all log records go to the parent, and only there: handlers that a fork inherited would write them twice."""
    from logging.handlers import QueueHandler

    class ToParent(QueueHandler):
        def enqueue(self, record: logging.LogRecord) -> None:
            worker.send_beside(protocol.LOG, record)

    handler: logging.Handler = ToParent(None)  # type: ignore[arg-type]
    root = logging.getLogger()
    for logger in (root, *logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            for each in list(logger.handlers):
                logger.removeHandler(each)
            if logger is root or not logger.propagate:
                logger.addHandler(handler)
    root.setLevel(level)


def _dump(value: object) -> tuple[list[bytes], list[memoryview]]:
    try:
        return protocol.dump(value)
    except Exception as error:
        if (pickler := pickling.fallback(error)) is None:
            raise
        return protocol.dump(value, pickler)


def _answer_error(error: BaseException) -> tuple[int, tuple[list[bytes], list[memoryview]]]:
    return protocol.ERROR, protocol.dump(pack(error))


def _answer_unloadable(error: BaseException) -> tuple[int, tuple[list[bytes], list[memoryview]]]:
    """The task could not be unpickled, so it did not begin: what ends a worker of the stdlib's pool, and that pool."""
    from unirun.backends.processes import BrokenProcessPool

    broken = BrokenProcessPool(f"the task could not be unpickled: {words(error)}")
    text = "".join(traceback.format_exception(error))
    return protocol.ERROR, protocol.dump((pickling.dumps(broken), text))


def _die_with_parent() -> None:
    """Have this process killed when its parent dies, whatever a task is doing then.

    Every start method gives a worker a pipe that is closed when the parent is gone. Linux can be asked for a signal
    when that happens, and for which one: SIGKILL, which needs no thread that waits, nor the GIL. Elsewhere a thread
    waits.
    """
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        import fcntl

        try:
            fd = int(parent.sentinel)
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, getattr(fcntl, "F_SETSIG", _F_SETSIG), signal.SIGKILL)
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        except OSError:
            pass  # a kernel that cannot: a thread then
        else:
            if not parent.is_alive():  # it died before
                os.kill(os.getpid(), signal.SIGKILL)
            return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        threading.Thread(target=watch, name="unirun-parent", daemon=True).start()
    except RuntimeError:
        pass  # no threads here: this worker ends with its task

"""The executor of the interpreters backend, and how it is opened.

    submit ─► pickled ─► the stdlib's queue ─► a thread ─► its interpreter: unpickle, call, pickle ─► the future

Guarantees:
    A worker is prepared as one that is spawned: by `sys.path`, `sys.argv` and the main module. It is ready when that is
    done; then the user's initializer runs in it.
    What the program has loaded can be loaded in a worker. Else the backend is refused: most extension modules that are
    not Python's own do not let themselves be loaded in a sub-interpreter.
    A worker that cannot be made is an error only while there is none at all.

Does not promise:
    That a task can load what the program has not loaded: that is the task's ImportError.
    To outlive a task that ends its process, as a crash does: all workers live in this one.
"""

from __future__ import annotations

import sys
import threading
import weakref
from importlib.machinery import ExtensionFileLoader
from types import ModuleType

from unirun.backends.interpreters.worker import begin, initialize, run
from unirun.backends.lowered import LOGGER, pickled_call
from unirun.backends.processes import BrokenProcessPool
from unirun.backends.raised import unpack, words
from unirun.backends.threads import GuardedThreadPool
from unirun.pickling import dumps
from unirun.refusal import Refused, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import BrokenExecutor, Future
    from typing import Any, Final

    from unirun.refusal import Failure

__all__ = ["InterpreterPool", "open_interpreters"]

#: What a new interpreter runs before it can import anything of ours.
_FIND: Final = "import sys\nsys.path[:] = path\ndel path"


class _Birth:
    """What each worker of a pool is made by.

    Args:
        initializer: The user's initializer, or ``None``.
        initargs: Its arguments.

    Attributes:
        pool: A weak reference to it.

    Raises:
        Refused: The arguments cannot be copied, as those that a process is started with: they may be shared by threads.
    """

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        from multiprocessing import spawn

        self.pool: Callable[[], InterpreterPool | None]
        try:
            prepared: Any = spawn.get_preparation_data("unirun worker")
        except Exception as error:  # it looks at the main module, and at the current directory
            raise Refused("start", error) from None
        prepared["authkey"] = bytes(prepared["authkey"])  # for connections to managers
        del prepared["dir"]  # it is this process
        self.prepared = dumps(prepared)
        self.extensions = _extensions()
        try:
            self.initializer = None if initializer is None else dumps((initializer, initargs))
        except Exception as error:
            raise Refused("start", error) from None


class _Worker:
    """A worker's interpreter, and what the stdlib's thread does with it: the context of ``ThreadPoolExecutor``.

    Whoever made it closes it, or gives it to a thread, which closes it at its end.

    Raises:
        Refused: It cannot be made, or cannot become a worker. Nothing of it is left.
    """

    def __init__(self, birth: _Birth) -> None:
        from concurrent import interpreters  # type: ignore[attr-defined, unused-ignore]

        try:
            self._interpreter = interpreters.create()
        except Exception as error:
            raise Refused("start", error) from None
        why: str | None = "it was interrupted"
        try:
            self._interpreter.prepare_main(path=tuple(each for each in sys.path if isinstance(each, str)))
            self._interpreter.exec(_FIND)
            why = self._interpreter.call(begin, birth.prepared, birth.extensions)
        except interpreters.InterpreterError as error:
            why = str(error)
        finally:
            if why is not None:
                self._interpreter.close()
        if why is not None:
            raise Refused("bootstrap", interpreters.InterpreterError(why))
        self._birth = birth
        self._initialized = birth.initializer is None

    def initialize(self) -> None:
        """Do nothing: the user's initializer comes with the first task of the user's."""

    def run(self, payload: bytes | BaseException | None) -> Any:
        """Run a task, or only start, by ``None``."""
        if payload is None:
            return None
        self._ensure_initialized()
        failed: BaseException
        if isinstance(payload, BaseException):
            failed = payload
        else:
            answer = self._interpreter.call(run, payload)
            try:
                value, raised, lost = _loads(answer)
            except BaseException as error:
                raise BrokenProcessPool(f"the result could not be unpickled: {words(error)}") from error
            if raised is None and lost is None:
                return value
            failed = BrokenProcessPool(lost) if raised is None else unpack(raised[0], raised[1], BrokenProcessPool)
        try:
            raise failed
        finally:
            del failed, payload  # its traceback holds this frame, which must not hold it; see GH-60488

    def finalize(self) -> None:
        self._interpreter.close()

    def _ensure_initialized(self) -> None:
        if self._initialized:
            return
        self._initialized = True
        raised = self._interpreter.call(initialize, self._birth.initializer)
        if raised is None:
            return
        packed, text = _loads(raised)
        error = unpack(packed, text, BrokenProcessPool)
        LOGGER.critical("Exception in initializer:", exc_info=error)
        pool = self._birth.pool()
        if pool is not None:
            pool._initializer_failed()
        raise BrokenProcessPool("the initializer failed, the pool is not usable anymore")


class InterpreterPool(GuardedThreadPool):
    """A pool of interpreters, each with a thread. ``open_interpreters`` makes it."""

    BROKEN = BrokenProcessPool  # it serves where processes are asked for

    def __init__(self, workers: int, birth: _Birth) -> None:
        self._unirun_birth = birth
        birth.pool = weakref.ref(self)
        # Workers that have no thread yet. Who adds one has the lock below; to take one is a single step.
        self._unirun_spare: list[_Worker] = []
        # The one for which a thread is being started. As all else of that, it is guarded by the stdlib's lock.
        self._unirun_given: _Worker | None = None
        # Guards that a submit for which a worker is made is the one that gets it. Reentrant: a signal handler submits.
        self._unirun_submitting = threading.RLock()
        super().__init__(workers, "unirun-interpreter")
        self._create_worker_context = self._unirun_worker
        self._resolve_work_item_task = _payload

    @property
    def short(self) -> Failure | None:
        """Why fewer workers than asked for could be started, or ``None``."""
        return self._unirun_short

    @property
    def broken(self) -> str | None:
        """Why it takes no more tasks, where that is not the end that its owner gave it."""
        return self._broken or None  # type: ignore[return-value]

    def served_by(self, thread: threading.Thread) -> bool:
        """Tell whether a thread is one of this pool's workers."""
        return thread in self._threads

    def open(self) -> None:
        """Start the first worker.

        Raises:
            Refused: It cannot be started.
        """
        self._unirun_spare.append(_Worker(self._unirun_birth))
        self._unirun_start(_in_worker, (None,), {})

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        payload = pickled_call((fn, args, kwargs), by_value=False)
        with self._unirun_submitting:
            if self._unirun_needs_worker():
                # Before the call: the stdlib would make it with a lock held that is that of all thread pools.
                try:
                    self._unirun_spare.append(_Worker(self._unirun_birth))
                except Refused as refused:
                    self._unirun_fewer(failure("interpreters", refused.stage, refused.error))
            try:
                return super().submit(_in_worker, payload)
            finally:
                if self._shutdown:  # by another thread, meanwhile
                    self._unirun_close()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._unirun_close()

    def _adjust_thread_count(self) -> None:
        before = len(self._threads)
        try:
            super()._adjust_thread_count()
        finally:
            given, self._unirun_given = self._unirun_given, None
            if given is not None and len(self._threads) == before:
                given.finalize()  # there is no thread that would
        if self._unirun_short is not None:
            self._unirun_fewer(self._unirun_short)

    def _unirun_error(self, why: str) -> BrokenExecutor:
        return BrokenProcessPool(why)

    def _unirun_fewer(self, why: Failure) -> None:
        """Do with the workers that there are: to try again takes long, and would be done with each task."""
        self._unirun_short = why
        self._max_workers = len(self._threads)

    def _unirun_close(self) -> None:
        """Close the workers that no thread will get."""
        while self._unirun_spare:
            self._unirun_spare.pop().finalize()

    def _unirun_needs_worker(self) -> bool:
        """Tell whether the next task is to have a new worker, and there is none for it."""
        if self._unirun_spare or self._shutdown or self._broken or len(self._threads) >= self._max_workers:
            return False
        if idle := self._idle_semaphore.acquire(blocking=False):
            self._idle_semaphore.release()
        return not idle

    def _unirun_worker(self) -> _Worker:
        """Return a worker for a new thread."""
        try:
            worker = self._unirun_spare.pop()
        except IndexError:  # a signal handler has submitted meanwhile
            worker = _Worker(self._unirun_birth)
        self._unirun_given = worker
        return worker


def open_interpreters(
    workers: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> InterpreterPool:
    """Return a pool of which one worker is ready.

    Args:
        workers: How many workers at most.
        initializer: Called in each worker before its first task.
        initargs: Its arguments.

    Raises:
        Refused: No worker can be started, or the first one cannot become one. Nothing of it is left.
    """
    try:
        import concurrent.interpreters  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
        import multiprocessing.spawn  # noqa: F401
    except ImportError as error:
        raise Refused("import", error) from None
    pool = InterpreterPool(workers, _Birth(initializer, initargs))
    try:
        pool.open()
    except BaseException:
        pool.shutdown(wait=False)
        raise
    return pool


def _extensions() -> tuple[str, ...]:
    """Return the names of the extension modules that the program has loaded, and that are not Python's own."""
    specs: list[Any] = [
        vars(each).get("__spec__") for each in list(sys.modules.values()) if isinstance(each, ModuleType)
    ]
    names = [each.name for each in specs if isinstance(getattr(each, "loader", None), ExtensionFileLoader)]
    return tuple(name for name in names if name.partition(".")[0] not in sys.stdlib_module_names)


def _in_worker(payload: bytes | BaseException | None) -> Any:
    """Stand for ``_Worker.run``, by which the stdlib's thread replaces every function."""


def _payload(fn: object, args: tuple[Any, ...], kwargs: object) -> Any:
    """Return what a worker's ``run`` is called with: what ``_in_worker`` was submitted with."""
    return args[0]


def _loads(pickled: bytes) -> Any:
    import pickle

    return pickle.loads(pickled)

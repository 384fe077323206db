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


class _Supply:
    """Makes a pool's workers, and keeps those that have no thread yet.

    Args:
        initializer: The user's initializer, or ``None``.
        initargs: Its arguments.

    Attributes:
        pool: A weak reference to the pool: a thread's worker must not keep it.
        given: The worker for which a thread is being started. As all else of that, it is guarded by the stdlib's lock.

    Raises:
        Refused: The arguments cannot be copied, as those that a process is started with: they may be shared by threads.
    """

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        from multiprocessing import spawn

        self.pool: Callable[[], InterpreterPool | None] = lambda: None
        self.given: _Worker | None = None
        # Changed by single steps: one thread makes workers, another one may shut the pool down.
        self._spare: list[_Worker] = []
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

    def __bool__(self) -> bool:
        """Tell whether there is a worker."""
        return bool(self._spare)

    def make(self) -> None:
        """Make a worker.

        Raises:
            Refused: There can be none.
        """
        self._spare.append(_Worker(self))

    def take(self) -> _Worker:
        """Return a worker for a new thread."""
        try:
            self.given = self._spare.pop()
        except IndexError:  # a signal handler has submitted meanwhile
            self.given = _Worker(self)
        return self.given

    def close(self) -> None:
        """Close the workers that no thread will get."""
        try:
            while True:
                self._spare.pop().finalize()
        except IndexError:
            pass


class _Worker:
    """A worker's interpreter, and what the stdlib's thread does with it: the context of ``ThreadPoolExecutor``.

    Whoever made it closes it, or gives it to a thread, which closes it at its end.

    Raises:
        Refused: It cannot be made, or cannot become a worker. Nothing of it is left.
    """

    def __init__(self, supply: _Supply) -> None:
        from concurrent import interpreters  # type: ignore[attr-defined, unused-ignore]

        try:
            self._interpreter = interpreters.create()
        except Exception as error:
            raise Refused("start", error) from None
        why: str | None = "it was interrupted"
        try:
            self._interpreter.prepare_main(path=tuple(each for each in sys.path if isinstance(each, str)))
            self._interpreter.exec(_FIND)
            why = self._interpreter.call(begin, supply.prepared, supply.extensions)
        except interpreters.InterpreterError as error:
            why = str(error)
        finally:
            if why is not None:
                self._interpreter.close()
        if why is not None:
            raise Refused("bootstrap", interpreters.InterpreterError(why))
        self._supply = supply
        self._initialized = supply.initializer is None

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
        raised = self._interpreter.call(initialize, self._supply.initializer)
        if raised is None:
            return
        packed, text = _loads(raised)
        error = unpack(packed, text, BrokenProcessPool)
        LOGGER.critical("Exception in initializer:", exc_info=error)
        pool = self._supply.pool()
        if pool is not None:
            pool._initializer_failed()
        raise BrokenProcessPool("the initializer failed, the pool is not usable anymore")


class InterpreterPool(GuardedThreadPool):
    """A pool of interpreters, each with a thread. ``open_interpreters`` makes it."""

    BROKEN = BrokenProcessPool  # it serves where processes are asked for

    def __init__(self, workers: int, supply: _Supply) -> None:
        self._unirun_supply = supply
        supply.pool = weakref.ref(self)
        # Guards that a submit for which a worker is made is the one that gets it. Reentrant: a signal handler submits.
        self._unirun_submitting = threading.RLock()
        context: Any = {"supply": supply}  # for what is below, from 3.14 on
        super().__init__(workers, "unirun-interpreter", **context)

    @classmethod
    def prepare_context(cls, initializer: object, initargs: object, *, supply: _Supply) -> tuple[Any, Any]:
        """Return what makes a thread's worker, and what makes a task of a submitted function: as the stdlib asks."""
        return supply.take, _payload

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
        self._unirun_supply.make()
        self._unirun_start(_in_worker, (None,), {})

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        payload = pickled_call((fn, args, kwargs), by_value=False)
        with self._unirun_submitting:
            if self._unirun_needs_worker():
                # Before the call: the stdlib would make it with a lock held that is that of all thread pools.
                try:
                    self._unirun_supply.make()
                except Refused as refused:
                    self._unirun_fewer(failure("interpreters", refused.stage, refused.error))
            try:
                return super().submit(_in_worker, payload)
            finally:
                if self._shutdown:  # by another thread, meanwhile
                    self._unirun_supply.close()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._unirun_supply.close()

    def _adjust_thread_count(self) -> None:
        before = len(self._threads)
        try:
            super()._adjust_thread_count()
        finally:
            given, self._unirun_supply.given = self._unirun_supply.given, None
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

    def _unirun_needs_worker(self) -> bool:
        """Tell whether the next task is to have a new worker, and there is none for it."""
        if self._unirun_supply or self._shutdown or self._broken or len(self._threads) >= self._max_workers:
            return False
        if idle := self._idle_semaphore.acquire(blocking=False):
            self._idle_semaphore.release()
        return not idle


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
    pool = InterpreterPool(workers, _Supply(initializer, initargs))
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

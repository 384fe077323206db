"""The executor of the interpreters backend, and how it is opened.

    submit ─► pickled ─► the stdlib's queue ─► a thread ─► its interpreter: unpickle, call, pickle ─► the future

Guarantees:
    A worker is prepared as one that is spawned: by `sys.path`, `sys.argv` and the main module. It is ready when that is
    done; then, before its first task, the user's initializer runs in it.
    An extension module that the program has loaded can be loaded in a worker. Else the backend is refused: most that
    are not Python's own, and some that are, do not let themselves be loaded in a sub-interpreter.
    A worker that cannot be made is an error only while there is none at all.
    All that is done in an interpreter is done by its worker's thread: who waits for one can be interrupted.

Does not promise:
    That a task can load what the program has not loaded: that is the task's ImportError.
    To outlive a task that ends its process, as a crash does: all workers live in this one.
"""

from __future__ import annotations

import concurrent.futures.thread
import sys
import threading
import traceback
import weakref
from concurrent.futures import Future
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType

from unirun.backends.interpreters.worker import begin, initialize, run
from unirun.backends.lowered import LOGGER, pickled_call
from unirun.backends.processes import BrokenProcessPool
from unirun.backends.raised import unpack, words
from unirun.backends.ready import PATIENCE
from unirun.backends.threads import GuardedThreadPool
from unirun.pickling import dumper, dumps
from unirun.refusal import Refused, failure, is_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import BrokenExecutor
    from typing import Any, Final

    from unirun.backends.lowered import Semantics
    from unirun.refusal import Failure

__all__ = ["InterpreterPool", "open_interpreters"]

_stdlib: Any = concurrent.futures.thread
#: Refuses, and is loaded by debuggers and consoles. No task has a prompt.
_PROMPT: Final = "readline"
#: What a new interpreter runs before anything of ours can be called there.
_FIND: Final = "import sys\nsys.path[:] = path\ndel path\nimport unirun.backends.interpreters.worker"


class _Birth:
    """What each worker of a pool is made by.

    Args:
        semantics: What the pool owes the request.
        interactive: Workers cannot import the main module; what refers to it goes by value, if it can.

    Raises:
        Refused: The initializer's arguments cannot be copied, but only be passed on to a new process, and to threads.
    """

    def __init__(self, semantics: Semantics, interactive: bool) -> None:
        from multiprocessing import spawn

        try:
            prepared: Any = spawn.get_preparation_data("unirun worker")
            given = semantics.initializer, semantics.initargs
            # Each worker loads it.
            self.initializer: bytes | None = None if semantics.initializer is None else dumper(lasting=True)(given)
        except Exception as error:  # the former looks at the main module, and at the current directory
            raise Refused("start", error) from None
        prepared["authkey"] = bytes(prepared["authkey"])  # for connections to managers
        # None of a class of the program's, which would have to be found first.
        prepared["sys_path"] = paths = [str.__str__(each) for each in prepared["sys_path"] if isinstance(each, str)]
        del prepared["dir"]  # it is this process
        # Else each interpreter has one of its own, which takes its shared memory away as it ends.
        tracker: Any = sys.modules.get("multiprocessing.resource_tracker")  # some Pythons lack what it is made of
        self.tracker: int | None = None
        if tracker is not None:
            used = "multiprocessing.shared_memory" in sys.modules
            try:
                self.tracker = tracker.getfd() if used else tracker._resource_tracker._fd
            except OSError:
                pass  # there can be no process, and then a task that needs it is told
        self.paths: tuple[str, ...] = tuple(paths)
        self.prepared: bytes = dumps(prepared)
        self.extensions: tuple[str, ...] = _extensions()
        self.interactive: bool = interactive


class _Worker:
    """A worker's interpreter, and what the stdlib's thread does with it: the context of ``ThreadPoolExecutor``.

    Of one thread, which makes, uses and closes it.

    Args:
        birth: What it is made by.
        pool: A weak reference to the pool, which it must not keep.

    Raises:
        Refused: It cannot be made, or cannot become a worker. Nothing of it is left.
    """

    def __init__(self, birth: _Birth, pool: Callable[[], InterpreterPool | None]) -> None:
        from concurrent import interpreters  # type: ignore[attr-defined, unused-ignore]

        try:
            self._interpreter = interpreters.create()
        except Exception as error:
            raise Refused("start", error) from None
        why: str | None
        try:
            self._interpreter.prepare_main(path=birth.paths)
            self._interpreter.exec(_FIND)
            why = self._interpreter.call(begin, birth.prepared, birth.extensions, birth.tracker, birth.interactive)
        except Exception as error:
            why = str(error.args[0]) if error.args else type(error).__name__
        if why is not None:
            self._interpreter.close()
            raise Refused("bootstrap", interpreters.InterpreterError(why))
        self._birth = birth
        self._pool = pool
        self._initialized = birth.initializer is None

    def initialize(self) -> None:
        """Do nothing: the user's initializer comes with the first task."""

    def run(self, payload: bytes | BaseException) -> Any:
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
        if not self._initialized:
            self._initialized = True
            if (raised := self._interpreter.call(initialize, self._birth.initializer)) is not None:
                raise BrokenProcessPool(self._break(*_loads(raised)))

    def _break(self, packed: bytes, text: str) -> str:
        """Break the pool, whose initializer has failed; return why."""
        error = unpack(packed, text, BrokenProcessPool)
        LOGGER.critical("Exception in initializer:", exc_info=error)
        said = "".join(traceback.format_exception_only(error)).strip()
        why = f"the initializer failed ({said}), the pool is not usable anymore"
        if (pool := self._pool()) is not None:
            pool._unirun_break(why)
        return why


class InterpreterPool(GuardedThreadPool):
    """A pool of interpreters, each with a thread. ``open_interpreters`` makes it."""

    BROKEN = BrokenProcessPool  # it serves where processes are asked for

    def __init__(self, workers: int, birth: _Birth, by_value: bool) -> None:
        super().__init__(workers, "unirun-interpreter")
        self._unirun_birth = birth
        self._unirun_by_value = by_value

    @classmethod
    def prepare_context(cls, initializer: object, initargs: object) -> tuple[Any, Any]:
        """Return what makes the context of a thread, and a task of what was submitted: as the stdlib asks for these."""
        return None, _payload  # the first is not asked for: see ``_adjust_thread_count``

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
        """Start the first worker, and wait until it is ready, or for so long that it counts as ready.

        Raises:
            Refused: It cannot be started.
        """
        ready: Future[None] = Future()
        with self._shutdown_lock:
            self._unirun_hire(ready)
        try:
            ready.result(PATIENCE)
        except TimeoutError:
            pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(
            _in_worker, pickled_call((fn, args, kwargs), self._unirun_by_value, self._unirun_birth.interactive)
        )

    def _adjust_thread_count(self) -> None:
        """Start a worker for the task that was just submitted, if none is idle. The stdlib's lock is held."""
        if self._idle_semaphore.acquire(blocking=False) or len(self._threads) >= self._max_workers:
            return
        try:
            self._unirun_hire(Future())
        except Refused as refused:
            self._unirun_fewer(refused)

    def _unirun_hire(self, ready: Future[None]) -> None:
        """Start a worker's thread. The stdlib's lock is held."""
        queue: Any = self._work_queue
        threads: Any = self._threads
        reference = weakref.ref(self, lambda _: queue.put(None))  # as the stdlib does: its threads look who asks
        name = f"{self._thread_name_prefix}_{len(self._threads)}"
        thread = threading.Thread(name=name, target=_serve, args=(reference, self._unirun_birth, queue, ready))
        try:
            thread.start()
        except RuntimeError as error:
            if not is_refusal("start", error):
                raise
            raise Refused("start", error) from None
        threads.add(thread)
        _stdlib._threads_queues[thread] = queue

    def _unirun_fewer(self, why: Refused) -> None:
        """Do with the workers that there are: to try again takes long, and would be done with each task."""
        self._unirun_short = failure("interpreters", why.stage, why.error)
        self._max_workers = max(1, len(self._threads))

    def _unirun_left(self, why: Refused) -> None:
        """Take note that the calling thread has not become a worker."""
        threads: Any = self._threads
        with self._shutdown_lock:
            threads.discard(threading.current_thread())
            self._unirun_fewer(why)
            none = not threads
        if none:  # the only one, for which nobody waits any more
            self._unirun_break(f"no worker could be started: {why.error}")

    def _unirun_error(self, why: str) -> BrokenExecutor:
        return BrokenProcessPool(why)


def _serve(reference: Any, birth: _Birth, queue: Any, ready: Future[None]) -> None:
    """Be a worker: what its thread runs."""
    try:
        worker = _Worker(birth, reference)
    except BaseException as error:
        refused = error if isinstance(error, Refused) else Refused("start", error)
        if (pool := reference()) is not None:
            pool._unirun_left(refused)
        del pool
        ready.set_exception(refused)
        return
    ready.set_result(None)
    del ready
    _stdlib._worker(reference, worker, queue)


def open_interpreters(workers: int, semantics: Semantics, interactive: bool) -> InterpreterPool:
    """Return a pool of which one worker is ready.

    Args:
        workers: How many workers at most.
        semantics: What the pool owes the request.
        interactive: Workers cannot import the main module; what refers to it goes by value, if it can.

    Raises:
        Refused: No worker can be started, or the first one cannot become one. Nothing of it is left.
    """
    try:
        import concurrent.interpreters  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
        import multiprocessing.spawn  # noqa: F401
    except ImportError as error:
        raise Refused("import", error) from None
    by_value = semantics.by_value or interactive
    pool = InterpreterPool(workers, _Birth(semantics, interactive), by_value)
    try:
        pool.open()
    except BaseException:
        pool.shutdown(wait=False)
        raise
    return pool


def _extensions() -> tuple[str, ...]:
    """Return the names of the extension modules that the program has loaded."""
    # Without asking the modules themselves: one that is lazy would be loaded by that.
    modules = [each for each in list(sys.modules.values()) if isinstance(each, ModuleType)]
    specs = [object.__getattribute__(each, "__dict__").get("__spec__") for each in modules]
    known = [each for each in specs if isinstance(each, ModuleSpec) and isinstance(each.loader, ExtensionFileLoader)]
    return tuple(each.name for each in known if each.name != _PROMPT)


def _in_worker(payload: bytes | BaseException) -> Any:
    """Stand for ``_Worker.run``, by which the stdlib's thread replaces every function."""


def _payload(fn: object, args: tuple[Any, ...], kwargs: object) -> Any:
    """Return what a worker's ``run`` is called with: what ``_in_worker`` was submitted with."""
    return args[0]


def _loads(pickled: bytes) -> Any:
    import pickle

    return pickle.loads(pickled)

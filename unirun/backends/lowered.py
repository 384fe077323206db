"""What a lower rung owes a request for processes or threads: the results that the higher one would have given.

In a process pool arguments and results are copies, the initializer runs in the worker and not in the program, and a
pool whose initializer failed is broken. All of it holds here too, over any executor that runs tasks in this process.

Guarantees:
    Arguments are pickled at the call, together, by the pickler that process pools use; what a task gets and what its
    caller gets back are copies, and what cannot be pickled fails with the same error, on the future. Where the pool
    over pipes would have been first, what it sends by value is copied so here.
    The initializer runs once for the pool, before its first task, and no other task runs meanwhile.
    Each task has a context of its own, with what the initializer has set in it: context variables, and the precision of
    ``decimal``. Nothing of what a task sets there is seen by another one, or by the caller.

Does not promise:
    To undo what a task does to the modules of the program, to its environment or to its current directory.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from _contextvars import Context, copy_context  # all that `contextvars` has; programs under the hook load this module
from concurrent.futures import Executor

from unirun.backends.raised import pack, set_cause, unpack, words
from unirun.pickling import cannot, dumper, dumps, dumps_by
from unirun.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import BrokenExecutor, Future
    from typing import Any, Final

__all__ = ["LOGGER", "Lowered", "LoweredState", "Semantics", "leaving_signals", "mentions_main", "pickled_call"]

#: The stdlib's pools report a failed initializer here.
LOGGER: Final = logging.getLogger("concurrent.futures")


class Semantics(Value):
    """What the request would have got from its own rung.

    Attributes:
        copy: Arguments and results are copied by pickling.
        apart: Tasks would have had contexts of their own: those of another thread, or process.
        child: The initializer was meant for a child process: it must not change this one's signal handlers.
        pickled_initargs: The initializer's arguments would have been pickled too (start methods other than fork).
        by_value: What cannot be pickled by name may be by value, if that is installed: workers would have got it so.
        broken: The error of a pool whose initializer failed.
        initializer: The user's initializer, or ``None``.
        initargs: Its arguments.
    """

    copy: bool
    apart: bool
    child: bool
    pickled_initargs: bool
    by_value: bool
    broken: type[BrokenExecutor]
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]


class Lowered(Executor):
    """An executor that serves a request from a lower rung."""

    def __init__(self, inner: Executor, state: LoweredState) -> None:
        self._inner = inner
        self._state = state

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        state = self._state
        state.check()
        if not state.semantics.copy:
            return self._inner.submit(state.run_shared, fn, args, kwargs)
        return self._inner.submit(state.run_copied, pickled_call((fn, args, kwargs), state.semantics.by_value))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._inner.shutdown(wait, cancel_futures=cancel_futures)

    @property
    def broken(self) -> str | None:
        """Why it takes no more tasks, where that is not the end that its owner gave it."""
        return self._state.broken

    def served_by(self, thread: threading.Thread) -> bool:
        """Tell whether a thread is one of this pool's workers."""
        return thread in getattr(self._inner, "_threads", ())


class LoweredState:
    """What the tasks of one pool share.

    Apart from the executor, which is opened after it, and must not be reachable from the traceback of an exception that
    somebody keeps: its workers end when it is collected.
    """

    def __init__(self, semantics: Semantics) -> None:
        self.semantics = semantics
        self._initialized = semantics.initializer is None
        self._initializing = False
        #: Why no more tasks are taken: the initializer failed.
        self.broken: str | None = None
        # Guards the three above, and is held while the initializer runs. Reentrant: an initializer may submit.
        self._lock = threading.RLock()
        self._initialize = _initialization(semantics)
        # What tasks have copies of: that of the caller where workers would have inherited it, else an empty one.
        threads = getattr(sys.flags, "thread_inherit_context", False)
        inherits = not semantics.pickled_initargs if semantics.child else threads
        self._context = copy_context() if inherits else Context()

    def check(self) -> None:
        """Raise the pool's error if its initializer failed."""
        if self.broken is not None:
            raise self.semantics.broken(self.broken)

    def run_shared(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a task on its caller's own objects."""
        self._ensure_initialized()
        return self._context.copy().run(_apart, fn, args, kwargs) if self.semantics.apart else fn(*args, **kwargs)

    def run_copied(self, payload: bytes | BaseException) -> Any:
        """Run a pickled task; return a copy of its result or raise one of its exception."""
        self._ensure_initialized()
        failed: BaseException | None = payload if isinstance(payload, BaseException) else None
        if not isinstance(payload, BaseException):
            task = self._load(payload, "the task")
            try:
                result = self._context.copy().run(_apart, _dumped, task, {})
            except BaseException as error:
                # Not raised from here: the original, with all of its frames, would hang on as the copy's context.
                failed = self._copy_error(error)
            del task
        if failed is not None:
            try:
                raise failed
            finally:
                # Its traceback holds this frame, which must not hold it; see GH-60488.
                del failed, payload
        return self._load(result, "the result")

    def _copy_error(self, error: BaseException) -> BaseException:
        # Not a KeyboardInterrupt: it is the user's own, where the task runs inline.
        return unpack(*pack(error), self.semantics.broken, (Exception, SystemExit, GeneratorExit))

    def _load(self, pickled: bytes, what: str) -> Any:
        """Unpickle; a failure is what ends a worker process or its pool, so it is the pool's error."""
        try:
            return loads(pickled)
        except KeyboardInterrupt:
            raise  # the user's own, where the task runs inline
        except BaseException as error:
            raise self.semantics.broken(f"{what} could not be unpickled: {words(error)}") from error

    def _ensure_initialized(self) -> None:
        if self._initialized:
            return
        with self._lock:
            self.check()
            if self._initialized or self._initializing:
                return
            self._initializing = True
            try:
                initializer, initargs = self._initialize()
                if self.semantics.child:
                    self._context.run(_apart, leaving_signals, (initializer, *initargs), {})
                elif self.semantics.apart:
                    self._context.run(_apart, initializer, initargs, {})
                else:
                    initializer(*initargs)
            except BaseException as error:
                LOGGER.critical("Exception in initializer:", exc_info=True)
                why = "".join(traceback.format_exception_only(error)).strip()
                self.broken = f"the initializer failed ({why}), the pool is not usable anymore"
                if isinstance(error, KeyboardInterrupt):
                    raise  # the user's own, where the task runs inline
                raise self.semantics.broken(self.broken) from None
            finally:
                self._initializing = False
            self._initialized = True


def _apart(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function in a context that was copied, with a copy of what ``decimal`` has in there and changes."""
    decimal: Any = sys.modules.get("decimal")
    if hasattr(decimal, "setcontext"):  # else another thread is importing it
        decimal.setcontext(decimal.getcontext().copy())
    return fn(*args, **kwargs)


def _dumped(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    return dumps(fn(*args, **kwargs))


def _initialization(semantics: Semantics) -> Callable[[], Any]:
    """Return what gives the initializer and its arguments: copies, as far as a worker would have had copies.

    Raises:
        Exception: They cannot be pickled, and had to be for a worker that does not fork.
    """
    given = semantics.initializer, semantics.initargs
    if semantics.initializer is not None and semantics.copy:
        try:
            pickled = dumps(given)
        except Exception as error:
            # Locks and queues of multiprocessing are pickled only on their way to a new process. Here they work as
            # they are, and so does what a forked worker would have inherited.
            if semantics.pickled_initargs and not isinstance(error, RuntimeError):
                raise
        else:
            return lambda: loads(pickled)
    return lambda: given


def pickled_call(call: tuple[Any, ...], by_value: bool, main_by_value: bool = False) -> bytes | BaseException:
    """Pickle a function with its arguments; return the error of what cannot be, as its future is to have it.

    Args:
        call: The function, its arguments and its keyword arguments.
        by_value: What cannot be pickled by name may be by value, if that is installed.
        main_by_value: And so may what refers to ``__main__``.
    """
    try:
        return _dumps_by_value(call, main_by_value) if by_value else dumps(call)
    except Exception as error:
        set_cause(error, "".join(traceback.format_exception(error)))
        return error.with_traceback(None)


def _dumps_by_value(call: tuple[Any, ...], main_by_value: bool) -> bytes:
    try:
        pickled = dumps(call)
        if not (main_by_value and b"__main__" in pickled):
            return pickled
    except Exception as error:
        if not cannot(error) or (kind := _by_value()) is None:
            raise
        return dumps_by(kind, call)
    return pickled if (kind := _by_value()) is None else dumps_by(kind, call)


def _by_value() -> Any:
    from unirun.backends.pipes.by_value import by_value  # only where it is needed

    return by_value()


def loads(pickled: bytes) -> Any:
    """Unpickle what ``dumps`` returned."""
    import pickle  # not with this module: every pool of threads loads that one, and most need no copy

    return pickle.loads(pickled)


def mentions_main(*values: object) -> bool:
    """Tell whether any of some values is pickled with a reference to ``__main__``.

    Each by itself: what cannot be pickled here, and may still travel with a new process, hides none of the others. Nor
    are connections and sockets pickled, which would stay open for ever for a pickle that nobody loads.
    """
    dumps = dumper(lasting=True)
    for value in values:
        try:
            if not isinstance(value, (str, bytes)) and _refers_to_main(dumps(value)):
                return True
        except Exception:
            if getattr(value, "__module__", None) == "__main__":
                return True
    return False


def _refers_to_main(pickled: bytes) -> bool:
    """Tell whether a pickle names something in ``__main__``: a text in it, as a script's, may hold that word, too."""
    if b"__main__" not in pickled:
        return False
    import io
    import pickle

    class Finder(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:
            if module == "__main__":
                raise LookupError(name)
            return _Anything

    try:
        Finder(io.BytesIO(pickled)).load()
    except Exception:
        return True  # it does, or it cannot be told
    return False


class _Anything:
    """Stands for whatever a pickle names, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    append = extend = add = __setitem__ = __call__


_initializing: set[int] = set()  # the threads that run an initializer now
_signal_lock = threading.Lock()  # guards _initializing and the function in its place
_set_handler: Callable[..., Any] | None = None


def leaving_signals(initializer: Callable[..., object], *arguments: Any) -> None:
    """Call an initializer, and skip its calls of ``signal.signal``: those of this thread, and only of this one.

    "Ignore SIGINT" is what an initializer does so that Ctrl-C reaches the program and not its workers. In this process
    it would either fail (signals can only be set in the main thread) or make the program itself deaf. The replaced
    function is the one below `signal.signal`, so that names imported from `signal` are covered.
    """
    import _signal  # type: ignore[import-not-found]

    global _set_handler
    me = threading.get_ident()
    if me in _initializing:  # an initializer that opens a pool of its own
        initializer(*arguments)
        return
    with _signal_lock:
        if not _initializing:
            _set_handler = _signal.signal
            _signal.signal = _set_handler_unless_initializing
        _initializing.add(me)
    try:
        initializer(*arguments)
    finally:
        with _signal_lock:
            _initializing.discard(me)
            if not _initializing:
                _signal.signal = _set_handler


def _set_handler_unless_initializing(signalnum: int, handler: Any, /) -> Any:
    import _signal

    if threading.get_ident() in _initializing:
        return _signal.getsignal(signalnum)
    assert _set_handler is not None
    return _set_handler(signalnum, handler)

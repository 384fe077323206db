"""The managed executors: the stdlib's own pools where they start, the next rung of the ladder where they do not.

    constructor ─► Opening (decide) ─► first submit ─► open a rung ─► settled ─► every later submit
                                           ▲              │ Refused
                                           └── next rung ◄┘

Guarantees:
    A task runs at most once: a rung refuses only when nothing that was given to it can run any more.
    On a host that lets the stdlib's pool start, the executor *is* that pool; only its first ``submit`` does more.
    On a lower rung ``submit``, ``map``, ``shutdown`` and the futures behave as the pool asked for would.

Does not promise:
    A lower rung once a task was accepted: from then on every error is the task's or the crash's.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Executor

from unirun.backends.ready import nothing
from unirun.refusal import Refused

TYPE_CHECKING = False  # programs under the hook load this module with `concurrent.futures`; typing alone takes longer
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import BrokenExecutor, Future
    from typing import Any, ParamSpec, TypeVar

    from unirun.backends.lowered import Semantics
    from unirun.opening import Opening, PoolSpec
    from unirun.refusal import Failure
    from unirun.trace import DecisionTrace

    P = ParamSpec("P")
    T = TypeVar("T")

    _Base = Executor
else:
    # A program may drop the stdlib's modules and import them anew, and then the pools of those stand behind this class:
    # the older `Executor` would stand before them.
    _Base = object

__all__ = ["ManagedExecutor", "depends_on_task", "describe_as", "starts_slowly"]


class _Decision:
    """The attribute ``decision``. No property: a program's subclass may have an attribute of that name."""

    __doc__ = "What was asked, tried and chosen for this executor; final when its ``settled`` is true."

    def __get__(self, pool: Any, kind: type | None = None) -> Any:
        if pool is None:
            return self
        if not pool._unirun_managed:
            raise AttributeError(f"nothing was decided for this {type(pool).__name__}: it is a pool of the stdlib's")
        decision, lower = pool._unirun_opening.decision, pool._unirun_lower
        short = pool._unirun_short if lower is None else getattr(lower, "short", None)
        if short is None:
            return decision
        return decision.replace(short=short)


class ManagedExecutor(_Base):
    """What the managed executors share: the way to the rung that serves them.

    It stands before one of the stdlib's pools in the class order; ``super().submit`` is that pool's. Programs derive
    classes from these and give them attributes of their own, so all of ours but ``decision`` begin with ``_unirun``.
    """

    if TYPE_CHECKING:  # annotations of a class are read at run time too, by `typing.get_type_hints`
        _unirun_lower: Executor | None
        _unirun_opening: Opening
        _unirun_spec: PoolSpec
        _unirun_short: Failure | None

        @property
        def decision(self) -> DecisionTrace:
            """What was asked, tried and chosen for this executor; final when its ``settled`` is true."""

    else:
        decision = _Decision()

    #: The rung that the class itself is, by its stdlib base.
    _unirun_own_rung = ""
    #: Not in a program's subclass that does not call our constructor, nor in one that unirun stands aside for: there
    #: everything is left to the stdlib's pool.
    _unirun_managed = False
    #: The stdlib's pool was constructed,
    _unirun_constructed = False
    #: and has started: everything goes straight to it.
    _unirun_proven = False
    #: The executor of the lower rung that serves instead, or None.
    _unirun_lower = None
    #: Whether shutdown was called.
    _unirun_closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._unirun_send(fn, *args, **kwargs)

    submit.__doc__ = Executor.submit.__doc__

    def _unirun_send(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a task, whatever may wait to be submitted."""
        if self._unirun_proven or not self._unirun_managed:
            return super().submit(fn, *args, **kwargs)
        if self._unirun_lower is None:
            try:
                with self._unirun_opening.lock:
                    future = self._unirun_submit_first(fn, args, kwargs)
            finally:
                self._unirun_opening.tell()
            if future is not None:
                return future
        assert self._unirun_lower is not None
        return self._unirun_lower.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        # Without the opening's lock: a first submit may hold it for as long as a worker takes to start.
        self._unirun_closed = True
        if self._unirun_lower is not None:
            self._unirun_lower.shutdown(wait, cancel_futures=cancel_futures)
        elif self._unirun_constructed or not self._unirun_managed:
            super().shutdown(wait, cancel_futures=cancel_futures)
        if self._unirun_managed and sys.meta_path is not None:  # at the very end there is nobody left to be told
            self._unirun_opening.abandon()

    shutdown.__doc__ = Executor.shutdown.__doc__

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> bool | None:
        lower: Any = self._unirun_lower
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt) and hasattr(lower, "interrupt"):
            lower.interrupt()  # only a pool over pipes has workers to interrupt
        try:
            return super().__exit__(exc_type, exc_val, exc_tb)
        except KeyboardInterrupt:  # while it waits
            lower = self._unirun_lower
            if hasattr(lower, "interrupt"):
                lower.interrupt()
            raise

    __exit__.__doc__ = Executor.__exit__.__doc__

    def __getstate__(self) -> object:
        if not self._unirun_managed:
            return super().__getstate__()
        # Pickling fails at a lock, as with the stdlib's pool, but at once: a deep copy of connections, which the latter
        # makes first, closes them. Where a program's own class says what its state is, this is not asked.
        return {"_unirun_lock": threading.Lock(), **vars(self)}

    def _unirun_adopt(self, opening: Opening, spec: PoolSpec) -> None:
        """Take up a decision; construct the stdlib's pool if it is the rung to try."""
        for name in [name for name in vars(self) if name.startswith("_unirun_")]:
            delattr(self, name)  # of an earlier life: programs open a pool again by calling its constructor
        self._unirun_opening, self._unirun_spec, self._unirun_managed = opening, spec, True
        self._max_workers = opening.plan.workers or self._unirun_stdlib_workers()
        if opening.rung != self._unirun_own_rung:
            return
        try:
            self._unirun_construct_own(opening.plan.workers, spec)
        except Refused as refused:
            opening.refuse(refused)
        else:
            self._unirun_constructed = True

    def _unirun_submit_first(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any] | None:
        """Open a rung. Return the future if the task went to the stdlib's own pool, ``None`` if a lower rung is up."""
        if sys.meta_path is None:  # nothing can be imported any more
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        opening = self._unirun_opening
        while self._unirun_lower is None:
            if self._unirun_proven:  # by another thread, while this one waited for the lock
                return super().submit(fn, *args, **kwargs)
            if self._unirun_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            try:
                if opening.rung == self._unirun_own_rung:
                    if not self._unirun_constructed:  # not the first rung of this ladder
                        self._unirun_construct_own(opening.plan.workers, self._unirun_spec)
                        self._unirun_constructed = True
                        continue  # a shutdown may have come before, when there was nothing to shut down
                    # The task itself opens the stdlib's pool, unless there is something to say before it runs.
                    first = (nothing, (), {}) if opening.decision.downgraded else (fn, args, kwargs)
                    future, up = self._unirun_start_own(*first)
                    if up and not self._unirun_proven:  # a signal handler may have submitted meanwhile
                        opening.settle(workers=self._unirun_started(), short=self._unirun_short)
                        self._unirun_proven = True
                    if first[0] is fn:
                        return future
                else:
                    self._unirun_descend(opening.rung, (fn, *args, *kwargs.values()))
            except Refused as refused:
                self._unirun_constructed = False
                opening.refuse(refused)
        return None

    def _unirun_descend(self, rung: str, task: tuple[Any, ...]) -> None:
        """Open a rung that is not the stdlib's own pool, for a task of which the function and the values are given."""
        from unirun.backends.inline import InlinePool
        from unirun.backends.lowered import Lowered, LoweredState
        from unirun.backends.threads import open_threads

        state = LoweredState(self._unirun_semantics())  # before a thread is started: it may refuse the initializer
        lower = open_threads(self._max_workers) if rung == "threads" else InlinePool()
        workers = self._max_workers if rung == "threads" else None
        self._unirun_stand_on(Lowered(lower, state), workers, getattr(lower, "_unirun_short", None))

    def _unirun_stand_on(self, pool: Executor, workers: int | None, short: Failure | None) -> None:
        """Let a rung serve that was just opened."""
        try:
            self._unirun_opening.settle(workers=workers, short=short)
        except BaseException:  # the warning was made an error: nothing runs until the user has decided
            pool.shutdown(wait=False)
            raise
        self._unirun_lower = pool
        if self._unirun_closed:  # by another thread, meanwhile
            pool.shutdown(wait=False)

    _unirun_short = None

    def _unirun_why_broken(self) -> Any:
        """Return why the stdlib's pool is broken, where that serves; else ``False``."""
        # Not while it is being started: then its end is a refusal, and a lower rung may serve.
        return self._unirun_proven and getattr(self, "_broken", False)

    def _unirun_own_error(self) -> BrokenExecutor | None:
        """Return the error of the stdlib's pool, where that serves and is broken.

        For who may be a callback of its futures: it fails these with the lock held that its ``submit`` and ``shutdown``
        need.
        """
        why = self._unirun_why_broken()
        return self._unirun_semantics().broken(why) if why else None

    def _unirun_stdlib_workers(self) -> int:
        """Return the stdlib's default number of workers."""
        import os

        count = getattr(os, "process_cpu_count", os.cpu_count)()
        return count or 1

    def _unirun_started(self) -> int:
        """Return how many workers the stdlib's pool may use now."""
        return self._max_workers

    def _unirun_construct_own(self, workers: int | None, spec: PoolSpec) -> None:
        """Construct the stdlib's pool, or raise ``Refused``."""
        raise NotImplementedError

    def _unirun_start_own(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Future[Any], bool]:
        """Start the stdlib's pool by a task; return its future and whether the pool is up, or raise ``Refused``."""
        raise NotImplementedError

    def _unirun_semantics(self) -> Semantics:
        """Return what a lower rung owes this request."""
        from concurrent.futures.thread import BrokenThreadPool

        from unirun.backends.lowered import Semantics

        return Semantics(
            copy=False,
            apart=True,
            child=False,
            pickled_initargs=False,
            by_value=False,
            broken=BrokenThreadPool,
            initializer=self._unirun_spec.initializer,
            initargs=self._unirun_spec.initargs,
        )


def starts_slowly(pool: Executor) -> bool:
    """Tell whether the next ``submit`` will wait for a new interpreter to come up, some 0.1 s."""
    if not isinstance(pool, ManagedExecutor) or pool._unirun_proven or pool._unirun_lower is not None:
        return False
    decision = pool.decision
    return decision.backend == "interpreters" or decision.start_method not in (None, "fork")


def depends_on_task(pool: Executor) -> bool:
    """Tell whether the first task decides which rung can serve: one whose function new workers would not find."""
    if not isinstance(pool, ManagedExecutor) or pool._unirun_opening.facts.main != "interactive":
        return False
    from unirun.backends.pipes.by_value import by_value

    return by_value() is None


def describe_as(original: Any, kind: Any) -> None:
    """Let ``inspect.signature`` and ``typing.get_type_hints`` say of ``kind`` what they say of the stdlib's class."""
    for function in (kind.__init__, kind.__new__):
        function.__wrapped__ = original.__init__
    kind.__init__.__doc__ = original.__init__.__doc__
    for base in kind.__mro__:
        for member in vars(base).values() if base.__module__.partition(".")[0] == "unirun" else ():
            function = getattr(member, "__func__", member)  # of a static method
            if hasattr(function, "__code__"):
                function.__annotations__ = {}
    kind.submit.__doc__, kind.shutdown.__doc__ = Executor.submit.__doc__, Executor.shutdown.__doc__

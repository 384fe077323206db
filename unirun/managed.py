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

import concurrent.futures.thread as stdlib_thread
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

from unirun import config as settings
from unirun import trace
from unirun.backends.inline import InlinePool
from unirun.backends.lowered import Lowered, LoweredState, Semantics, mentions_main
from unirun.backends.processes import BrokenProcessPool, GuardedProcessPool
from unirun.backends.threads import GuardedThreadPool, nothing, open_threads
from unirun.ladder import Request
from unirun.opening import Opening
from unirun.refusal import Refused
from unirun.trace import DecisionTrace

__all__ = ["InlineExecutor", "ManagedExecutor", "PoolSpec", "ProcessPoolExecutor", "ThreadPoolExecutor", "open_pool"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """What the stdlib's constructors take besides the number of workers."""

    mp_context: Any = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    max_tasks_per_child: int | None = None
    thread_name_prefix: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def start_method(self) -> str | None:
        """Return the start method that the arguments fix, or ``None``."""
        if self.mp_context is not None:
            return str(self.mp_context.get_start_method(allow_none=False))
        return None if self.max_tasks_per_child is None else "spawn"  # the stdlib's choice


class ManagedExecutor(Executor):
    """What the managed executors share: the way to the rung that serves them.

    It stands before one of the stdlib's pools in the class order; ``super().submit`` is that pool's.
    """

    #: The rung that the class itself is, by its stdlib base.
    _own_rung = ""
    #: That base was constructed,
    _constructed = False
    #: and has started: everything goes straight to it.
    _proven = False
    #: The executor of the lower rung that serves instead, or None.
    _lower: Executor | None = None
    _closed = False
    _opening: Opening
    _spec: PoolSpec

    @property
    def decision(self) -> DecisionTrace:
        """What was asked, tried and chosen for this executor; final when its ``settled`` is true."""
        decision, short = self._opening.decision, getattr(self, "_short", None)
        return decision if short is None or self._lower is not None else replace(decision, short=short)

    @property
    def closed(self) -> bool:
        """Whether ``shutdown`` was called."""
        return self._closed

    @property
    def starts_slowly(self) -> bool:
        """Whether the next ``submit`` will wait for a new interpreter to come up, some 0.1 s."""
        if self._proven or self._lower is not None:
            return False
        decision = self._opening.decision
        return decision.backend == "processes" and decision.start_method != "fork"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._proven:
            return super().submit(fn, *args, **kwargs)
        if self._lower is None:
            with self._opening.lock:
                future = self._submit_first(fn, args, kwargs)
            if future is not None:
                return future
        assert self._lower is not None
        return self._lower.submit(fn, *args, **kwargs)

    submit.__doc__ = Executor.submit.__doc__

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        # Without the opening's lock: a first submit may hold it for as long as a worker takes to start.
        self._closed = True
        if self._lower is not None:
            self._lower.shutdown(wait, cancel_futures=cancel_futures)
        elif self._constructed:
            super().shutdown(wait, cancel_futures=cancel_futures)
        self._opening.abandon()

    shutdown.__doc__ = Executor.shutdown.__doc__

    def _adopt(self, opening: Opening, spec: PoolSpec) -> None:
        """Take up a decision; construct the stdlib's pool if it is the rung to try."""
        self._opening, self._spec = opening, spec
        self._max_workers = opening.plan.workers or self._stdlib_workers()
        if opening.rung != self._own_rung:
            return
        try:
            self._construct_own(opening.plan.workers, spec)
        except Refused as refused:
            opening.refuse(refused)
        else:
            self._constructed = True

    def _submit_first(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any] | None:
        """Open a rung. Return the future if the task went to the stdlib's own pool, ``None`` if a lower rung is up."""
        opening = self._opening
        while self._lower is None:
            if self._proven:  # by another thread, while this one waited for the lock
                return super().submit(fn, *args, **kwargs)
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            try:
                if self._constructed and opening.rung == self._own_rung:
                    # The task itself opens the stdlib's pool, unless there is something to say before it runs.
                    first = (nothing, (), {}) if opening.decision.downgraded else (fn, args, kwargs)
                    future, up = self._start_own(*first)
                    if up:
                        opening.settle(workers=self._started(), short=self._short)
                        self._proven = True
                    if first[0] is fn:
                        return future
                else:
                    self._descend(opening.rung)
            except Refused as refused:
                self._constructed = False
                opening.refuse(refused)
        return None

    def _descend(self, rung: str) -> None:
        """Open a lower rung."""
        state = LoweredState(self._semantics())  # before a thread is started: it may refuse the initializer
        lower = open_threads(self._max_workers) if rung == "threads" else InlinePool()
        try:
            self._opening.settle(
                workers=self._max_workers if rung == "threads" else None, short=getattr(lower, "_short", None)
            )
        except BaseException:  # the warning was made an error: nothing runs until the user has decided
            lower.shutdown(wait=False)
            raise
        self._lower = Lowered(lower, state)
        if self._closed:  # by another thread, meanwhile
            self._lower.shutdown(wait=False)

    _short: Any = None

    def _stdlib_workers(self) -> int:
        """Return the stdlib's default number of workers."""
        count = getattr(os, "process_cpu_count", os.cpu_count)()
        return count or 1

    def _started(self) -> int:
        """Return how many workers the stdlib's pool may use now."""
        return self._max_workers

    def _construct_own(self, workers: int | None, spec: PoolSpec) -> None:
        """Construct the stdlib's pool, or raise ``Refused``."""
        raise NotImplementedError

    def _start_own(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Future[Any], bool]:
        """Start the stdlib's pool by a task; return its future and whether the pool is up, or raise ``Refused``."""
        raise NotImplementedError

    def _semantics(self) -> Semantics:
        """Return what a lower rung owes this request."""
        return Semantics(
            copy=False,
            child=False,
            pickled_initargs=False,
            broken=stdlib_thread.BrokenThreadPool,
            initializer=self._spec.initializer,
            initargs=self._spec.initargs,
        )


class ProcessPoolExecutor(ManagedExecutor, GuardedProcessPool):
    """``concurrent.futures.ProcessPoolExecutor``, on any host.

    Arguments, methods and behaviour are those of the running Python's class. Where process pools cannot start, threads
    serve, or the calling thread itself, with arguments and results copied as processes would copy them; ``decision``
    and a ``DowngradeWarning`` say so. The first ``submit`` waits until one worker is up.

    Raises:
        DowngradeError: From the constructor or the first ``submit``: no rung can serve, or ``UNIRUN_DOWNGRADE=error``.
        ConfigError: From the constructor: a ``UNIRUN_*`` variable has a value that is not accepted.
        Exception: What the stdlib's class raises, when it does.
    """

    _own_rung = "processes"

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        spec = PoolSpec(
            mp_context=mp_context,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
        )
        self._adopt(_dropin("processes", "ProcessPoolExecutor", max_workers, spec), spec)

    if sys.version_info >= (3, 14):

        def terminate_workers(self) -> None:
            if self._constructed:
                super().terminate_workers()
            else:
                self.shutdown(wait=False, cancel_futures=True)

        def kill_workers(self) -> None:
            if self._constructed:
                super().kill_workers()
            else:
                self.shutdown(wait=False, cancel_futures=True)

        terminate_workers.__doc__ = GuardedProcessPool.terminate_workers.__doc__
        kill_workers.__doc__ = GuardedProcessPool.kill_workers.__doc__

    def _construct_own(self, workers: int | None, spec: PoolSpec) -> None:
        context = spec.mp_context
        if context is None and spec.start_method() is None and self._opening.config.start_method is not None:
            import multiprocessing

            context = multiprocessing.get_context(self._opening.config.start_method)
        self._construct(workers, context, spec.initializer, spec.initargs, spec.max_tasks_per_child)

    def _start_own(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Future[Any], bool]:
        opening = self._opening
        method = opening.plan.start_method
        given = (fn, *args, *kwargs.values(), self._spec.initializer, *self._spec.initargs)
        if opening.facts.main == "interactive" and method != "fork" and mentions_main(*given):
            self._abandon()
            why = f"a worker started by {method!r} does not import this main module and so cannot find what it defines"
            raise Refused("bootstrap", AttributeError(why))
        return self._start(fn, args, kwargs)

    def _started(self) -> int:
        return len(self._workers()) if self._short is not None else self._max_workers

    def _semantics(self) -> Semantics:
        return replace(
            super()._semantics(),
            copy=self._opening.config.isolation == "copy",
            child=True,
            pickled_initargs=self._opening.plan.start_method != "fork",
            broken=BrokenProcessPool,
        )


class ThreadPoolExecutor(ManagedExecutor, GuardedThreadPool):
    """``concurrent.futures.ThreadPoolExecutor``, on any host.

    Arguments, methods and behaviour are those of the running Python's class. Where not even one thread can be
    started, tasks run in the calling thread; ``decision`` and a ``DowngradeWarning`` say so.

    Raises:
        DowngradeError: From the first ``submit``: no rung can serve, or ``UNIRUN_DOWNGRADE=error``.
        ConfigError: From the constructor: a ``UNIRUN_*`` variable has a value that is not accepted.
        Exception: What the stdlib's class raises, when it does.
    """

    _own_rung = "threads"

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **ctxkwargs: Any,
    ) -> None:
        spec = PoolSpec(
            initializer=initializer, initargs=initargs, thread_name_prefix=thread_name_prefix, more=ctxkwargs
        )
        self._adopt(_dropin("threads", "ThreadPoolExecutor", max_workers, spec), spec)

    def _adopt(self, opening: Opening, spec: PoolSpec) -> None:
        super()._adopt(opening, spec)
        if not self._constructed:  # for its checks of the arguments; it starts nothing
            self._construct_own(opening.plan.workers, spec)

    def _construct_own(self, workers: int | None, spec: PoolSpec) -> None:
        GuardedThreadPool.__init__(self, workers, spec.thread_name_prefix, spec.initializer, spec.initargs, **spec.more)

    def _start_own(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Future[Any], bool]:
        return self._start(fn, args, kwargs), True

    def _stdlib_workers(self) -> int:
        return min(32, super()._stdlib_workers() + 4)


class InlineExecutor(ManagedExecutor):
    """An executor that runs each task in the calling thread, at the call: ``flavor="none"``."""


# `inspect.signature` follows these to the running Python's own.
ProcessPoolExecutor.__init__.__wrapped__ = GuardedProcessPool.__init__  # type: ignore[attr-defined]
ThreadPoolExecutor.__init__.__wrapped__ = stdlib_thread.ThreadPoolExecutor.__init__  # type: ignore[attr-defined]


def open_pool(opening: Opening, spec: PoolSpec | None = None) -> ManagedExecutor:
    """Return the executor for a request of the explicit API; its flavor says which class."""
    kinds: dict[str, type[ManagedExecutor]] = {"threads": ThreadPoolExecutor, "none": InlineExecutor}
    kind = kinds.get(opening.plan.flavor, ProcessPoolExecutor)
    pool = kind.__new__(kind)
    pool._adopt(opening, spec or PoolSpec())
    return pool


def _dropin(flavor: str, origin: str, max_workers: int | None, spec: PoolSpec) -> Opening:
    """Decide for a constructor that stands in for the stdlib's."""
    _check(max_workers, spec)
    request = Request(
        flavor=flavor, origin=origin, dropin=True, max_workers=max_workers, start_method=spec.start_method()
    )
    config = settings.resolve()
    return Opening(request, config, site=trace.caller(), target=config.trace)


def _check(max_workers: int | None, spec: PoolSpec) -> None:
    """Refuse what the stdlib's constructors refuse, with their errors; on a lower rung they are never called."""
    if max_workers is not None and max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if spec.initializer is not None and not callable(spec.initializer):
        raise TypeError("initializer must be a callable")
    if spec.max_tasks_per_child is None:
        return
    if not isinstance(spec.max_tasks_per_child, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if spec.max_tasks_per_child <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    if spec.start_method() == "fork":
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
            "supply a different mp_context."
        )

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

from concurrent.futures import Executor

TYPE_CHECKING = False  # programs under the hook load this module with `concurrent.futures`; typing alone takes longer
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any, ParamSpec, TypeVar

    from unirun.backends.lowered import Semantics
    from unirun.opening import Opening, PoolSpec
    from unirun.trace import DecisionTrace

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["ManagedExecutor"]


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
        from dataclasses import replace

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
        # Before they are needed: a host that is out of descriptors cannot import them any more.
        from unirun.backends import inline, lowered, threads  # noqa: F401
        from unirun.refusal import Refused

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
        from unirun.backends.ready import nothing
        from unirun.refusal import Refused

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
        from unirun.backends.inline import InlinePool
        from unirun.backends.lowered import Lowered, LoweredState
        from unirun.backends.threads import open_threads

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
        import os

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
        from concurrent.futures.thread import BrokenThreadPool

        from unirun.backends.lowered import Semantics

        return Semantics(
            copy=False,
            child=False,
            pickled_initargs=False,
            broken=BrokenThreadPool,
            initializer=self._spec.initializer,
            initargs=self._spec.initargs,
        )


# `inspect.signature` is to say what it says of the stdlib's, which have none.
ManagedExecutor.submit.__annotations__ = {}
ManagedExecutor.shutdown.__annotations__ = {}

"""Run: a scope, sync or async, that opens an executor, waits for its tasks at the end and closes it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from unirun import config as settings
from unirun import trace as tracing
from unirun.backends.chunks import ChunkingExecutor
from unirun.backends.ready import nothing
from unirun.caller import Site, caller
from unirun.config import RuntimeConfig
from unirun.errors import ConfigError
from unirun.ladder import Request
from unirun.managed import ManagedExecutor, depends_on_task, starts_slowly
from unirun.offloop import off_loop, patiently
from unirun.opening import Opening, PoolSpec
from unirun.pools import is_executor, open_pool
from unirun.trace import DecisionTrace, Listener

if TYPE_CHECKING:
    from unirun.config import Flavor

__all__ = ["Run"]

P = ParamSpec("P")
T = TypeVar("T")


class Run:
    """A scope with an executor that works on this host.

    ``with Run(flavor="processes") as executor:`` gives a ``concurrent.futures.Executor``. Leaving the block waits for
    its tasks, as leaving a stdlib pool does; after that the executor refuses work. ``async with`` waits for
    them beside the event loop; cancelled in its block or at its end, as by Ctrl-C, it cancels what has not begun.
    Scopes nest; one ``Run`` may be entered again once it was left.

    Args:
        flavor: ``"auto"``, ``"processes"``, ``"threads"``, ``"interpreters"`` or ``"none"`` (inline).
        config: The settings of this scope; fields left out fall to ``configure`` and the environment.
        max_workers: The number of workers, at least 1. Default: the CPUs that this process may really use.
        name: A name for the traces.
        executor: An executor of the caller's own to run on. It is not shut down at the end; the scope waits for
            what was submitted through it. It has its own workers: ``flavor`` is only recorded, and ``max_workers``
            is without effect.
        trace: ``True`` writes the decision to standard error, in one line; a callable gets the ``DecisionTrace``.

    Raises:
        ConfigError: A value is not accepted; from the ``with`` statement that of a ``UNIRUN_*`` variable.
        TypeError: ``config``, ``executor`` or ``trace`` is of another kind.
        DowngradeError: From the ``with`` statement or the first ``submit``: no rung can serve, or downgrades are
            errors.
        BootstrapError: From the first ``submit``: this process is a worker that imports a script without a guard, and
            multiprocessing has not refused that first, by another ``RuntimeError``.
        RuntimeError: From the ``with`` statement: this ``Run`` is open already.
    """

    def __init__(
        self,
        *,
        flavor: Flavor = "auto",
        config: RuntimeConfig | None = None,
        max_workers: int | None = None,
        name: str | None = None,
        executor: Executor | None = None,
        trace: bool | Listener | None = None,
    ) -> None:
        if flavor not in settings.FLAVORS:
            raise ConfigError("flavor", flavor, "use " + ", ".join(map(repr, settings.FLAVORS)))
        if max_workers is not None:
            settings.check_workers("max_workers", max_workers)
        if config is not None and not isinstance(config, RuntimeConfig):
            raise TypeError(f"config must be a RuntimeConfig, not {config!r}")
        if executor is not None and not is_executor(executor):
            raise TypeError(f"executor must be a concurrent.futures.Executor, not {executor!r}")
        if trace is not None and not isinstance(trace, bool) and not callable(trace):
            raise TypeError(f"trace must be True, False or a callable, not {trace!r}")
        self._flavor = flavor
        self._config = config
        self._max_workers = max_workers
        self._name = name
        self._given = executor
        self._trace = trace
        self._open: Any = None
        self._decided: DecisionTrace | None = None

    @property
    def trace(self) -> DecisionTrace | None:
        """The newest decision of this scope; ``None`` before it is entered."""
        return self._open.decision if self._open is not None else self._decided

    def __enter__(self) -> ManagedExecutor | Borrowed:
        return self._enter(caller())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        executor = self._leave()
        try:
            executor.__exit__(kind, error, traceback)
        finally:
            self._decided = executor.decision

    async def __aenter__(self) -> ManagedExecutor | Borrowed:
        executor = self._enter(caller())
        if starts_slowly(executor) and not depends_on_task(executor):
            # Submits in the block are plain calls: the wait for the first worker is done here, beside the loop.
            try:
                await patiently(off_loop(lambda: executor.submit(nothing)))
            except BaseException:
                self._leave().shutdown(wait=False)
                raise
        return executor

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from asyncio import CancelledError

        executor = self._leave()
        # Ctrl-C is a cancellation in `asyncio.run`.
        cancelled = kind is not None and issubclass(kind, (CancelledError, KeyboardInterrupt))
        hurry = partial(executor.shutdown, wait=False, cancel_futures=True)
        try:
            await patiently(off_loop(lambda: executor.shutdown(cancel_futures=cancelled)), hurry)
        finally:
            self._decided = executor.decision

    def _enter(self, site: Site | None) -> ManagedExecutor | Borrowed:
        if self._open is not None:
            raise RuntimeError("this Run is already open; make another one to nest")
        config = settings.resolve(self._config, max_workers=self._max_workers)
        target = "stderr" if self._trace is True else config.trace
        listener = self._trace if callable(self._trace) else None
        if self._given is not None:
            borrowed = Borrowed(self._given, self._flavor, self._name, site)
            tracing.publish(borrowed.decision, target=target, listener=listener)  # it is not open if this raises
            self._open = borrowed
        else:
            request = Request(flavor=self._flavor, origin="Run", max_workers=self._max_workers, name=self._name)
            opening = Opening(request, config, site=site, target=target, listener=listener)
            try:
                self._open = open_pool(opening, PoolSpec(reusable=True))
            finally:
                opening.tell()  # if it was denied just now
        return self._open  # type: ignore[no-any-return]

    def _leave(self) -> Any:
        if self._open is None:
            raise RuntimeError("this Run is not open")
        executor, self._open = self._open, None
        return executor


class Borrowed(ChunkingExecutor):
    """A scope's view of an executor that belongs to somebody else: its own tasks, its own end."""

    def __init__(self, executor: Executor, flavor: str, name: str | None, site: Site | None) -> None:
        self._executor = executor
        # Guards all below; notified when nothing is pending. Not `concurrent.futures.wait`: it never ends for a future
        # that its executor cancelled and then forgot. To be taken as it is: Ctrl-C may come in the condition's own
        # functions for that.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._pending: set[Future[Any]] = set()
        self._submitting: dict[object, int] = {}  # a token for each call of submit that is under way: its thread
        self._closed = False
        self._cancelling = False
        self._home = os.getpid()
        kind = type(executor).__name__
        self.decision: DecisionTrace = DecisionTrace(
            origin="Run",
            name=name,
            asked=flavor,
            flavor=flavor,
            ladder=(kind,),
            refused=(),
            backend=kind,
            workers=getattr(executor, "_max_workers", None),
            start_method=None,
            short=None,
            reason="the caller's own executor",
            settled=True,
            where=None if site is None else str(site),
        )

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if os.getpid() != self._home:
            return self._executor.submit(fn, *args, **kwargs)
        token = object()
        try:
            with self._lock:
                if self._closed:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                self._submitting[token] = threading.get_ident()
            future = self._executor.submit(fn, *args, **kwargs)
            try:
                with self._lock:
                    self._pending.add(future)
                    cancelling = self._cancelling
                future.add_done_callback(self._settle)
            except BaseException:  # Ctrl-C, after which the end would wait for it for ever
                future.add_done_callback(self._settle)
                raise
            if cancelling:
                future.cancel()
            return future
        finally:
            try:
                self._settle(token)
            except BaseException:  # Ctrl-C, after which the end would wait for this call for ever
                self._settle(token)
                raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if os.getpid() != self._home:
            return  # a forked child's copy: the tasks are the parent's
        with self._lock:
            self._closed = True
            self._cancelling = self._cancelling or cancel_futures
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            me = threading.get_ident()  # it may be a task that its executor runs in `submit`
            with self._lock:
                self._changed.wait_for(lambda: not self._pending and {me}.issuperset(self._submitting.values()))

    def _settle(self, gone: object) -> None:
        with self._lock:
            self._pending.discard(gone)
            self._submitting.pop(gone, None)
            if not self._pending:
                self._changed.notify_all()

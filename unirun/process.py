"""The managed process pool: the stdlib's own class where process pools start, with a way down where they do not."""

from __future__ import annotations

import sys

from unirun.backends.processes import BrokenProcessPool, GuardedProcessPool
from unirun.kinship import acknowledge
from unirun.managed import ManagedExecutor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

    from unirun.backends.lowered import Semantics
    from unirun.opening import Opening, PoolSpec

__all__ = ["ProcessPoolExecutor"]

#: The stdlib's own class, whatever its module may hold by now.
_STDLIB: Any = GuardedProcessPool.__base__


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

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is ProcessPoolExecutor:
            from unirun.aside import stands_aside

            if stands_aside():
                acknowledge(_STDLIB, ProcessPoolExecutor)
                return _STDLIB(*args, **kwargs)
        create: Any = super().__new__  # of a class that stands beside this one in a program's, if it has one
        return create(cls) if create is object.__new__ else create(cls, *args, **kwargs)

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        from unirun.opening import PoolSpec, dropin

        spec = PoolSpec(
            mp_context=mp_context,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
        )
        self._adopt(dropin("processes", "ProcessPoolExecutor", max_workers, spec), spec)

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

    def _adopt(self, opening: Opening, spec: PoolSpec) -> None:
        # Threads may serve as a lower rung. Their backend must not be the first to import the stdlib's module: the hook
        # would look for the class that takes the stdlib's place, and not find it yet. In the order in which the hook
        # imports the two, or another thread that does the same would get the stdlib's class.
        import concurrent.futures.thread  # noqa: F401

        from unirun import thread  # noqa: F401

        super()._adopt(opening, spec)

    def _construct_own(self, workers: int | None, spec: PoolSpec) -> None:
        context = spec.mp_context
        if context is None and spec.start_method() is None and self._opening.config.start_method is not None:
            import multiprocessing

            context = multiprocessing.get_context(self._opening.config.start_method)
        self._construct(workers, context, spec.initializer, spec.initargs, spec.max_tasks_per_child)

    def _start_own(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Future[Any], bool]:
        from unirun.backends.lowered import mentions_main
        from unirun.refusal import Refused

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
        from dataclasses import replace

        return replace(
            super()._semantics(),
            copy=self._opening.config.isolation == "copy",
            child=True,
            pickled_initargs=self._opening.plan.start_method != "fork",
            broken=BrokenProcessPool,
        )


# `inspect.signature` follows these to the running Python's own.
ProcessPoolExecutor.__init__.__wrapped__ = _STDLIB.__init__  # type: ignore[attr-defined]
ProcessPoolExecutor.__new__.__wrapped__ = _STDLIB.__init__  # type: ignore[attr-defined]

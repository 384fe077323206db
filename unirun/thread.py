"""The managed thread pool: the stdlib's own class where threads start, the calling thread where they do not."""

from __future__ import annotations

from unirun.backends.threads import GuardedThreadPool
from unirun.kinship import acknowledge
from unirun.managed import ManagedExecutor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

    from unirun.opening import Opening, PoolSpec

__all__ = ["ThreadPoolExecutor"]

#: The stdlib's own class, whatever its module may hold by now.
_STDLIB: Any = GuardedThreadPool.__base__


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

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is ThreadPoolExecutor:
            from unirun.aside import stands_aside

            if stands_aside():
                acknowledge(_STDLIB, ThreadPoolExecutor)
                return _STDLIB(*args, **kwargs)
        create: Any = super().__new__  # of a class that stands beside this one in a program's, if it has one
        return create(cls) if create is object.__new__ else create(cls, *args, **kwargs)

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **ctxkwargs: Any,
    ) -> None:
        from unirun.opening import PoolSpec, dropin

        spec = PoolSpec(
            initializer=initializer, initargs=initargs, thread_name_prefix=thread_name_prefix, more=ctxkwargs
        )
        self._adopt(dropin("threads", "ThreadPoolExecutor", max_workers, spec), spec)

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


# `inspect.signature` follows these to the running Python's own.
ThreadPoolExecutor.__init__.__wrapped__ = _STDLIB.__init__  # type: ignore[attr-defined]
ThreadPoolExecutor.__new__.__wrapped__ = _STDLIB.__init__  # type: ignore[attr-defined]

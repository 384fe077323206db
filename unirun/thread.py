"""The managed thread pool: the stdlib's own class where threads start, the calling thread where they do not."""

from __future__ import annotations

import sys

from unirun.aside import stands_aside
from unirun.backends import inline, lowered  # noqa: F401 - the rung below: see `process`
from unirun.backends.threads import GuardedThreadPool
from unirun.kinship import acknowledge
from unirun.managed import ManagedExecutor, describe_as
from unirun.opening import PoolSpec, dropin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any, ParamSpec, Self, TypeVar

    from unirun.opening import Opening

    P = ParamSpec("P")
    T = TypeVar("T")

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

    _unirun_own_rung = "threads"

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Not by its name, which a reload of this module rebinds.
        if cls is __class__ and sys.meta_path is not None and stands_aside():  # type: ignore[name-defined]
            acknowledge(_STDLIB, cls)
            theirs: Self = _STDLIB(*args, **kwargs)  # and no `__init__` after it: its class derives from none of ours
            return theirs
        # Of a class that stands beside this one in a program's, if it has one.
        create: Callable[..., Self] = super().__new__
        return create(cls) if create is object.__new__ else create(cls, *args, **kwargs)

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **ctxkwargs: Any,
    ) -> None:
        # At the very end of the interpreter nothing can be imported, and nobody is left who would be told.
        if sys.meta_path is None or stands_aside(type(self)):
            super(ManagedExecutor, self).__init__(max_workers, thread_name_prefix, initializer, initargs, **ctxkwargs)
            return
        spec = PoolSpec(
            initializer=initializer, initargs=initargs, thread_name_prefix=thread_name_prefix, more=ctxkwargs
        )
        self._unirun_adopt(dropin("threads", "ThreadPoolExecutor", max_workers, spec), spec)

    # Functions of its own: who replaces or instruments one of them means this class, and not all.

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._unirun_proven:
            return super(ManagedExecutor, self).submit(fn, *args, **kwargs)  # with no step between
        return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._unirun_lower is not None:
            self._shutdown = True  # programs look into it
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _unirun_adopt(self, opening: Opening, spec: PoolSpec) -> None:
        super()._unirun_adopt(opening, spec)
        if not self._unirun_constructed:  # for its checks of the arguments; it starts nothing
            self._unirun_construct_own(opening.plan.workers, spec)

    def _unirun_construct_own(self, workers: int | None, spec: PoolSpec) -> None:
        super(ManagedExecutor, self).__init__(
            workers, spec.thread_name_prefix, spec.initializer, spec.initargs, **(spec.more or {})
        )

    def _unirun_start_own(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Future[Any], bool]:
        return self._unirun_start(fn, args, kwargs), True

    def _unirun_stdlib_workers(self) -> int:
        return min(32, super()._unirun_stdlib_workers() + 4)


describe_as(_STDLIB, ThreadPoolExecutor)

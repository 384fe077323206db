"""The managed process pool: the stdlib's own class where its pool starts, with a way down where it does not."""

from __future__ import annotations

# All that the stdlib's pool needs in this place is imported with the class, and not in its constructor, where it may be
# impossible: with modules that a test has replaced, after a chroot, without a descriptor, in a child that was forked
# while another thread held an import's lock. Threads may serve as a lower rung. The stdlib's module comes before ours,
# as the hook has it, and before `maps.exits`, which is to be asked first at the exit.
import concurrent.futures.thread as stdlib_threads
import sys
from itertools import chain

from unirun import thread  # noqa: F401
from unirun.aside import stands_aside
from unirun.backends import inline  # noqa: F401
from unirun.backends.lowered import mentions_main
from unirun.backends.processes import BrokenProcessPool, GuardedProcessPool
from unirun.backends.ready import Next
from unirun.kinship import acknowledge
from unirun.managed import ManagedExecutor, describe_as
from unirun.maps.executor import BatchingExecutor
from unirun.opening import PoolSpec, dropin
from unirun.refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future
    from typing import Any, Final, ParamSpec, Self, TypeVar

    from unirun.backends.lowered import Semantics
    from unirun.backends.pipes.pool import PipePool
    from unirun.backends.pipes.shelf import Loan
    from unirun.backends.pipes.terms import Terms
    from unirun.opening import Opening
    from unirun.refusal import Failure

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["ProcessPoolExecutor"]

#: What ``map`` does besides what its documentation in the stdlib says.
_BATCHES: Final = """

        With the default chunksize, 1, short items travel together all the same, in batches of a size that is found out,
        where the pool's tasks are neither counted nor timed. Order, errors and timeout are as above.
        """
#: The stdlib's own class, whatever its module may hold by now.
_STDLIB: Any = GuardedProcessPool.__base__


class _OfLower:
    """What the stdlib's pool notes of itself, for programs that look whether it is any good, where a lower rung serves.

    The pool's own attribute, which it sets in its constructor, comes before this one.
    """

    def __init__(self, read: Callable[[Any], object]) -> None:
        self._read = read

    def __get__(self, pool: Any, kind: type | None = None) -> Any:
        return pool is not None and self._read(pool)


class ProcessPoolExecutor(BatchingExecutor, GuardedProcessPool):
    """``concurrent.futures.ProcessPoolExecutor``, on any host.

    Arguments, methods and behaviour are those of the running Python's class. Where its pool cannot start, the process
    pool over pipes serves, which needs no semaphores. Where no process can be started, interpreters serve (from Python
    3.14 on, unless workers would be forked), threads, or the calling thread itself, with arguments and results copied
    as processes would copy them; ``decision`` and a ``DowngradeWarning`` say so. The first ``submit`` waits until one
    worker is up.

    Raises:
        DowngradeError: From the constructor or the first ``submit``: no rung can serve, or ``UNIRUN_DOWNGRADE=error``.
        ConfigError: From the constructor: a ``UNIRUN_*`` variable has a value that is not accepted.
        Exception: What the stdlib's class raises, when it does.
    """

    _unirun_own_rung = "processes"
    _broken = _OfLower(lambda pool: getattr(pool._unirun_lower, "broken", None) or False)
    _shutdown_thread = _OfLower(lambda pool: pool._unirun_closed or pool._unirun_ending or bool(pool._broken))

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
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        # At the very end of the interpreter nothing can be imported, and nobody is left who would be told.
        if sys.meta_path is None or stands_aside(type(self)):
            super(ManagedExecutor, self).__init__(
                max_workers, mp_context, initializer, initargs, max_tasks_per_child=max_tasks_per_child
            )
            return
        spec = PoolSpec(
            mp_context=mp_context,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
        )
        opening = dropin("processes", "ProcessPoolExecutor", max_workers, spec)
        try:
            self._unirun_adopt(opening, spec)
        finally:
            opening.tell()  # if it was denied just now

    # Functions of its own: who replaces or instruments one of them means this class, and not all.

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._unirun_proven and not self._unirun_maps:
            return super(ManagedExecutor, self).submit(fn, *args, **kwargs)  # with no step between
        return super().submit(fn, *args, **kwargs)

    if sys.version_info >= (3, 14):

        def map(
            self,
            fn: Callable[..., T],
            *iterables: Iterable[Any],
            timeout: float | None = None,
            chunksize: int = 1,
            buffersize: int | None = None,
        ) -> Iterator[T]:
            if type(chunksize) is int and chunksize == 1 and buffersize is None and self._unirun_batches():
                return self._unirun_map(fn, iterables, timeout=timeout)
            return super().map(fn, *iterables, timeout=timeout, chunksize=chunksize, buffersize=buffersize)

    else:

        def map(
            self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
        ) -> Iterator[T]:
            if type(chunksize) is int and chunksize == 1 and self._unirun_batches():
                return self._unirun_map(fn, iterables, timeout=timeout)
            return super().map(fn, *iterables, timeout=timeout, chunksize=chunksize)

    # What the stdlib's says, as far as the interpreter has kept it, and what is not so here.
    map.__doc__ = GuardedProcessPool.map.__doc__ and GuardedProcessPool.map.__doc__.rstrip() + _BATCHES

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)

    if sys.version_info >= (3, 14):

        def terminate_workers(self) -> None:
            self._unirun_end_workers("terminate_workers")

        def kill_workers(self) -> None:
            self._unirun_end_workers("kill_workers")

        def _unirun_end_workers(self, how: str) -> None:
            if self._unirun_constructed:
                getattr(super(), how)()
                return
            pool = self._unirun_lower
            if hasattr(pool, "retire"):
                pool.retire()
            self.shutdown(wait=False, cancel_futures=True)
            if hasattr(pool, how):
                getattr(pool, how)()

        if hasattr(GuardedProcessPool, "kill_workers"):  # else there is no multiprocessing, and a lower rung serves
            terminate_workers.__doc__ = GuardedProcessPool.terminate_workers.__doc__
            kill_workers.__doc__ = GuardedProcessPool.kill_workers.__doc__

    def _unirun_batches(self) -> bool:
        # A program's own `submit`, in a class of its own or in place of ours, is to see each item.
        own = type(self).submit is not _SUBMIT or "submit" in self.__dict__
        # Nor would workers that do not find this package know what a batch is.
        return not own and not self._unirun_unguarded and super()._unirun_batches()

    def _unirun_construct_own(self, workers: int | None, spec: PoolSpec) -> None:
        context = spec.mp_context
        if context is None and spec.start_method() is None and self._unirun_opening.config.start_method is not None:
            context = self._unirun_context()
        self._unirun_construct(workers, context, spec.initializer, spec.initargs, spec.max_tasks_per_child)

    def _unirun_start_own(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Future[Any], bool]:
        if (refused := self._unirun_missing_names((fn, *args, *kwargs.values()))) is not None:
            self._unirun_abandon()
            raise refused
        return self._unirun_start(fn, args, kwargs)

    def _unirun_missing_names(self, task: tuple[Any, ...]) -> Exception | None:
        """Return a ``Refused`` if workers would not find what a task, or the initializer, names in ``__main__``."""
        opening = self._unirun_opening
        method = opening.plan.start_method
        interpreter = opening.rung == "interpreters"
        if opening.facts.main != "interactive" or (method == "fork" and not interpreter):
            return None
        values = chain.from_iterable(each.task if isinstance(each, Next) else (each,) for each in task)
        if not mentions_main(*values, self._unirun_spec.initializer, *self._unirun_spec.initargs):
            return None
        worker = "an interpreter" if interpreter else f"a worker started by {method!r}"
        why = (
            f"{worker} does not import this main module and so cannot find its names; "
            'put the function into a module of its own, or install "unirun[cloudpickle]"'
        )
        return Refused("bootstrap", AttributeError(why))

    def _unirun_adopt(self, opening: Opening, spec: PoolSpec) -> None:
        super()._unirun_adopt(opening, spec)
        if opening.rung == "pipes":
            # Not in the first submit: the handler of a signal that comes in the middle of that may submit, too.
            try:
                import unirun.backends.pipes.pool  # noqa: F401
            except (ImportError, OSError):
                pass  # the first submit says so

    def _unirun_descend(self, rung: str, task: tuple[Any, ...]) -> None:
        if rung == "interpreters":
            self._unirun_descend_to_interpreters(task)
            return
        if rung != "pipes":
            super()._unirun_descend(rung, task)
            return
        # As the stdlib's pools do. And a fork server has the handlers of `atexit` that the main module registers: one
        # that opened a pool there started a next server, which did so again, without an end.
        if stdlib_threads._shutdown:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        spec, reuses = self._unirun_spec, self._unirun_reuses()
        try:
            from unirun.backends.pipes.by_value import by_value
            from unirun.backends.pipes.pool import open_pipes

            terms = self._unirun_terms()
            whole = terms.by_value and by_value() is not None
            if reuses:
                from unirun.backends.pipes import shelf
        except (ImportError, OSError) as error:  # this Python has no mmap; no descriptor is left to read it by
            raise Refused("import", error) from None
        if terms.by_value and (refused := self._unirun_missing_names(() if whole else task)) is not None:
            raise refused
        pool: Loan | PipePool
        if reuses:
            workers, context = self._max_workers, self._unirun_context()
            key = context.get_start_method(), workers, terms
            pool = shelf.borrow(key, lambda: open_pipes(workers, context, terms=terms))
        else:
            pool = open_pipes(self._max_workers, self._unirun_context(), spec.initializer, spec.initargs, terms)
        self._processes = pool.processes  # programs look into it to kill workers,
        self._pending_work_items = pool.pending  # and ask this one how much is left to do
        self._unirun_stand_on(pool, len(pool.processes) if pool.short else self._max_workers, pool.short)

    def _unirun_descend_to_interpreters(self, task: tuple[Any, ...]) -> None:
        try:
            from unirun.backends.interpreters.pool import open_interpreters
            from unirun.backends.pipes.by_value import by_value
        except (ImportError, OSError) as error:  # no descriptor is left to read it by
            raise Refused("import", error) from None
        interactive = self._unirun_opening.facts.main == "interactive"
        if interactive and (refused := self._unirun_missing_names(() if by_value() is not None else task)) is not None:
            raise refused
        pool = open_interpreters(self._max_workers, self._unirun_semantics(), interactive)
        self._unirun_stand_on(pool, self._max_workers, None)

    def _unirun_stand_on(self, pool: Executor, workers: int | None, short: Failure | None) -> None:
        for name in ("_broken", "_shutdown_thread"):  # of the stdlib's pool that was refused
            self.__dict__.pop(name, None)
        super()._unirun_stand_on(pool, workers, short)

    def _unirun_reuses(self) -> bool:
        """Tell whether a warm pool may serve. A forked worker holds the globals of its birth: only on request."""
        wanted = self._unirun_opening.config.reuse
        if wanted is None:
            wanted = self._unirun_opening.plan.start_method != "fork"
        return wanted and self._unirun_spec.reusable

    def _unirun_context(self) -> Any:
        import multiprocessing

        return self._unirun_spec.mp_context or multiprocessing.get_context(self._unirun_opening.plan.start_method)

    def _unirun_terms(self) -> Terms:
        from unirun.backends.pipes.terms import Terms

        opening = self._unirun_opening
        config = opening.config
        return Terms(
            max_tasks_per_child=self._unirun_spec.max_tasks_per_child,
            task_timeout=config.task_timeout,
            on_crash=config.on_crash or "replace",
            log_level=_lowest_level() if config.worker_logs else None,
            # Forked workers have what `__main__` had, globals included, which a copy by value would not share.
            by_value=opening.facts.main == "interactive" and opening.plan.start_method != "fork",
        )

    def _unirun_started(self) -> int:
        return len(self._unirun_workers()) if self._unirun_short is not None else self._max_workers

    def _unirun_semantics(self) -> Semantics:
        return (
            super()
            ._unirun_semantics()
            .replace(
                copy=self._unirun_opening.config.isolation == "copy",
                child=True,
                pickled_initargs=self._unirun_opening.plan.start_method != "fork",
                by_value=not self._unirun_opening.dropin,
                broken=BrokenProcessPool,
            )
        )


def _lowest_level() -> int:
    """Return the lowest level that any logger of this process is set to."""
    import logging

    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    return min(
        each.level for each in loggers if isinstance(each, logging.Logger) and (each.level or each is loggers[0])
    )


#: The method as it is defined here.
_SUBMIT: Any = ProcessPoolExecutor.submit
describe_as(_STDLIB, ProcessPoolExecutor)

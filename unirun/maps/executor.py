"""A managed executor whose ``map`` travels in batches, and what that means for its ``submit`` and its ``shutdown``."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Executor
from functools import partial

from unirun.backends.turns import Heard
from unirun.managed import ManagedExecutor
from unirun.maps import batches  # noqa: F401 - loaded with the class, see `process`
from unirun.maps.sharing import memo_for
from unirun.maps.source import inert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any, Final, ParamSpec, TypeVar

    from unirun.backends.pipes.memo import Memo
    from unirun.backends.turns import Place
    from unirun.maps.batches import Batches
    from unirun.opening import Opening, PoolSpec

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["BatchingExecutor"]


class BatchingExecutor(ManagedExecutor):
    """A managed executor whose ``map`` sends short items in batches."""

    if TYPE_CHECKING:
        _unirun_maps: list[Batches]
        _unirun_paces: dict[Any, float]
        _unirun_heard: Heard
        _unirun_submit_awake: Callable[..., Future[Any]]

    #: The calls of ``map`` that have something left to submit or to hear of. Changed by single calls, which are atomic.
    _unirun_maps = ()  # type: ignore[assignment]  # in a program's subclass that does not call our constructor
    #: Nothing more is accepted, though there may be such calls.
    _unirun_ending = False
    #: The last of them shuts the pool down.
    _unirun_deferred = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._unirun_maps:
            if self._unirun_ending:
                raise RuntimeError("cannot schedule new futures after shutdown")
            wait = not self._unirun_in_own_thread()
            for each in self._unirun_own_maps():
                if not each.goes_on_alone():
                    each.flush(wait)
        return super().submit(fn, *args, **kwargs)

    submit.__doc__ = Executor.submit.__doc__

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._unirun_ending = True  # before the look: a map that this does not see will see the mark
        if maps := self._unirun_own_maps():
            if cancel_futures:
                for each in maps:
                    each.cancel()
            elif not wait or self._unirun_in_own_thread() or any(each.reading for each in maps):
                self._unirun_deferred = True
                for each in maps:
                    each.complete()
                if self._unirun_maps:  # one at least, which will find the mark
                    return
            else:
                try:
                    for each in maps:
                        each.finish()
                except BaseException:  # Ctrl-C: no more waiting, but it ends
                    self.shutdown(wait=False)
                    raise
        super().shutdown(wait, cancel_futures=cancel_futures)

    shutdown.__doc__ = Executor.shutdown.__doc__

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> bool | None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            for each in self._unirun_own_maps():
                each.cancel()
        return super().__exit__(exc_type, exc_val, exc_tb)

    __exit__.__doc__ = Executor.__exit__.__doc__

    def _unirun_adopt(self, opening: Opening, spec: PoolSpec) -> None:
        super()._unirun_adopt(opening, spec)
        self._unirun_maps, self._unirun_paces, self._unirun_heard = [], {}, Heard()

    def _unirun_own_maps(self) -> list[Batches]:
        """Return the calls of ``map`` that have something left, but none in a forked child: nothing goes on there."""
        return [each for each in list(self._unirun_maps) if each.present()]

    def _unirun_batches(self) -> bool:
        """Tell whether several items may be one task of this pool's: not where its tasks are counted or timed.

        Nor once it is shut down, where nothing is gained, and the stdlib's own way says what there is to be said.
        """
        if not self._unirun_managed or self._unirun_ending or self._unirun_spec.max_tasks_per_child is not None:
            return False
        config = self._unirun_opening.config
        return config.task_timeout is None and config.isolation == "copy"

    def _unirun_map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        timeout: float | None,
        size: int | None = None,
        window: int | None = None,
    ) -> Iterator[Any]:
        """Do what ``map`` does, in batches; see ``Batches`` for the arguments."""
        from unirun.maps.batches import Batches  # by its name: workers find its functions so, if it was loaded again

        if self._unirun_ending:
            raise self._unirun_refusal()
        for each in self._unirun_own_maps():
            if not each.goes_on_alone() and each.lazy and self._max_workers == 1:
                each.flush()  # then the order in which tasks begin can be seen
        memos: list[Memo] = []
        maps = self._unirun_maps  # and no other one, where the program constructs this pool again meanwhile
        remember = partial(memo_for, fn, inert(iterables), window)
        # Emptied when all is done: the executor is not held then by whoever holds the results.
        held: list[Any] = [self]

        def over(ended: Batches) -> None:
            if mine := held[:1]:
                mine[0]._unirun_map_ended(memos, maps, ended)
                held.clear()  # at last: with Ctrl-C it is called again

        def soon(step: Callable[[], object]) -> bool:
            mine = held[:1]  # one step: it may be over just now
            return bool(mine) and mine[0]._unirun_soon(step)

        sending = Batches(
            lambda *task: held[0]._unirun_send_batch(memos, remember, *task),
            fn,
            iterables,
            workers=self._max_workers,
            size=size,
            window=window,
            timeout=timeout,
            paces=self._unirun_paces,
            heard=self._unirun_heard,
            maps=maps,
            ended=over,
            soon=soon,
            inline=lambda: any(each._unirun_opening.decision.backend == "inline" for each in held),
        )
        maps.append(sending)
        if self._unirun_ending:  # since the look above, by who may have looked for maps before this one was there
            sending.cancel()
            raise self._unirun_refusal()
        results = sending.begin()
        if _FREE and held and self._unirun_lower is None:  # once the pool has its threads: there may be few
            _elsewhere(lambda: held.append(self))
            del held[:1]
        return results

    def _unirun_send_batch(
        self, memos: list[Memo], remember: Callable[[], Memo], place: Place, fn: Any, /, *args: Any
    ) -> Future[Any]:
        """Submit a part of a map, in whatever thread has heard of the end of another."""
        lower: Any = self._unirun_lower
        if hasattr(lower, "submit_sharing"):
            if not memos:
                memos.append(remember())
            return lower.submit_sharing(memos[0], place, fn, *args)  # type: ignore[no-any-return]
        if (error := self._unirun_own_error()) is not None:
            raise error
        if lower is None and self._unirun_in_own_thread():
            return self._unirun_submit_awake(fn, *args)
        return self._unirun_send(fn, *args)

    def _unirun_to_follow(self) -> int:
        return sum(each.unsent for each in self._unirun_maps)

    def _unirun_soon(self, step: Callable[[], object]) -> bool:
        """Do something where none of the pool's locks is held; return whether that can be."""
        soon = getattr(self._unirun_lower, "soon", None)
        if soon is None:
            return False
        soon(step)
        return True

    def _unirun_map_ended(self, memos: list[Memo], maps: list[Batches], ended: Batches) -> None:
        for memo in memos:
            memo.close()
        try:
            maps.remove(ended)
        except ValueError:
            pass  # this is the second time, after Ctrl-C
        if self._unirun_deferred and not self._unirun_maps and not self._unirun_why_broken():
            super().shutdown(wait=False)

    def _unirun_refusal(self) -> RuntimeError:
        """Return what the stdlib's pool raises once it is shut down."""
        if why := getattr(self, "_broken", False):
            from unirun.backends.processes import BrokenProcessPool

            return BrokenProcessPool(why)
        return RuntimeError("cannot schedule new futures after shutdown")

    def _unirun_in_own_thread(self) -> bool:
        """Tell whether the caller is a thread of this pool's, which must not wait for it."""
        me = threading.current_thread()
        lower: Any = self._unirun_lower
        if lower is not None and hasattr(lower, "served_by"):
            return bool(lower.served_by(me))
        return me is getattr(self, "_executor_manager_thread", None)


#: This build of Python has no GIL, or can do without.
_FREE: Final = "free-threading" in sys.version


def _elsewhere(step: Callable[[], object]) -> None:
    """Do something in another thread, if there can be one.

    Without a GIL each thread counts the references that it has made to its own objects. Who lets go of another thread's
    reference leaves it to that thread to see whether it was the last one, and that may be waiting: for the end of the
    pool that nobody holds any more. So the reference that the pool's own thread is to let go of is not made by the
    thread that made the executor. See PEP 703, "Biased reference counting".
    """
    thread = threading.Thread(target=step, name="unirun-map")
    try:
        thread.start()
    except RuntimeError:  # no more threads here
        step()
    else:
        thread.join()

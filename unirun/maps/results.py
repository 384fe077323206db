"""The results of one call of ``map``: what its caller iterates over."""

from __future__ import annotations

import itertools
import threading
import weakref
from functools import partial
from operator import length_hint
from types import GeneratorType

import unirun.backends.batch as worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any, Self, TypeAlias

    from unirun.maps.parcels import Batch

    _Chain: TypeAlias = itertools.chain[Any]
    _Starmap: TypeAlias = itertools.starmap[Any]
else:
    _Chain, _Starmap = itertools.chain, itertools.starmap  # to say `Any` would load `typing`

__all__ = ["Popping", "Results", "in_order"]


class _Turns:
    """The batches, for ``itertools.chain``, whose source this is, and which is made for one thread.

    Another one that asks while it waits here, or an iterable that asks for results of its own map, gets the error that
    a generator raises. Not from here: the chain forgets a source that raises. And what it gets takes the place of what
    it has, which may be another thread's newest batch: so that one is given again, until it is spent.

    Without a GIL all this holds in one thread only: there a chain in two is as unsafe as a generator.
    """

    def __init__(self, batches: Iterator[Iterable[Any]]) -> None:
        self._batches = batches
        self._inside = threading.Lock()  # held by who is in here; never waited for
        #: The newest batch.
        self.newest: Iterator[Any] = iter(())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Iterator[Any]:
        held: list[bool] = []
        try:
            held.extend(map(self._inside.acquire, (False,)))  # one step, between whose parts no Ctrl-C can come
            if not held[0]:
                return _Refusal(self)
            if _spent(self.newest):
                self.newest = iter(next(self._batches))
            return self.newest
        finally:
            if True in held:
                self._inside.release()

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for the next batch."""
        return self._inside.locked()


class _Refusal:
    """In the place of a batch: raises an error, once for who was refused, and then is the newest batch."""

    def __init__(self, turns: _Turns) -> None:
        self._turns = weakref.ref(turns)  # the chain may forget to let go of this
        self._refused: int | None = threading.get_ident()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        turns = self._turns()
        if self._refused == threading.get_ident() or turns is None or turns.waiting:
            self._refused = None
            raise ValueError("generator already executing")
        return next(turns.newest)


class Popping(_Starmap):
    """An iterator that takes the last items of a list, one after the other, and so holds none that it has yielded."""

    _turns: Iterator[Any]

    @classmethod
    def of(cls, items: list[Any]) -> Self:
        """Return one for all items of a list."""
        turns = itertools.repeat((), len(items))
        made = cls(items.pop, turns)
        made._turns = turns
        return made

    def close(self) -> None:
        """Yield nothing more."""
        for _ in self._turns:
            pass

    def __length_hint__(self) -> int:
        return length_hint(self._turns)


def _spent(batch: Any) -> bool:
    """Tell whether an iterator has nothing left."""
    if isinstance(batch, GeneratorType):
        return batch.gi_frame is None
    return length_hint(batch, 1) == 0


class Results(_Chain):
    """An iterator over results, which can be closed as a generator can, and is faster than one."""

    _batches: Any
    _ended: Any

    @classmethod
    def of(cls, batches: Iterator[Iterable[Any]], ended: Callable[[], object]) -> Self:
        """Return an iterator over the results of one batch after the other.

        Args:
            batches: A generator of these.
            ended: Called when it is closed: a generator that has not begun does nothing then.
        """
        results: Any = cls.from_iterable(_Turns(batches))
        results._batches, results._ended = batches, ended
        return results  # type: ignore[no-any-return]

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle 'generator' object")  # as what the stdlib's map returns, and not half of it

    def close(self) -> None:
        """Take back what has not begun, and yield nothing more."""
        if not self._batches.gi_running:  # else the next line raises
            self._ended()
        self._batches.close()


def in_order(
    head: Callable[[], Batch | None], plain: bool, left: Callable[[BaseException | None], object]
) -> Iterator[Iterable[Any]]:
    """Yield the results of one batch after the other.

    Args:
        head: Waits for the next batch.
        plain: The result of an item that was sent alone is the item's, and not ``Timed``.
        left: Called at the end, with what is raised there: ``GeneratorExit`` where nobody can ask for more.
    """
    end: Callable[[], object] = list  # of what is left of the newest batch
    try:
        while (batch := head()) is not None:
            # A future holds its batch, by its callback: if also the other way, both wait for the collector.
            future, alone, batch = batch.futures.pop(), batch.alone, None
            if not alone and not (done := future.result()).others:
                end = done.results.clear
                yield done.results
            else:
                held = [future]
                del future
                newest = _one_by_one(held, alone, plain, left)
                end = partial(_close, newest)
                yield newest
    except BaseException as error:
        end()
        left(error)
        raise
    left(None)


def _close(results: Any) -> None:
    if not results.gi_running:  # else a result closes the iterator in the course of its unpickling
        results.close()


def _one_by_one(
    held: list[Future[Any]], alone: bool, plain: bool, left: Callable[[BaseException], object]
) -> Generator[Any]:
    """Yield the results of a batch, whose future is taken out of ``held``, without a reference to any of them."""
    try:
        if alone:
            yield _result(held, plain)
            return
        done = held.pop().result()
        for place, result in enumerate(done.results):
            packed = done.others.pop(place, None)
            yield result if packed is None else worker.load(packed)
    except BaseException as error:
        left(error)
        raise


def _result(held: list[Future[Any]], plain: bool) -> Any:
    future = held.pop()
    try:
        return future.result() if plain else future.result().value
    finally:
        del future  # a failed one's traceback holds this frame

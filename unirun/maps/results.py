"""The results of one call of ``map``: what its caller iterates over."""

from __future__ import annotations

import itertools
from functools import partial

import unirun.backends.batch as worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any, Self, TypeAlias

    from unirun.maps.parcels import Batch

    _Chain: TypeAlias = itertools.chain[Any]
else:
    _Chain = itertools.chain  # to say `Any` would load `typing`

__all__ = ["Results", "in_order"]


class _Turns:
    """The batches, for ``itertools.chain``, which forgets its source where that raises, also under another call of it.

    Who asks while another thread waits here, or an iterable that asks for results of its own map, gets the error that a
    generator raises; but from what is iterated over, and not from here.
    """

    def __init__(self, batches: Iterator[Iterable[Any]]) -> None:
        self._batches = batches

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Iterable[Any]:
        try:
            return next(self._batches)
        except ValueError as error:
            # The generator's own, and not from within it.
            traceback = error.__traceback__
            if traceback is None or traceback.tb_next is not None:
                raise
            return _raising(error.with_traceback(None))


def _raising(error: ValueError) -> Iterator[Any]:
    raise error
    yield


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

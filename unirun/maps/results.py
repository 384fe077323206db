"""The results of one call of ``map``: what its caller iterates over."""

from __future__ import annotations

import itertools

import unirun.backends.batch as worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any, Self, TypeAlias

    _Chain: TypeAlias = itertools.chain[Any]
else:
    _Chain = itertools.chain  # to say `Any` would load `typing`

__all__ = ["Results", "one_by_one"]


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
        results: Any = cls.from_iterable(batches)
        results._batches, results._ended = batches, ended
        return results  # type: ignore[no-any-return]

    def close(self) -> None:
        """Take back what has not begun, and yield nothing more."""
        self._batches.close()
        self._ended()


def one_by_one(held: list[Future[Any]], alone: bool, plain: bool, failed: Callable[[], object]) -> Iterator[Any]:
    """Yield the results of a batch, without a reference to any that its receiver has.

    Args:
        held: The future of the batch, taken out of this list.
        alone: It is that of an item that was sent alone.
        plain: Its result is the item's, and not ``Timed``.
        failed: Called before an exception is raised.
    """
    try:
        if alone:
            yield _result(held, plain)
            return
        done = held.pop().result()
        for place, result in enumerate(done.results):
            packed = done.others.pop(place, None)
            yield result if packed is None else worker.load(packed)
    except BaseException:
        failed()
        raise


def _result(held: list[Future[Any]], plain: bool) -> Any:
    future = held.pop()
    try:
        return future.result() if plain else future.result().value
    finally:
        del future  # a failed one's traceback holds this frame

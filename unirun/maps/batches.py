"""Batches: one call of ``map``, from its iterables to its results, whose items travel together where they are short."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import CancelledError

from unirun import clock
from unirun.backends.turns import Heard
from unirun.maps import exits
from unirun.maps.pace import LOOK, at_once
from unirun.maps.results import Results, in_order
from unirun.maps.sending import Sending
from unirun.maps.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import Any

    from unirun.maps.parcels import Batch

__all__ = ["Batches"]


class Batches(Sending):
    """One call of ``map``.

    Args:
        submit: Submits a task to the executor, given its place, the function and the arguments.
        fn: The function.
        iterables: What to call it with.
        workers: How many workers the executor has.
        size: Items in a batch; ``None`` to find it out.
        window: Items at most that were taken from the iterables and whose results were not asked for; 0 for a number
            that fits the batches. ``None``: all are taken at once.
        timeout: Seconds from now until the last result may be asked for; ``None`` for no limit.
        paces: How long an item of the newest maps took, by function; kept by the executor.
        heard: What the maps of the executor have heard of items that workers have left; kept by it.
        maps: All calls of ``map`` of the executor, in their order; kept by it.
        ended: Called when everything is done or given up, in any thread; once, but again if Ctrl-C came in its course.
        soon: Does something where no lock of the executor's is held, or tells that it cannot.
        inline: Tells whether tasks run in ``submit``.
    """

    def __init__(
        self,
        submit: Callable[..., Future[Any]],
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        workers: int,
        size: int | None,
        window: int | None = None,
        timeout: float | None = None,
        paces: dict[Any, float] | None = None,
        heard: Heard | None = None,
        maps: Sequence[Sending] = (),
        ended: Callable[[Batches], object] | None = None,
        soon: Callable[[Callable[[], object]], bool] = lambda step: False,
        inline: Callable[[], bool] = lambda: False,
    ) -> None:
        source = Source(iterables)
        super().__init__(
            submit,
            fn,
            spread=source.spread,
            workers=workers,
            size=size,
            window=window,
            paces=paces,
            heard=heard or Heard(),
            maps=maps,
            inline=inline,
            ended=ended,
        )
        self._source = source
        #: The iterables are read as results are taken; and what they raise is raised there.
        self.lazy: bool = window is not None
        self._end = None if timeout is None else timeout + clock.now()
        self._soon = soon
        self._together = False  # short items wait for others
        self._begin = self._paused = 0.0  # when that began, and seconds in which items were sent in its course
        self._grab = 1  # items to take at once
        self._slow = False  # that took long the last time
        self._failed: Exception | None = None  # what the iterables raised, where they are read as results are taken
        # Where results are asked for, and the same once that is gone. Not asked: what is asked lives on meanwhile, and
        # may die where a lock is held.
        self._asking: weakref.ref[Results] | None = None
        self._dropped: list[weakref.ref[Results]] = []
        self._asked = False  # for the first result

    def begin(self) -> Iterator[Any]:
        """Send the first batches, and return an iterator over the results.

        Raises:
            Exception: What ``submit`` raises, or the iterables. What was taken from these before is run.
        """
        at_once = self._window is None  # which whoever shuts the pool down may change
        try:
            if at_once:
                exits.add(self)
                self._take_all()
            else:
                self._take_some()
            if isinstance(error := self._error, CancelledError):  # by who shut the pool down meanwhile
                if self._short:
                    raise RuntimeError("cannot schedule new futures after shutdown")
            elif error is not None:
                raise error
        finally:
            self._read = self._read or at_once
            self._pump()
            self._settle()
        results = Results.of(in_order(self._head, self._size == 1, self._leave), self._close)
        self._asking = weakref.ref(results, self._dropped.append)
        return results

    # For the executor.

    def goes_on_alone(self) -> bool:
        """Have it go on by itself if nobody can ask for more results; return whether it does.

        Only where that runs no code of the program's; else it waits for the end of the executor. Where it may have no
        end it ends now. Somebody who has asked for results before has what has not begun taken back, by his dropping
        them, with PyPy when its collector comes.
        """
        if not (self.lazy and self._dropped) or self._asked or (self._source.finite and not self._source.inert):
            return False
        if self._window is not None:
            self.complete()
        return True

    @property
    def reading(self) -> bool:
        """Whether the caller is in the iterables just now: they go on when it is done, and it cannot wait for them."""
        return self._source.mine

    def complete(self) -> None:
        """Take all that is left. Iterables that may have no end are not read on."""
        self._pump()
        if self._source.finite or self._read:
            self._window = None  # and no room for results bounds what is sent
            try:
                if not self.reading:  # else who reads sees the window gone
                    self._take_all()
            except BaseException:  # Ctrl-C, perhaps in the iterables: what was not taken is nobody's
                self._stop(CancelledError())
                self._settle()
                raise
        else:
            self._stop(RuntimeError("the executor was shut down before map() had read its iterable to the end"))
        self._settle()

    def finish(self) -> None:
        """Take all that is left, as ``complete`` does, and wait until it is done."""
        self.complete()
        self._ask()
        with self._lock:
            if self._sender != threading.get_ident():  # else it is a task of ours, run inline, that ends its own pool
                # Once it was stopped nothing more is sent, and what was is the pool's to wait for.
                self._changed.wait_for(lambda: self._over or self._error is not None)
        self._settle()

    # Taking items, in the thread of whoever asks for results.

    def _take_all(self) -> None:
        while not self._read and self._error is None:
            self._take(None if self._source.inert else self._grab)
            if not self._open:
                self._pump()
        self._pump()

    def _take_some(self) -> None:
        """Take as many items as are wanted now; fewer at once while it is not known how long they take.

        Where taking them takes long, each is sent as soon as it is there, and no more are taken once a result is.
        """
        self._pump()  # there may be room now for more results
        while not self._read and self._error is None and not self.reading:
            with self._lock:
                size = self._wanted(0)
                count = min(size, self._room() - (self._taken - self._next), self._ahead() * size - len(self._unsent))
                first = self._sent.get(self._next)
            if count <= 0 or (self._slow and first is not None and first.done):
                break
            self._take(min(count, self._grab))
            if self._window is None:  # shut down in the course of that
                self._take_all()
            if len(self._unsent) >= size:
                self._pump()
        self._pump()
        self._settle()

    def _take(self, count: int | None) -> None:
        """Take so many items, or all."""
        with self._source.taking:
            self._begin, self._paused = clock.now(), 0.0
            with self._lock:  # where nothing is done beside the caller each would go alone
                self._together = self._inline() and self._wanted(0) > 1
            try:
                ended = self._source.take(count, self._add, self._more, self._fail if self.lazy else None)
            finally:
                with self._lock:
                    self._taken += (taken := self._unsent.seal())
            seconds = clock.now() - self._begin - self._paused
            self._grab, self._slow = at_once(max(1, taken), seconds), seconds >= LOOK
        if ended:
            with self._lock:
                self._read = True
                self._changed.notify_all()  # who asks for results may be another thread, which has had them all

    def _unheard(self) -> bool:
        return self._closed or bool(self._dropped)

    def _fail(self, error: Exception) -> None:
        self._failed = error  # raised in its place, after the results before it

    def _add(self, items: Sequence[Any]) -> None:
        with self._lock:
            if not (self._closed or self._error):
                self._unsent.add(self._taken, items)

    def _more(self) -> bool:
        """Send what was taken, if a worker may be idle; else whoever hears of a batch does, at any moment.

        Returns:
            Whether to take more at once. Where that takes long it is done anew, which lets go of what was sent.
        """
        slow = False
        if len(self._open) < self._workers and not (self._together or self._behind):
            begin = clock.now()
            self._pump()
            self._paused += clock.now() - begin
            slow = begin - self._begin > LOOK
        return not (slow or self._closed or self._error)

    # Results, in the thread of whoever asks for them.

    def _head(self) -> Batch | None:
        """Wait for the next batch and return it; ``None`` after the last one."""
        self._asked = True
        while True:
            if self._window is not None:
                self._take_some()
            elif self._behind:
                self._pump()
                self._settle()
            with self._lock:
                batch = self._sent.get(self._next)
                if self._closed:
                    return None
                if batch is None:
                    if self._error is not None and (self._next < self._taken or self._short):
                        raise self._error
                    if self._read and self._next == self._taken:
                        if self._failed is None:
                            return None
                        raise self._failed
                elif batch.done:
                    del self._sent[self._next]
                    self._next += batch.count
                    return batch
                left = None if self._end is None else self._end - clock.now()
                if left is not None and not left > 0:  # nor NaN
                    raise TimeoutError
                self._changed.wait(left)

    def _leave(self, error: BaseException | None) -> None:
        """Take back what has not begun, after an error; if the results were dropped, where no lock can be held."""
        if not isinstance(error, GeneratorExit):
            self._close()
        elif not self._closed and self.present():
            self._closed = True  # nothing more is sent
            # The collector may have dropped them, in the middle of anything.
            if not self._soon(self._close):
                self._dropped_in = threading.get_ident()
                try:
                    self._close()
                finally:
                    self._dropped_in = None

    def _close(self) -> None:
        """Take back what has not begun."""
        if not self.present():
            return
        with self._lock:
            self._closed = self._read = True
            self._empty()
            left, self._sent = self._sent, {}
            self._changed.notify_all()
        # A broken pool of the stdlib's may be failing these futures just now. In 3.11 one that is cancelled meanwhile
        # ends its manager thread, and the others are never heard of; see gh-107219.
        for batch in left.values():
            futures = [] if self._broken else list(batch.futures)
            if batch.done:  # else `_done` does so: a future holds its batch
                batch.futures.clear()
            for future in futures:
                future.cancel()
        self._settle()

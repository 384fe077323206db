"""Batches: the items of one call of ``map`` on their way to workers, several at once where they are short."""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from concurrent.futures import BrokenExecutor, CancelledError, Future
from functools import partial

import unirun.backends.batch as worker
from unirun import clock
from unirun.maps import exits
from unirun.maps.pace import AHEAD, ITEMS, LIMIT, LOOK, WINDOW, Pace
from unirun.maps.parcels import Parcels
from unirun.maps.results import Results, in_order
from unirun.maps.source import Source
from unirun.maps.unsent import Unsent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from unirun.maps.parcels import Batch

__all__ = ["Batches"]


class Batches:
    """One call of ``map``.

    Args:
        submit: Submits a task to the executor.
        fn: The function.
        iterables: What to call it with.
        workers: How many workers the executor has.
        size: Items in a batch; ``None`` to find it out.
        window: Items at most that were taken from the iterables and whose results were not asked for; 0 for a number
            that fits the batches. ``None``: all are taken at once.
        timeout: Seconds from now until the last result may be asked for; ``None`` for no limit.
        paces: How long an item of the newest maps took, by function; kept by the executor.
        ended: Called once, when everything is done or given up, in any thread.
        soon: Does something where no lock of the executor's is held.
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
        ended: Callable[[Batches], object] | None = None,
        soon: Callable[[Callable[[], object]], object] = lambda step: step(),
    ) -> None:
        self._submit: Any = submit
        self._fn: Any = fn
        self._source = Source(iterables)
        self._parcels = Parcels(fn, self._source.spread)
        self._workers, self._ahead, self._size, self._window = workers, AHEAD * workers, size, window
        self._lazy = window is not None  # and what the iterables raise is raised where results are asked for
        self._end = None if timeout is None else clock.now() + timeout
        self._ended, self._soon = ended, soon
        self.present: Callable[[], bool] = exits.presence()
        # Guards all below; notified when the next result is there, when all was sent, and when all is done. Reentrant:
        # a signal handler may submit in the course of anything.
        self._changed = threading.Condition(threading.RLock())
        self._gone: list[Any] = []  # to be let go of without the lock: what dies may wait for who waits for it
        self._unsent = Unsent(self._gone)
        self._sent: dict[int, Batch] = {}  # those whose results were not asked for, by the place of the first item
        self._open: set[Batch] = set()  # those of which nothing was heard
        self._taken = self._next = 0  # items that were taken from the iterables; the place of the next result
        self._read = self._short = False  # nothing more will be taken; although there may be more
        self._flushing: list[None] = []  # one for each thread that waits until what was taken is sent
        self._closed = self._broken = False  # the last: the executor is, or a worker was
        self._sender: int | None = None  # the thread that sends batches just now; one at a time
        self._error: BaseException | None = None  # why nothing more is sent
        self._failed: Exception | None = None  # what the iterables raised, where they are read as results are taken
        self._asking: weakref.ref[Results] | None = None  # where results are asked for
        self._paces = paces if paces is not None and worker.by_name(fn) else {}
        self._pace = Pace(workers, self._paces.get(fn) if self._paces else None)

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
            if self._error is not None:
                raise self._error
        finally:
            self._read = self._read or at_once
            self._pump()
            self._settle()
        results = Results.of(in_order(self._head, self._size == 1, self._leave), self._close)
        self._asking = weakref.ref(results)
        return results

    # For the executor.

    @property
    def forgotten(self) -> bool:
        """Whether nobody can ask for results any more, on whom it depends that there is an end of it."""
        asking = self._asking
        return not self._source.finite and self._window is not None and asking is not None and asking() is None

    @property
    def unsent(self) -> int:
        """How many items were taken and not sent."""
        return len(self._unsent)

    def flush(self) -> None:
        """Send what was taken, now: what is submitted next comes after it."""
        self._flushing.append(None)
        try:
            while True:
                self._pump()
                with self._changed:
                    if not self._unsent or self._closed or self._sender == threading.get_ident():
                        return
                    self._changed.wait_for(lambda: self._sender is None)
        finally:
            self._flushing.pop()

    def complete(self) -> None:
        """Take all that is left. Iterables that may have no end are not read on."""
        self._pump()
        if self._source.finite or self._read:
            self._window = None  # and no room for results bounds what is sent
            self._take_all()
        else:
            self._stop(RuntimeError("the executor was shut down before map() had read its iterable to the end"))
        self._settle()

    def finish(self) -> None:
        """Take all that is left, as ``complete`` does, and wait until it is done."""
        self.complete()
        with self._changed:
            if self._sender != threading.get_ident():  # else it is a task of ours, run inline, that ends its own pool
                self._changed.wait_for(lambda: self._over)
        self._settle()

    def cancel(self) -> None:
        """Send nothing more. What was sent is the executor's to cancel."""
        self._stop(CancelledError())
        self._settle()

    @property
    def _over(self) -> bool:
        return self._read and not self._unsent and not self._open

    def _stop(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error  # of what is not sent, if there is something
            self._short, self._read = self._short or not self._read, True
            self._empty()
            self._changed.notify_all()

    def _empty(self) -> None:
        """Forget what was not sent. The lock is held."""
        self._gone.append(self._unsent)
        self._unsent = Unsent(self._gone)

    def _settle(self) -> None:
        """Tell the executor, once, if all is done or given up."""
        self._gone.clear()
        with self._changed:
            if not self._over:
                return
            ended, self._ended, self._submit = self._ended, None, None  # who holds the results holds no executor
            if ended is not None and self._pace.known:
                self._paces.clear()  # of the newest function only
                self._paces[self._fn] = self._pace.seconds
        exits.discard(self)
        if ended is not None:
            ended(self)

    # Taking items, in the thread of whoever asks for results.

    def _take_all(self) -> None:
        count = None if self._source.finite else 1
        while not self._read and self._error is None:
            begin = clock.now()
            self._take(count)
            self._pump()
            count = 2 * count if count and clock.now() - begin < LOOK else 1
        self._pump()

    def _take_some(self) -> None:
        """Take as many items as are wanted now; fewer at once while it is not known how long they take."""
        self._pump()  # there may be room now for more results
        while not self._read and self._error is None:
            with self._changed:
                size = self._wanted(0)
                count = min(size, self._room() - (self._taken - self._next), self._ahead * size - len(self._unsent))
            if count <= 0:
                return
            self._take(count)
            self._pump()
        self._settle()

    def _take(self, count: int | None) -> None:
        if self._source.take(count, self._add, self._fail if self._lazy else None):
            with self._changed:
                self._read = True
                self._changed.notify_all()  # who asks for results may be another thread, which has had them all

    def _fail(self, error: Exception) -> None:
        self._failed = error  # raised in its place, after the results before it

    def _add(self, items: Sequence[Any]) -> None:
        with self._changed:
            if items and not (self._closed or self._error):
                self._unsent.add(self._taken, items)
            self._taken += len(items)

    # Sending: one thread at a time, whichever comes.

    def _pump(self) -> None:
        """Send what is to be sent now. Also called when a batch is done, in whatever thread that happens."""
        mine = threading.get_ident()
        try:
            while True:
                with self._changed:
                    if self._sender is not None:
                        return  # that thread looks again
                    self._sender = mine
                    if (batch := self._cut()) is None:
                        self._sender = None
                        return
                self._send(batch)
                with self._changed:
                    self._sender = None
                    if self._flushing:
                        self._changed.notify_all()
        except BaseException as error:  # of `submit`; or Ctrl-C, which may come between any two steps
            with self._changed:
                sent = self._give_up(error) if self._sender == mine else []
            for batch, future in sent:  # a second one, or the first; not with the lock held, as it may be done
                future.add_done_callback(partial(self._done, batch))
            if not isinstance(error, Exception):
                raise

    def _give_up(self, error: BaseException) -> list[tuple[Batch, Future[Any]]]:
        """Send nothing more, and forget what was not sent; return what was. The lock is held."""
        self._sender = None
        self._stop(error)
        for batch in [batch for batch in self._open if not batch.futures]:
            self._open.discard(batch)
            self._sent.pop(batch.start, None)
        return [(batch, future) for batch in self._open for future in batch.futures]

    def _cut(self) -> Batch | None:
        """Return the next batch, if there is one to be sent. The lock is held."""
        most = self._ahead if self._pace.known or self._size is not None else self._workers
        full = self._window is not None and self._taken - len(self._unsent) - self._next >= self._room()
        wait = len(self._open) >= most or (full and self._next in self._sent)  # until the next result makes room
        if self._closed or not self._unsent or (wait and not self._flushing):
            return None
        batch = self._unsent.cut(self._wanted(len(self._unsent)))
        self._sent[batch.start] = batch
        self._open.add(batch)
        return batch

    def _room(self) -> int:
        """Return how many results there may be that nobody has asked for. The lock is held."""
        return self._window or min(WINDOW * self._workers * self._wanted(0), ITEMS)

    def _wanted(self, left: int) -> int:
        """Return how many items the next batch should have, ``left`` of them waiting. The lock is held."""
        if self._parcels.alone:
            return 1
        if self._size is not None:
            return self._size
        most = None if self._window is None else max(1, (self._window or ITEMS) // self._ahead)
        return self._pace.wanted(left if self._read and left else None, most)

    def _send(self, batch: Batch) -> None:
        """Submit a batch; its first items, where not all of them go into one."""
        parcel = self._parcels.pack(batch.items) if batch.count > 1 else None
        with self._changed:
            self._put_back(batch, parcel.count if parcel else 1)
        batch.alone = batch.count == 1
        if parcel is None or batch.alone:
            task = self._parcels.single(batch.items[0], timed=self._size != 1)
        else:
            task = parcel.task(LIMIT if self._workers > 1 and self._size is None else math.inf)
        batch.futures.extend(itertools.starmap(self._submit, (task,)))  # one step: what is submitted is known
        (future,) = batch.futures
        future.add_done_callback(partial(self._done, batch))
        if self._closed:
            future.cancel()

    def _put_back(self, batch: Batch, count: int) -> None:
        """Put the items of a batch from ``count`` on back to where they came from. The lock is held."""
        if rest := batch.items[count:]:
            batch.items, batch.count = batch.items[:count], count
            if self._closed or self._error:
                self._gone.append(rest)
            else:
                self._unsent.put_back(batch.start + count, rest)

    def _done(self, batch: Batch, future: Future[Any]) -> None:
        """Take note of what became of a batch; in a thread of the executor's."""
        with self._changed:
            if batch not in self._open:
                return  # it was told before
            self._open.discard(batch)
            batch.done = True
            if future.cancelled():
                self._stop(CancelledError())
            elif (error := future.exception()) is not None:
                self._broken |= isinstance(error, BrokenExecutor)
            elif self._size != 1:
                self._learn(batch, future.result())
            self._gone.append(batch.items)
            batch.items = ()
            if self._closed:  # nobody takes it
                self._gone.append(batch.futures)
                batch.futures = []
            if batch.start == self._next or self._window is not None or self._over:
                self._changed.notify_all()
        self._gone.clear()
        self._pump()
        self._settle()

    def _learn(self, batch: Batch, done: worker.Done | worker.Timed) -> None:
        """Take note of how long a batch took, and of what it has left. The lock is held."""
        count = 1 if isinstance(done, worker.Timed) else len(done.results)
        self._pace.learn(done.seconds, count, batch.count)
        if count < batch.count:
            self._put_back(batch, count)

    # Results, in the thread of whoever asks for them.

    def _head(self) -> Batch | None:
        """Wait for the next batch and return it; ``None`` after the last one."""
        while True:
            if self._window is not None:
                self._take_some()
            with self._changed:
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
                if left is not None and left <= 0:
                    raise TimeoutError
                self._changed.wait(left)

    def _leave(self, error: BaseException | None) -> None:
        """Take back what has not begun, after an error; if the results were dropped, where no lock can be held."""
        if not isinstance(error, GeneratorExit):
            self._close()
        elif not self._closed:
            self._closed = True  # nothing more is sent
            self._soon(self._close)  # the collector may have dropped them, in the middle of anything

    def _close(self) -> None:
        """Take back what has not begun."""
        if not self.present():
            return
        with self._changed:
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

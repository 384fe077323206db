"""Sending: the items of a map that were taken, in batches on their way to workers, by one thread at a time."""

from __future__ import annotations

import itertools
import math
import threading
from concurrent.futures import BrokenExecutor, CancelledError, Future
from functools import partial

import unirun.backends.batch as worker
from unirun.maps import exits
from unirun.maps.pace import AHEAD, ITEMS, LIMIT, WINDOW, Pace
from unirun.maps.parcels import Parcels
from unirun.maps.unsent import Unsent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

    from unirun.backends.turns import Heard
    from unirun.maps.parcels import Batch

__all__ = ["Sending"]

#: Functions of which it is remembered how long an item took; which keeps them alive.
_FUNCTIONS: Final = 8


class Sending:
    """What is on its way of one call of ``map``, and what waits for it.

    Args:
        submit: Submits a task to the executor, given its place, the function and the arguments.
        fn: The function.
        spread: Each item is a tuple of arguments.
        workers: How many workers the executor has.
        size: Items in a batch; ``None`` to find it out.
        window: Items at most that were taken from the iterables and whose results were not asked for; 0 for a number
            that fits the batches. ``None``: all are taken at once.
        paces: How long an item of the newest maps took, by function; kept by the executor.
        heard: What the maps of the executor have heard of items that workers have left; kept by it.
        maps: All calls of ``map`` of the executor, in their order; kept by it.
        inline: Tells whether tasks run in ``submit``.
        ended: Called when everything is done or given up, in any thread; once, but again if Ctrl-C came in its course.
    """

    def __init__(
        self,
        submit: Callable[..., Future[Any]],
        fn: Callable[..., Any],
        *,
        spread: bool,
        workers: int,
        size: int | None,
        window: int | None,
        paces: dict[Any, float] | None,
        heard: Heard,
        maps: Sequence[Sending],
        inline: Callable[[], bool],
        ended: Callable[[Any], object] | None,
    ) -> None:
        self._submit: Any = submit
        self._fn: Any = fn
        self._parcels = Parcels(fn, spread)
        self._workers, self._size, self._window = workers, size, window
        self._heard, self._maps, self._inline, self._ended = heard, maps, inline, ended
        #: Whether it still goes on here: not in a forked child, nor at the very end.
        self.present: Callable[[], bool] = exits.presence()
        # Guards all below; notified when the next result is there, when all was sent, and when all is done. Reentrant:
        # a signal handler may submit in the course of anything. To be taken as it is: Ctrl-C may come in the
        # condition's own functions for that.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._gone: list[Any] = []  # to be let go of without the lock: what dies may wait for who waits for it
        self._unsent = Unsent(self._gone)
        self._sent: dict[int, Batch] = {}  # those whose results were not asked for, by the place of the first item
        self._open: set[Batch] = set()  # those of which nothing was heard
        self._taken = self._next = 0  # items that were taken from the iterables; the place of the next result
        self._read = self._short = False  # nothing more will be taken; although there may be more
        self._behind = False  # another map has items that are to be sent first, and looks for this one then
        self._flushing: list[None] = []  # one for each thread that waits until what was taken is sent
        self._closed = self._broken = False  # nobody asks for results; the executor is, or a worker was
        self._dropped_in: int | None = None  # the thread in which the results are dropped, perhaps with locks held
        self._sender: int | None = None  # the thread that sends batches just now; one at a time
        self._error: BaseException | None = None  # why nothing more is sent
        self._paces = paces if paces is not None and worker.by_name(fn) else {}
        self._pace = Pace(workers, self._paces.get(fn) if self._paces else None)

    @property
    def unsent(self) -> int:
        """How many items were taken and not sent."""
        return len(self._unsent)

    def flush(self, wait: bool = True) -> None:
        """Send what was taken, now: what is submitted next comes after it.

        Args:
            wait: For the thread that sends just now, if there is one: which may wait for the executor's own.
        """
        self._flushing.append(None)
        try:
            while True:
                self._pump()
                with self._lock:
                    if not wait or self._closed or self._sender == threading.get_ident():
                        return
                    if not self._unsent and self._sender is None:  # else the last batch may not be submitted yet
                        return
                    self._changed.wait_for(lambda: self._sender is None)
        finally:
            self._flushing.pop()
            self._wake()

    def cancel(self) -> None:
        """Send nothing more. What was sent is the executor's to cancel."""
        self._stop(CancelledError())
        self._settle()

    def _ask(self) -> None:
        """Hear of what is done, where Ctrl-C came as the main thread was told: it will not be told again."""
        with self._lock:
            pending = [(batch, future) for batch in self._open for future in batch.futures]
        for batch, future in pending:
            if future.done():
                self._done(batch, future)

    @property
    def _over(self) -> bool:
        return self._read and not self._unsent and not self._open

    def _unheard(self) -> bool:
        """Tell whether nobody can ask for results any more."""
        return self._closed

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error  # of what is not sent, if there is something
            self._short, self._read = self._short or not self._read, True
            self._empty()
            self._changed.notify_all()

    def _empty(self) -> None:
        """Forget what was not sent. The lock is held."""
        self._gone.append(self._unsent)
        self._unsent = Unsent(self._gone)

    def _settle(self) -> None:
        """Tell the executor if all is done or given up, if it does not know yet; and those that wait for this one."""
        self._gone.clear()
        try:
            self._wake()
        finally:
            self._tell()

    def _wake(self) -> None:
        """Have the maps that come after this one send what they have, if there is nothing of this one to be sent.

        To be called by whoever has sent something: before that it was somebody else's turn.
        """
        if not self._unsent and self._sender is None:
            maps = list(self._maps)
            self._wake_all(maps[maps.index(self) + 1 :] if self in maps else [])

    def _wake_all(self, maps: list[Sending]) -> None:
        """Have maps that come after this one send what they have, each once the one before it has nothing."""
        for later in maps:
            with later._lock:  # it may just be looking at this one
                if not later._behind:
                    if later._sets_order:
                        return  # what comes after it is for it to wake
                    continue
                if self._dropped_in == threading.get_ident():
                    later._changed.notify_all()  # who asks for its results has them sent
                    return
            later._pump()
            later._tell()
            if later._behind:
                return  # and so are those that come after it

    def _tell(self) -> None:
        ended = None
        try:
            with self._lock:
                if not self._over:
                    return
                ended, self._ended, self._submit = self._ended, None, None  # who holds the results holds no executor
                maps, self._maps = self._maps, ()
                earlier = list(itertools.takewhile(lambda each: each is not self, list(maps)))
                if ended is not None and self._pace.known:
                    self._paces.pop(self._fn, None)
                    self._paces[self._fn] = self._pace.average
                    for old in list(self._paces)[:-_FUNCTIONS]:  # other maps may be here too: single steps
                        self._paces.pop(old, None)
            exits.discard(self)
            if ended is not None:
                ended(self)
                # The sender is still to do so, if there is one, and knows of none any more.
                self._wake_all([each for each in list(maps) if each not in earlier])
        except BaseException:  # Ctrl-C: the executor is still to be told, by the next one here
            self._ended = self._ended or ended
            raise

    def _pump(self) -> None:
        """Send what is to be sent now. Also called when a batch is done, in whatever thread that happens."""
        mine = threading.get_ident()
        try:
            while True:
                with self._lock:
                    if self._sender is not None:
                        return  # that thread looks again
                    self._sender = mine
                    if (batch := self._cut()) is None:
                        self._sender = None
                        return
                self._send(batch)
                with self._lock:
                    self._sender = None
                    if self._flushing:
                        self._changed.notify_all()
        except BaseException as error:  # of `submit`; or Ctrl-C, which may come between any two steps
            try:
                sent = self._give_up(error)
            except BaseException:  # a second one, which must not leave this thread the sender for ever
                self._give_up(error)
                raise
            for batch, future in sent:  # a second one, or the first; not with the lock held, as it may be done
                future.add_done_callback(partial(self._done, batch))
            if not isinstance(error, Exception):
                raise

    def _give_up(self, error: BaseException) -> list[tuple[Batch, Future[Any]]]:
        """Send nothing more, and forget what was not sent; return what was. Of the sender only."""
        with self._lock:
            if self._sender != threading.get_ident():
                return []
            for batch in [batch for batch in self._open if not batch.futures]:
                self._sent.pop(batch.start, None)
                self._open.discard(batch)
            self._stop(error)
            sent = [(batch, future) for batch in self._open for future in batch.futures]
            self._sender = None
        return sent

    def _cut(self) -> Batch | None:
        """Return the next batch, if there is one to be sent. The lock is held."""
        news = self._heard.news  # first: what was left is back in its map then, where it is looked for below
        most = self._ahead() if self._pace.known or self._size is not None else self._workers
        full = self._window is not None and self._taken - len(self._unsent) - self._next >= self._room()
        wait = len(self._open) >= most or (full and self._next in self._sent)  # until the next result makes room
        nothing = self._closed or not self._unsent
        self._behind = not nothing and self._comes_later()
        if nothing or ((wait or self._behind) and not self._flushing):
            return None
        batch = self._unsent.cut(self._wanted(len(self._unsent)), news)
        self._open.add(batch)  # first: what is in here and has no future is given up after Ctrl-C
        self._sent[batch.start] = batch
        return batch

    def _comes_later(self) -> bool:
        """Tell whether there is something to be sent of a map before this one, as if all had been at the call.

        The last of those is asked, which has waited for the others; without its lock, as the collector may drop the
        results of any map, in the middle of anything. None is whose iterables are still being read, by another thread
        or by this one, which may wait for what this one maps; nor where tasks run at the call, in the middle of which
        another thread may be.
        """
        maps = list(self._maps)
        for each in reversed(maps[: maps.index(self)] if self in maps else []):
            if each._sets_order:
                return each._waits() and not self._inline()
        return False

    @property
    def _sets_order(self) -> bool:
        """Whether those after it come after it. It has to ``_settle`` when that has begun."""
        return self._window is None and self._read and self.present()

    def _waits(self) -> bool:
        """Tell whether something is to be sent, or just being sent, by another thread than this one."""
        some = self._unsent or self._sender is not None or self._unsent  # of which a part may have come back meanwhile
        return bool(some) and self._sender != threading.get_ident()

    def _ahead(self) -> int:
        """Return how many batches may be on their way. The lock is held."""
        return self._workers * (AHEAD if self._size is None else self._pace.ahead(self._size))

    def _room(self) -> int:
        """Return how many results there may be that nobody has asked for. The lock is held."""
        return self._window or min(WINDOW * self._workers * self._wanted(0), ITEMS)

    def _wanted(self, left: int) -> int:
        """Return how many items the next batch should have, ``left`` of them waiting. The lock is held."""
        if self._parcels.alone:
            return 1
        if self._size is not None:
            return self._size
        most = None if self._window is None else max(1, (self._window or ITEMS) // self._ahead())
        # While others are taken, what is here is shared out all the same: it may be all.
        return self._pace.wanted(left if left and (self._read or self._window is None) else None, most)

    def _send(self, batch: Batch) -> None:
        """Submit a batch; its first items, where not all of them go into one."""
        turn = place, _ = (batch.number, batch.start), batch.news
        parcel = self._parcels.pack(batch.items) if batch.count > 1 else None
        with self._lock:
            self._put_back(batch, parcel.count if parcel else 1)
        batch.alone = batch.count == 1
        if parcel is None or batch.alone:
            task = self._parcels.single(batch.items[0], *(() if self._size == 1 else turn))
        else:
            limit = LIMIT if self._workers > 1 and self._size is None else math.inf
            task = parcel.task(limit, *turn)
        batch.futures.extend(itertools.starmap(self._submit, ((place, *task),)))  # one step: what is submitted is known
        for future in list(batch.futures):  # or it is done, `_ask` has found that, and its result is taken
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
                self._unsent.put_back(batch.number, batch.start + count, rest)

    def _done(self, batch: Batch, future: Future[Any]) -> None:
        """Hear that a batch is done; in a thread of the executor's, or in that of who cancels it."""
        try:
            self._note(batch, future)
        except BaseException:  # Ctrl-C in the latter, which is not told again
            self._note(batch, future)
            raise
        self._gone.clear()
        self._pump()
        self._settle()

    def _note(self, batch: Batch, future: Future[Any]) -> None:
        """Take note of what became of a batch; once, however often it is called."""
        with self._lock:
            if batch not in self._open:
                return
            if future.cancelled():
                self._stop(CancelledError())
            elif (error := future.exception()) is not None:
                self._broken |= isinstance(error, BrokenExecutor)
            elif self._size != 1:
                self._learn(batch, future.result())
            self._gone.append(batch.items)
            batch.items = ()
            if self._unheard():
                self._gone.append(batch.futures)
                batch.futures = []
            batch.done = True
            self._open.discard(batch)
            if batch.start == self._next or self._window is not None or self._over:
                self._changed.notify_all()

    def _learn(self, batch: Batch, done: worker.Done | worker.Timed) -> None:
        """Take note of how long a batch took, and of what it has left. The lock is held."""
        if isinstance(done, worker.Timed):
            self._pace.learn(done.seconds, 1, 1)
            return
        if count := len(done.results):
            self._pace.learn(done.seconds, count, batch.count)
        else:
            self._sent.pop(batch.start, None)  # where they will be again
            self._gone.append(batch.futures)  # which hold this batch
            batch.futures = []
        if done.left is not None:
            self._put_back(batch, count)
            self._heard.hear(done.left)

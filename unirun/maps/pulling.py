"""Pulling: the items of one call of ``map`` over threads, each of which takes the next item when it has done one.

Threads share all they have, so an item may wait for a later one. In a batch it could wait for ever for what is behind
it; here it cannot, and yet there is one task for each thread, and not one for each item.

Nor do items wait for ever that call ``map`` themselves, over the same threads: who waits in one of these threads does
items of what it waits for. These may do so too; each waits only for what has come out of its own item.

Threads: those of the pool. One that has pulled for ``_TURN`` seconds stands in line again, behind what others have
submitted. None goes on after ``reset``.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from concurrent.futures import CancelledError
from functools import partial

from unirun import clock
from unirun.maps import exits
from unirun.maps.pace import LOOK, at_once
from unirun.maps.results import Popping, Results
from unirun.maps.source import inert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any, Final

__all__ = ["Pulling"]

#: Seconds after which a thread begins no further item before it has stood in line again.
_TURN: Final = 0.01
#: Items for each thread that are taken from the iterables and whose results were not asked for: so many that the others
#: go on while the first one takes longer than most. Of short items as many as take so many seconds, but not more than
#: some 30 MB of numbers.
_WINDOW: Final = 8
_WORK: Final = 0.016
_ITEMS: Final = 1 << 16
#: ``pulls`` is whether this thread does items just now.
_here = threading.local()
#: Items after which the time that they take is judged by newer ones only.
_NEWEST: Final = 256


class Pulling:
    """One call of ``map``.

    Args:
        submit: Submits a task to the pool.
        fn: The function.
        iterables: What to call it with.
        workers: How many threads the pool has.
        window: Items at most that were taken from the iterables and whose results were not asked for; 0 for a number
            that fits what they take.
        timeout: Seconds from now until the last result may be asked for; ``None`` for no limit.
        ended: Whether ``reset`` was called since.
    """

    def __init__(
        self,
        submit: Callable[[Callable[[], None]], Future[None]],
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        workers: int,
        window: int,
        timeout: float | None,
        ended: Callable[[], bool],
    ) -> None:
        self._submit = submit
        self._fn = fn
        self._source: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        self._inert = inert(iterables)
        self._workers = workers
        self._window = window
        self._end = None if timeout is None else clock.now() + timeout
        self._was_reset = ended
        self._present = exits.presence()
        # Guards all below; notified when the next result is there, or none will come. Reentrant: a pool without threads
        # runs its tasks in `submit`. To be taken as it is: Ctrl-C may come in the condition's own functions for that.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._items: deque[tuple[int, tuple[Any, ...]]] = deque()  # taken and not begun
        self._done: dict[int, tuple[Any, BaseException | None]] = {}  # results, and errors, by their places
        self._next = 0  # the place of the next result
        self._taken = 0  # items that were taken from the iterables
        self._pullers = self._coming = 0  # tasks that were submitted and have not ended; those that have not begun
        self._seconds = (0.0, 0)  # what the newest items took in all, and how many they are
        self._error: BaseException | None = None  # why nothing more is begun
        self._failed: Exception | None = None  # what the iterables raised
        self._read = False  # nothing more will be taken
        self._closed = False  # nobody will ask for results
        self._grab = 1  # items to take at once
        self._paused = 0.0  # seconds in which tasks were submitted in the course of that
        self._starter: int | None = None  # the thread that submits tasks just now; one at a time

    def begin(self) -> Iterator[Any]:
        """Begin with the first items, and return an iterator over the results.

        Raises:
            Exception: What ``submit`` raises.
        """
        try:
            self._take()
            if self._error is not None:
                raise self._error
        except BaseException:
            self._close()
            raise
        return Results.of(self._results(), self._close)

    # In the thread of whoever asks for results.

    def _results(self) -> Iterator[Iterator[Any]]:
        """Iterate over iterators over results that are there."""
        newest: Popping | None = None
        try:
            while True:
                ready, error = self._await()
                if some := len(ready):
                    ready.reverse()
                    newest = Popping.of(ready)
                    yield newest
                if error is not None:
                    try:
                        raise error
                    finally:
                        del error  # its traceback holds this frame
                if not some:
                    return
                self._take()
        finally:
            if newest is not None:
                newest.close()
            self._close()

    def _close(self) -> None:
        if not self._present():
            return
        with self._lock:
            self._closed = True
            # Tracebacks hold frames that hold this map. Gone after the lock is released: what dies may wait for it.
            gone, self._done, self._error, self._failed = self._done, {}, None, None
            dropped = self._stop(CancelledError())
        del gone, dropped

    def _await(self) -> tuple[list[Any], BaseException | None]:
        """Return the next results, and the error that comes after them; at the end neither."""
        while (found := self._look()) is None:
            with self._lock:
                jobs = [self._items.popleft()] if self._items else []
            if jobs:
                self._do(jobs, clock.now(), -math.inf)
        return found

    def _look(self) -> tuple[list[Any], BaseException | None] | None:
        """Wait for the next results, and return them; ``None`` if there is an item to be done here."""
        ready: list[Any] = []
        with self._lock:
            while self._next not in self._done:
                if self._error is None and self._was_reset():
                    dropped = self._stop(CancelledError())  # noqa: F841 - let go of without the lock
                if self._read and self._next == self._taken:
                    return ready, self._failed
                if self._error is not None and not self._pullers:
                    return ready, self._error
                left = None if self._end is None else self._end - clock.now()
                if left is not None and left <= 0:
                    raise TimeoutError
                if self._items and getattr(_here, "pulls", False):
                    return None
                self._changed.wait(left)
            most = max(1, self._room() // _WINDOW)  # not all of them, or the threads would have nothing to do meanwhile
            while self._next in self._done and len(ready) < most:
                value, error = self._done.pop(self._next)
                self._next += 1
                if error is not None:
                    return ready, error
                ready.append(value)
        return ready, None

    def _take(self) -> None:
        """Take as many items as are wanted now, few at once where that takes long."""
        while not self._read and self._error is None:
            with self._lock:
                count = min(self._grab, self._room() - (self._taken - self._next))
            if count <= 0:
                return
            begin, self._paused = clock.now(), 0.0
            wanted = self._taken + count
            try:
                ended = self._add(itertools.islice(self._source, count)) and self._taken < wanted
            except Exception as error:  # raised in its place, after the results before it
                self._failed, ended = error, True
            seconds = clock.now() - begin - self._paused
            self._grab = at_once(count, seconds)
            with self._lock:
                self._read = ended
                enough = seconds >= LOOK and self._next in self._done
            self._start()
            if enough:
                return

    def _add(self, items: Iterator[tuple[Any, ...]]) -> bool:
        """Take items and let them be done; each at once where code of the program's runs for the next one.

        That may wait for what the others do.

        Returns:
            Whether all of them were taken, and not only some, as nothing more is begun.
        """
        if self._inert:
            taken = list(items)
            with self._lock:
                self._items.extend(enumerate(taken, self._taken))
                self._taken += len(taken)
            return True
        for place, item in enumerate(items, self._taken):
            # Without the lock, which is for those who take them out, and for `_stop`: what comes later is not begun.
            self._items.append((place, item))
            self._taken = place + 1
            if self._pullers < self._workers:
                begin = clock.now()
                self._start()
                self._paused += clock.now() - begin
            if self._error is not None:
                return False
        return True

    def _room(self) -> int:
        """Return how many items may be taken and not be results yet. The lock is held."""
        seconds, count = self._seconds
        most = min(int(_WORK * count / seconds), _ITEMS // self._workers) if seconds else 0
        return self._window or self._workers * max(_WINDOW, most)

    # In any thread.

    def _start(self) -> None:
        """Submit as many tasks as can have an item. One thread at a time, which looks again before it leaves."""
        with self._lock:
            if self._starter is not None:
                return
            self._starter = threading.get_ident()
        while True:
            with self._lock:
                reset = self._was_reset()
                enough = self._pullers >= self._workers or self._coming >= len(self._items)
                if enough or reset or self._error is not None:
                    self._starter = None
                    dropped = self._stop(CancelledError()) if reset else None  # noqa: F841 - let go of without the lock
                    return
                self._pullers += 1
                self._coming += 1
            begun: list[bool] = []
            try:
                future = self._submit(partial(self._pull, begun))
                future.add_done_callback(partial(self._ended, begun))
            except BaseException as error:
                with self._lock:
                    self._starter = None
                self._count_out(begun, error)
                if not isinstance(error, Exception):
                    raise
                return

    def _stop(self, error: BaseException) -> object:
        """Begin nothing more. The lock is held, and what is returned is to be let go of when it is not."""
        self._error = self._error or error
        dropped, self._items = self._items, deque()
        self._changed.notify_all()
        return dropped

    def _ended(self, begun: list[bool], future: Future[None]) -> None:
        """One of the tasks has ended, or was cancelled, or could not be run."""
        self._count_out(begun, CancelledError() if future.cancelled() else future.exception())
        self._start()

    def _count_out(self, begun: list[bool], error: BaseException | None) -> None:
        with self._lock:
            self._pullers -= 1
            self._coming -= not begun
            dropped = None if error is None else self._stop(error)
            self._changed.notify_all()
        del dropped

    # In a thread of the pool's.

    def _pull(self, begun: list[bool]) -> None:
        """Be a task: do one item after the other.

        Raises:
            KeyboardInterrupt: Ctrl-C, in a pool without threads.
        """
        outer, _here.pulls = getattr(_here, "pulls", False), True
        try:
            begin = clock.now()
            end = begin + _TURN
            with self._lock:
                begun.append(True)
                self._coming -= 1
                dropped = self._stop(CancelledError()) if self._was_reset() else None  # since this was submitted
                jobs = [self._items.popleft()] if self._items and self._error is None else []
            del dropped
            while jobs:
                begin = self._do(jobs, begin, end)
        finally:
            _here.pulls = outer

    def _do(self, jobs: list[tuple[int, tuple[Any, ...]]], begin: float, end: float) -> float:
        """Do the item that is in a list, and put the next one into it, before the time ``end``. Return the time.

        Raises:
            KeyboardInterrupt: Ctrl-C, in a pool without threads.
        """
        place, arguments = jobs.pop()
        try:
            done: tuple[Any, BaseException | None] = self._fn(*arguments), None
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and self._starter == threading.get_ident():
                raise
            done = None, error
        arguments = ()
        now = clock.now()
        with self._lock:
            if not self._closed:
                self._done[place] = done
            if place == self._next:
                self._changed.notify()
            seconds, count = self._seconds if self._seconds[1] < _NEWEST else (0.0, 0)
            self._seconds = seconds + now - begin, count + 1
            dropped = self._stop(CancelledError()) if self._was_reset() else None
            if self._items and now < end and self._error is None:
                jobs.append(self._items.popleft())
        del done, dropped  # not with the lock; and the traceback of an error holds this frame
        return now

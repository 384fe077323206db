"""Warm pools over pipes: kept from one scope to the next, and lent to one at a time.

Guarantees:
    Whoever borrows a pool has it alone, and finds it as good as new: no task of another's and no callback of one,
    nothing closed or broken, no worker lost, and nothing that new workers would see differently (see ``fresh``).
    Whoever has given it back cannot reach it any more: neither its queue nor its workers.
    A pool that nobody borrows for ``IDLE_SECONDS`` ends, and so does the one that has waited longest where there are
    many; all end with ``clear``, and at the exit. A forked child has none.

Does not promise:
    That a module's globals are as they were before another scope's tasks ran.
    To know of a worker that somebody has killed by its id just before the pool was given back, and that is still dying.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import process
from typing import Any, Final

from unirun import clock
from unirun.backends.chunks import ChunkingExecutor
from unirun.backends.pipes.exits import ending, unlist
from unirun.backends.pipes.memo import Memo
from unirun.backends.pipes.pool import Pending, PipePool
from unirun.fresh import Birth
from unirun.refusal import NO_ROOM, Failure, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun.backends.turns import Place

__all__ = ["IDLE_SECONDS", "Loan", "borrow", "clear"]

_Key = tuple[Any, ...]

#: Seconds after which a pool that nobody borrows is ended: as those of ``leases``.
IDLE_SECONDS: Final = 60.0
#: Pools of the same kind that wait for a borrower: scopes that were open at once.
_MOST: Final = 2
#: Pools of all kinds: a program may ask for another one each time, by the seconds that it has left for a task.
_IN_ALL: Final = 8
#: Descriptors that a worker costs this process at most, and a pool besides.
_OF_A_WORKER: Final = 5
_OF_A_POOL: Final = 4


class _Kept:
    """A pool that waits for a borrower."""

    def __init__(self, key: _Key, pool: PipePool, birth: Birth) -> None:
        self.key = key
        self.pool = pool
        self.birth = birth
        self.since = clock.now()


# Guards all below, and is held for a few steps only; notified when the reaper has to look again.
_lock = threading.RLock()  # to be taken as it is: Ctrl-C may come in the condition's own functions for that
_changed = threading.Condition(_lock)
_shelf: list[_Kept] = []  # a few; the one that has waited longest is the first
# Ends idle pools. A daemon, so that the exit does not wait for it; it ends by itself when no pool is left.
_reaper: threading.Thread | None = None
# How often `clear` was called: a pool that was lent before it is not kept after it.
_clearings = 0


def borrow(key: _Key, make: Callable[[], PipePool]) -> Loan:
    """Return a warm pool, or a new one.

    Args:
        key: What pools have to have in common: first the start method.
        make: Opens a new one.

    Raises:
        Refused: As ``make`` does.
    """
    while True:
        with _lock:
            # The last one first: the others may become idle.
            kept = next((each for each in reversed(_shelf) if each.key == key), None)
            if kept is not None and not _take([kept]):
                continue
            clearings = _clearings
        if kept is None:
            birth = Birth(key[0])  # before
            return Loan(key, _opened(make), birth, clearings)
        process._children.update(kept.pool.processes.copy().values())  # type: ignore[attr-defined]
        if kept.pool.usable and not kept.birth.is_over():
            return Loan(key, kept.pool, kept.birth, clearings)
        kept.pool.shutdown(wait=False)


def _opened(make: Callable[[], PipePool]) -> PipePool:
    """Open a pool; if there is no room for all of its workers, once more without the pools that nobody has borrowed."""
    try:
        pool = make()
    except Refused as refused:
        if getattr(refused.error, "errno", None) not in NO_ROOM or not _end_idle():
            raise
        return make()
    if pool.short is None or pool.short.errno not in NO_ROOM or not _end_idle():
        return pool
    pool.shutdown(wait=True)
    return make()


def clear() -> None:
    """End the pools that nobody has borrowed, and wait for their end. Those that are lent end when they come back."""
    global _clearings
    with _lock:
        _clearings += 1
    _end_idle()


def _end_idle() -> bool:
    """End the pools that nobody has borrowed, and wait for their end; return whether there were any."""
    with _lock:
        pools = [kept.pool for kept in _shelf]
        _shelf.clear()
        _changed.notify_all()
    for pool in pools:
        pool.shutdown(wait=False)
    for pool in pools:
        pool.shutdown(wait=True)
    return bool(pools)


def _give_back(key: _Key, pool: PipePool, birth: Birth, clearings: int) -> bool:
    """Keep a pool that has nothing to do, or let it end; return whether it is kept."""
    with _lock:
        same = sum(kept.key == key for kept in _shelf)
        keep = pool.usable and clearings == _clearings and same < _MOST and not ending() and _ensure_reaper()
        if keep:
            unlist(pool.processes.copy().values())
            _shelf.append(_Kept(key, pool, birth))
        ended = _take_surplus() if keep else [pool]
    for each in ended:
        each.shutdown(wait=False)
    return keep


def _take_surplus() -> list[PipePool]:
    """Take the pools off the shelf that have waited longest, where there are too many. The lock is held."""
    surplus, room = _shelf[:-_IN_ALL], _room()
    for each in reversed(_shelf[-_IN_ALL:]):
        room -= _OF_A_POOL + _OF_A_WORKER * len(each.pool.processes)
        if room < 0 and each is not _shelf[-1]:
            surplus.append(each)
    return [kept.pool for kept in _take(surplus)]


def _take(pools: list[_Kept]) -> list[_Kept]:
    """Take some pools off the shelf; return those that a signal handler has not taken meanwhile. The lock is held."""
    taken = []
    for each in pools:
        try:
            _shelf.remove(each)
            taken.append(each)
        except ValueError:
            pass
    return taken


def _room() -> int:
    """Return how many descriptors idle pools may have: a quarter of what this process may. macOS allows 256."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):  # some distributions have it apart; a sandbox forbids the question
        return sys.maxsize
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit // 4


def _ensure_reaper() -> bool:
    """Return whether there is somebody to end idle pools. The lock is held."""
    global _reaper
    if _reaper is None:
        reaper = threading.Thread(target=_reap, name="unirun-shelf", daemon=True)
        try:
            reaper.start()
        except RuntimeError:
            return False  # no threads here, or the interpreter ends
        _reaper = reaper
    return True


def _reap() -> None:
    global _reaper
    while True:
        with _lock:
            now = clock.now()
            idle = _take([kept for kept in _shelf if now - kept.since >= IDLE_SECONDS])
            empty = not _shelf
            if empty:
                _reaper = None
            elif not idle:
                _changed.wait(_shelf[0].since + IDLE_SECONDS - now)
        for kept in idle:
            kept.pool.shutdown(wait=False)  # as in `leases`
        if empty:
            return


class Loan(ChunkingExecutor):
    """A pool as its borrower sees it: an executor with its own tasks and its own end."""

    def __init__(self, key: _Key, pool: PipePool, birth: Birth, clearings: int) -> None:
        self._key = key
        self._pool = pool
        self._birth = birth
        self._clearings = clearings
        #: The tasks that are not done: a view that follows what happens, empty after the end.
        self.pending: Pending = pool.pending
        self._processes = pool.processes  # the next borrower's pool has a table of its own
        # Guards the next three, and the pool against words of a borrower that it does not have any more. Reentrant: a
        # signal handler may submit, or shut down.
        self._lock = threading.RLock()
        # One token for each submit that has begun, which is to be in the queue before the pool is given back; and its
        # thread.
        self._submitting: dict[object, int] = {}
        self._closed = False
        self._returned = False  # the pool is another one's, or nobody's
        self._short: Failure | None = None
        self._kept = False
        self._over = threading.Event()  # set when the two above are final

    @property
    def short(self) -> Failure | None:
        """Why fewer workers than asked for could be started, or ``None``."""
        return self._short if self._over.is_set() else self._pool.short

    @property
    def processes(self) -> dict[int, Any]:
        """The worker processes that live, by their ids: a table that follows what happens, empty after the end."""
        return self._processes

    @property
    def broken(self) -> str | None:
        """Why it takes no more tasks, where that is not the end that its borrower gave it."""
        return None if self._kept else self._pool.broken

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._submit(self._pool.submit, fn, *args, **kwargs)

    def submit_sharing(self, memo: Memo, place: Place, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Submit a task that may share large buffers with others of the same ``memo``: each object is sent once."""
        return self._submit(self._pool.submit_sharing, memo, place, fn, *args)

    def _submit(self, submit: Callable[..., Future[Any]], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._pool.foreign:  # which it says; here another thread of the parent's may have held the lock
            return submit(*args, **kwargs)
        token = object()
        try:
            with self._lock:
                if self._closed:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                self._submitting[token] = threading.get_ident()
            return submit(*args, **kwargs)
        finally:
            try:
                self._leave(token)
            except BaseException:  # Ctrl-C, which must not keep the pool for ever
                self._leave(token)
                raise

    def _leave(self, token: object = None) -> None:
        """Have the pool given back if nothing is submitted any more; may be called at any time, and again."""
        with self._lock:
            self._submitting.pop(token, None)
            if self._closed and not self._submitting and not self._returned:
                self._pool.vacate(self._return)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; give the pool back when those submitted are done."""
        if self._pool.foreign:
            return
        with self._lock:
            self._closed = True
            inside = threading.get_ident() in self._submitting.values()  # the handler of a signal that came in a submit
            if cancel_futures and not self._returned:
                self._pool.cancel()
        self._leave()
        if wait and not inside and not self.served_by(threading.current_thread()):
            self._over.wait()
            if not self._kept:
                self._pool.shutdown(wait=True)

    def soon(self, step: Callable[[], object]) -> None:
        """Have something done in the pool's own thread, by who may hold any lock; in this one if that has ended."""
        self._pool.soon(step)

    def served_by(self, thread: threading.Thread) -> bool:
        """Tell whether a thread is the one that serves this pool."""
        return self._pool.served_by(thread)

    def retire(self) -> None:
        """Let nobody else have the pool."""
        self._clearings = -1

    def terminate_workers(self) -> None:
        """Shut the pool itself down, and terminate its workers."""
        self._end(self._pool.terminate_workers)

    def kill_workers(self) -> None:
        """Shut the pool itself down, and kill its workers."""
        self._end(self._pool.kill_workers)

    def interrupt(self) -> None:
        """Shut the pool itself down after a Ctrl-C."""
        self._end(self._pool.interrupt)

    def _end(self, how: Callable[[], None]) -> None:
        if self._pool.foreign:
            return
        with self._lock:
            if not self._returned:
                how()
        self.shutdown(wait=False)

    def _return(self) -> None:
        with self._lock:
            if self._returned:
                return  # it was asked for more than once
            self._returned = True
        try:
            self._short = self._pool.short
            self.pending.close()
            self._pool.renew()
            self._kept = _give_back(self._key, self._pool, self._birth, self._clearings)
        finally:
            self._over.set()  # whoever waits ends a pool that was not kept


def _forget_in_child() -> None:
    global _lock, _changed, _shelf, _reaper
    _inherited.append(_shelf)  # collecting them would write into the pipes that the parent reads
    _lock = threading.RLock()
    _changed, _shelf, _reaper = threading.Condition(_lock), [], None


_inherited: list[list[_Kept]] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

"""Warm pools: kept for the calls that open none of their own, and ended by reset(), by idleness and at exit.

Guarantees:
    One pool for each flavor and settings, however many threads ask at once. A pool in use is never ended as idle.
    A broken pool is replaced, and so is, after a while, one that came down for want of something that comes and goes.
    A forked child starts with none: its parent's pools are its parent's.

Does not promise:
    That a forked worker sees a global that the program changed since the pool started. ``reset`` starts anew; and an
    idle pool is replaced where the main module has defined something since. Others import modules by themselves: when
    one has changed, or the environment, an idle pool is replaced (see ``fresh``).
"""

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any, Final

from unirun import clock, host, trace
from unirun import config as settings
from unirun.backends.ready import Next, nothing
from unirun.caller import Site
from unirun.errors import DowngradeError
from unirun.fresh import Birth, ForkedBirth
from unirun.ladder import Plan, Request
from unirun.managed import ManagedExecutor, starts_slowly
from unirun.offloop import give_up, off_loop
from unirun.opening import Opening
from unirun.pools import open_pool
from unirun.refusal import passing
from unirun.trace import PROCESSES

__all__ = ["cached", "find", "reset", "resets", "start", "submit", "submitter"]

#: Seconds after its last task at which a cached pool is shut down. Long enough for a program that computes in
#: bursts, short enough to give the memory of forgotten workers back.
IDLE_SECONDS: Final = 60.0

#: Idle pools at most: a program may have other settings for each call, as the seconds that it has left for a task.
_IDLE_POOLS: Final = 8
#: Seconds after which those beyond that are shut down: what has a task every now and then, as a map has, is not idle.
_SURPLUS_SECONDS: Final = 1.0

#: Seconds for which a cached pool is asked only about its surroundings, and not about files: those take some 0.1 ms, as
#: long as a task that is waited for. Tasks one after the other would take twice as long; this adds one per cent.
FILES_SECONDS: Final = 0.01

#: Seconds after which a pool is tried anew that came down the ladder for want of something that others give back.
RETRY_SECONDS: Final = 60.0

#: Pools that may end, one after the other, before they have taken a task: a listener that hears of each may reset.
_POOLS: Final = 10

_Key = tuple[str, settings.RuntimeConfig]


class _Lease:
    def __init__(self, pool: ManagedExecutor, birth: Birth | ForkedBirth | None) -> None:
        self.pool = pool
        self.users = 0
        # Of those users that have one, until its callback; the newest, which is done last, is the last one. No set: one
        # that was large once takes long to go through for ever.
        self.futures: OrderedDict[Future[Any], None] = OrderedDict()
        self.starting: Future[Any] | None = None
        self.idle_since = self.checked = self.tried = clock.now()
        self.birth = birth  # of worker processes


# Guards _leases, _broken, _resets, the counts in them and _reaper; notified when the reaper has to look again.
_lock = threading.RLock()  # to be taken as it is: Ctrl-C may come in the condition's own functions for that
_changed = threading.Condition(_lock)
_leases: dict[_Key | object, _Lease] = {}  # one that `_find` has left is under a key that nobody asks for
# Pools that their own threads would have to end, and cannot: for the reaper.
_broken: list[ManagedExecutor] = []
_resets = 0
# Ends idle pools. A daemon, so that the exit does not wait for it; it ends by itself when no pool is left.
_reaper: threading.Thread | None = None


def submit(
    flavor: str, origin: str, site: Site | None, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    """Submit a task to the cached pool of ``flavor`` under the settings in force, opening it if there is none.

    Args:
        flavor: One of ``FLAVORS``.
        origin: The public function that was called.
        site: The user's own line, for the warning that a pool opened now may have to give.
        fn: The task.
        *args: Its arguments.
        **kwargs: Its keyword arguments.
    """
    return _submit(flavor, origin, site, settings.resolve(), fn, args, kwargs)


def submitter(flavor: str, origin: str, site: Site | None) -> Callable[[Callable[[], Any]], Future[Any]]:
    """Return a function that submits to the cached pool of the settings in force now, whatever they are later."""
    config = settings.resolve()
    return lambda fn: _submit(flavor, origin, site, config, fn, (), {})


def resets() -> int:
    """Return how often ``reset`` was called."""
    return _resets


def _submit(
    flavor: str, origin: str, site: Site | None, config: settings.RuntimeConfig, fn: Any, args: Any, kwargs: Any
) -> Future[Any]:
    left = _POOLS
    while True:
        lease: list[_Lease] = []
        try:
            entry = _find(flavor, origin, site, config, lease)
            if (broken := entry.pool._unirun_own_error()) is not None:
                raise broken  # and is not asked: this may be its own thread
            future = entry.pool.submit(fn, *args, **kwargs)
        except BaseException as error:
            if not lease:
                raise  # it could not be opened
            (entry,) = lease
            _give_back(lease)
            if not isinstance(error, BrokenExecutor if not entry.pool._unirun_closed else Exception):
                if isinstance(error, DowngradeError):  # what it was refused may be granted to the next one
                    _drop((flavor, config), entry)
                raise
            # An earlier task crashed it, or reset() came between. It took nothing of this task, which goes to a new
            # one.
            _drop((flavor, config), entry)
            left -= 1
            if not left:
                raise
            continue
        try:
            with _lock:
                entry.futures[future] = None
            future.add_done_callback(partial(_give_back, lease))
        except BaseException:  # Ctrl-C, after which the pool must not be in use for ever
            future.add_done_callback(partial(_give_back, lease))
            raise
        return future


def find(flavor: str, origin: str, site: Site | None) -> ManagedExecutor:
    """Return the cached pool of ``flavor`` under the settings in force, opening it if there is none.

    For questions about it. It may be ended at any time by whoever has leased it: tasks go through ``submit``.
    """
    return _find(flavor, origin, site, settings.resolve()).pool


def start(flavor: str, origin: str, site: Site | None, task: Callable[[], Any]) -> Future[Any] | None:
    """Start the cached pool of ``flavor`` on a thread of its own, one for all who ask, if starting it takes long.

    Args:
        flavor: One of ``FLAVORS``.
        origin: The public function that was called.
        site: The user's own line, for the warning that the pool may have to give.
        task: What is to be submitted, on which it may depend which rung can serve.

    Returns:
        A future that is done when the pool is up, or could not be started: then ``submit`` says why. ``None`` where
        there is nothing to wait for.
    """
    entry = _find(flavor, origin, site, settings.resolve())
    if not starts_slowly(entry.pool):
        return None
    mine: Future[Any] = Future()
    try:
        with _lock:
            starting = entry.starting = entry.starting or mine
        if starting is mine:  # not with the lock held: where there are no threads, it is done here
            off_loop(partial(entry.pool.submit, nothing, Next(task)), mine)
    except BaseException:  # Ctrl-C, perhaps before there was a thread: whoever waits for it submits now
        with _lock:
            if entry.starting is mine:
                entry.starting = None
        give_up(mine)
        raise
    return starting


def reset() -> None:
    """Shut the cached pools down and forget what was probed and decided.

    Tasks that have not started are cancelled; running ones are waited for. What ``configure`` set stays. For the time
    between two tests, and for a program whose host has changed under it.
    """
    global _resets
    with _lock:
        _resets += 1
        entries, broken = list(_leases.values()), _broken.copy()
        # Single steps: the handler of a signal may submit. None of broken pools: those fail, and before 3.11.5 one that
        # is cancelled meanwhile ends the thread that fails them; see gh-107219.
        futures = [list(entry.futures) for entry in entries if not entry.pool._unirun_why_broken()]
        _leases.clear()
        _broken.clear()
        _changed.notify_all()
    try:
        with ExitStack() as stack:  # each of them, also when one fails, as it does inside of a task of its own
            for pool in (*broken, *(entry.pool for entry in entries)):
                if threading.current_thread() is getattr(pool, "_executor_manager_thread", None):
                    _leave(pool)  # it would wait for itself
                else:
                    stack.callback(partial(pool.shutdown, cancel_futures=True))
            for future in chain.from_iterable(futures):  # before any pool is waited for, and the last task first
                stack.callback(future.cancel)
            if "unirun.backends.pipes.shelf" in sys.modules:  # else there are none
                from unirun.backends.pipes import shelf

                stack.callback(shelf.clear)
    finally:
        host.forget()
        trace.remember(None)


def cached() -> int:
    """Return how many pools are cached now."""
    return len(_leases)


def _find(
    flavor: str, origin: str, site: Site | None, config: settings.RuntimeConfig, lease: list[_Lease] | None = None
) -> _Lease:
    """Return the cached pool, a new one if there is none; with ``lease``, which is given it as well, it is in use.

    Whatever may run code of the user's, or wait, is done without the lock: to tell what excludes a rung, to end a pool.
    """
    key = (flavor, config)
    opening: Opening | None = None
    while True:
        stale: list[_Lease] = []
        try:
            with _lock:
                entry = _leases.get(key)
                if entry is not None and _may_rise(entry):  # it may have tasks, which reset() is to find
                    _leases[object()] = _leases.pop(key)
                    entry = None
                if entry is not None and _is_stale(entry):
                    stale.append(_leases.pop(key))
                    entry = None
                if entry is None and opening is not None:
                    made = _Lease(open_pool(opening), _birth(opening.plan))
                    entry = _leases.setdefault(key, made)
                    stale += [made] if entry is not made else []  # a signal handler was here, and has opened one
                if entry is not None and lease is not None:
                    entry.users += 1
                    lease.append(entry)
        finally:
            if opening is not None:
                opening.tell()  # if it was denied just now
        for each in stale:
            _end(each.pool)
        if entry is not None:
            return entry
        opening = Opening(Request(flavor=flavor, origin=origin), config, site=site, target=config.trace)


def _birth(plan: Plan) -> Birth | ForkedBirth | None:
    """Return what tells when workers of a plan are too old, or ``None`` where they see what the program sees."""
    if plan.rungs[:1] == ("interpreters",):
        return Birth()
    if not PROCESSES.intersection(plan.rungs):
        return None
    return ForkedBirth() if plan.start_method == "fork" else Birth(plan.start_method)


def _may_rise(entry: _Lease) -> bool:
    """Tell whether a higher rung may serve now than that of a pool, which is asked every now and then."""
    now = clock.now()
    if now - entry.tried < RETRY_SECONDS:
        return False
    entry.tried = now
    decision = entry.pool.decision
    return decision.settled and decision.downgraded and any(map(passing, decision.refused))


def _is_stale(entry: _Lease) -> bool:
    """Tell whether new workers would see what those of an idle pool do not. The caller holds the lock."""
    # In a burst that is one question for all of its tasks. Who has just waited for one may be here before its callback.
    if entry.birth is None or entry.users > len(entry.futures):
        return False
    try:
        if not all(each.done() for each in reversed(entry.futures)):
            return False
    except RuntimeError:  # the handler of a signal has submitted meanwhile
        return False
    if isinstance(entry.birth, ForkedBirth):
        return entry.birth.is_over()
    now = clock.now()
    if now - entry.checked < FILES_SECONDS:
        return entry.birth.is_elsewhere()
    entry.checked = now
    return entry.birth.is_over()


def _give_back(lease: list[_Lease], future: Future[Any] | None = None) -> None:
    """End the use that ``_find`` began; once, however often it is called."""
    with _lock:
        if not lease:
            return
        entry = lease[0]
        entry.users -= 1
        lease.clear()  # with no step between, after which Ctrl-C could come
        if future is not None:
            entry.futures.pop(future, None)
        if entry.pool._unirun_why_broken():
            _leave(entry.pool)  # if nobody else had it, this would be its end
        if entry.users == 0:
            entry.idle_since = clock.now()
            _ensure_reaper()
            if len(_leases) > _IDLE_POOLS:
                _changed.notify_all()


def _drop(key: _Key, entry: _Lease) -> None:
    """Forget a broken pool, unless another thread did already."""
    with _lock:
        if _leases.get(key) is entry:
            del _leases[key]
    _end(entry.pool)


def _end(pool: ManagedExecutor) -> None:
    """Let a pool end that is not cached any more."""
    if pool._unirun_why_broken():
        _leave(pool)
    else:
        pool.shutdown(wait=False)


def _leave(pool: ManagedExecutor) -> None:
    """Leave the end of a pool to the reaper, where this may be the pool's own thread.

    The stdlib's pool, when it breaks, fails its futures with the lock held that its shutdown needs; and so does, on
    3.12 and 3.13, the end of one that nobody holds any more. See ``terminate_broken`` and ``weakref_cb`` in the
    stdlib's ``concurrent.futures.process``.
    """
    with _lock:
        if pool not in _broken:
            _broken.append(pool)
            _ensure_reaper()
            _changed.notify_all()


def _ensure_reaper() -> None:
    global _reaper
    if _reaper is not None and _reaper.is_alive():
        return
    try:
        reaper = threading.Thread(target=_reap, name="unirun-idle", daemon=True)
        reaper.start()
    except RuntimeError:
        return  # no threads here, or no daemon threads in this interpreter: the pools then end at reset() or at exit
    _reaper = reaper


def _reap() -> None:
    global _reaper
    while True:
        with _lock:
            now = clock.now()
            idle = sorted(((key, e.idle_since) for key, e in _leases.items() if e.users == 0), key=lambda it: it[1])
            due = [(since + IDLE_SECONDS, key) for key, since in idle[-_IDLE_POOLS:]]
            due += [(since + _SURPLUS_SECONDS, key) for key, since in idle[:-_IDLE_POOLS]]
            ended = [_leases.pop(key).pool for end, key in due if end <= now] + _broken
            _broken.clear()
            if not _leases and not ended:
                _reaper = None
                return
            if not ended:
                _changed.wait(min((end - now for end, _ in due), default=IDLE_SECONDS))
        while ended:  # none is held on to, and one with a worker that does not end keeps the others from nothing
            ended.pop().shutdown(wait=False)


def _forget_in_child() -> None:
    global _lock, _changed, _leases, _broken, _reaper
    # Kept alive for good: collecting a pool would write into the pipes that its parent reads.
    _inherited.append((_leases, _broken))
    _lock = threading.RLock()
    _changed, _leases, _broken, _reaper = threading.Condition(_lock), {}, [], None


_inherited: list[object] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

"""Which worker gets which task, and when: the queue, the workers, and what is on its way to each.

Whoever is to give tasks to a worker claims it first, under the lock, and then feeds it without: pickling runs code of
the user's, which may submit. Both the manager thread and a ``submit`` that finds an idle worker do so.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future
from itertools import repeat, starmap
from typing import Any, Final

from unirun import clock
from unirun.backends.pipes import protocol
from unirun.backends.pipes.answers import cancel, resolve
from unirun.backends.pipes.arena import Arena
from unirun.backends.pipes.bell import Bell
from unirun.backends.pipes.by_value import Parts
from unirun.backends.pipes.handle import Handle
from unirun.backends.pipes.line import Line
from unirun.backends.pipes.pace import STARVED, STUCK, Pace
from unirun.backends.pipes.packing import Packer
from unirun.backends.pipes.places import Places
from unirun.backends.pipes.task import Task
from unirun.backends.pipes.terms import Terms
from unirun.backends.processes import BrokenProcessPool

__all__ = ["Dispatch"]

#: Bytes of pickled tasks to send at once, beyond the first task.
_BYTES: Final = 1 << 16
#: Workers that a task may cost while it is on its way: it may be too large for them. One may have died by chance.
_DEATHS: Final = 2
#: Seconds after which the lock, held for microseconds, is taken to be held by the waiting thread itself. Others may
#: have it longer, but not that long: where many threads compute, or when the garbage collector comes just then.
_HELD: Final = 1.0


class Dispatch:
    """A pool's queue and its workers."""

    def __init__(self, terms: Terms, bell: Bell, most: int, arena: Arena | None) -> None:
        self._terms = terms
        self._packer = Packer(by_value=terms.by_value, arena=arena)
        self._bell = bell
        # Guards all below, the tasks and flags of the workers included. Never held while code of the user's runs.
        self.lock: threading.Lock = threading.Lock()
        self.queue: Line = Line()
        #: Those that live, or were last known to.
        self.workers: list[Handle] = []
        self._idle: list[Handle] = []
        self.pace: Pace = Pace()
        self._unused = True  # nothing was submitted yet
        self.places: Places = Places(most)
        #: Why the pool is not usable any more, or ``None``.
        self.broken: str | None = None
        #: Shutdown was called, perhaps by the collector, in a thread that holds the lock: it takes none. Who has looked
        #: before has queued his task when the manager looks.
        self.closed: bool = False
        #: What has not begun is to be cancelled; likewise.
        self.cancelling: bool = False
        #: This is a forked child's copy of the pool.
        self.foreign: bool = False

    # For submit and shutdown, from any thread.

    def submit(self, task: Task) -> None:
        """Queue a task; give it to an idle worker, if there is one."""
        worker: Handle | None = None
        ring = True  # with Ctrl-C too: what is half written is written on by the manager
        try:
            with self.lock:
                first, self._unused = self._unused, False
                early = first and self.broken is not None  # by its initializer, while the pool was opened for this task
                if not early:
                    self._check_usable()
                    self.queue.join(task)
                if self._idle and not early:
                    worker = self._idle[-1]
                    worker.claimed = task
                    self._idle.pop()
                # Not only where a worker may be started now: with nothing queued nobody waits for the next attempt.
                ring = worker is not None or self._goes_on() or len(self.workers) < self.places.most
            if early:
                resolve(task.future, error=BrokenProcessPool(self.broken))
            elif worker is not None:
                self._feed(worker, task)
                ring = worker.writing or self._terms.task_timeout is not None
        finally:
            try:
                if worker is not None:
                    self.release(worker, task)
                if ring:
                    self._bell.ring()
            except BaseException:  # Ctrl-C, which must not leave a worker claimed for ever, or nobody told
                self.release(worker, task) if worker is not None else None
                self._bell.ring()
                raise

    def _check_usable(self) -> None:
        if self.broken is not None:
            raise BrokenProcessPool(self.broken)
        if self.foreign:
            raise RuntimeError("this pool belongs to the process that made it, of which this one is a forked child")
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def cancel_all(self) -> None:
        """Cancel what has not begun; in the manager thread."""
        with self.lock:
            for worker in self.workers:
                self._take_back(worker)
        while self.queue:
            with self.lock:
                task = self.queue.popleft()
            cancel(task.future)
            del task  # its arguments must not die with the lock held

    def reclaim(self, future: Future[Any]) -> None:
        """Take back what the worker that holds the task of ``future`` has not begun. It is pending again then."""
        held: list[bool] = []
        try:
            # One step. This thread itself may hold it: a signal handler, or a finalizer, cancels in a submit.
            held.extend(map(self.lock.acquire, (True,), (_HELD,)))
            for worker in self.workers if held[0] and not self.foreign else ():
                if any(task.future is future for task in worker.tasks.values()):
                    self._take_back(worker)
        finally:
            if True in held:
                self.lock.release()
            self._bell.ring()  # an idle worker may have the others

    def empty(self) -> list[Task]:
        """Return all tasks that are not done, and forget them."""
        with self.lock:
            tasks = [task for worker in self.workers for task in worker.tasks.values()]
            for worker in self.workers:
                worker.tasks.clear()
            self._packer.let_go(tasks)
            tasks += self.queue
            self.queue.clear()
            return tasks

    # Giving tasks, by who has claimed a worker.

    def _feed(self, worker: Handle, own: Task | None) -> None:
        """Give a worker that the caller has claimed what it should have now.

        Args:
            worker: The worker.
            own: The task that the caller submits; ``None`` in the manager thread.

        Raises:
            BaseException: Only with ``own``: Ctrl-C. Tasks of other callers are not lost by it.
        """
        taken: list[Task] = []
        given: list[tuple[Task, Parts]] = []
        size = 0
        sending = False
        try:
            with self.lock:
                count = min(self._room(worker), math.ceil(len(self.queue) / max(1, len(self.workers))))
                taken.extend(starmap(self.queue.popleft, repeat((), count)))  # one step, as in `_take_back`
            while taken and size <= _BYTES:
                parts = self._packer.pack(taken[0], own=own is not None)
                if parts is not None:
                    given.append((taken[0], parts))
                    size += protocol.size(parts)
                del taken[0]
            with self.lock:
                # Taken back from meanwhile: what it will drop would run with the tokens of these. Or the pool broke.
                if worker.dropping or self.broken is not None:
                    taken = [task for task, _ in given] + taken
                    given = []
                ring = bool(taken)
                self._requeue(taken)
                sending = bool(given)
                if sending:
                    worker.give(given)
            worker.flush()
            if ring:  # another worker may have become idle while these were out of the queue
                self._bell.ring()
        except BaseException:
            if sending:  # how much was written is not known
                worker.kill()
            with self.lock:
                unsent = dict.fromkeys((*(task for task, _ in given), *taken))  # the first of these may be among those
                self._packer.let_go([own] if own in unsent else [])
                self._requeue([task for task in unsent if task is not own])
            self._bell.ring()
            raise

    def _room(self, worker: Handle) -> int:
        """Return how many more tasks a worker should have on its way. The lock is held."""
        if not worker.initialized or worker.leaving or worker.dropping or self.cancelling or self.broken is not None:
            return 0
        most = 1 if self._terms.task_timeout is not None else self.pace.ahead
        held = len(worker.tasks)
        # If it has just begun one, or answered, it is in no long one.
        moving = worker.moving or (clock.now() - worker.since < STUCK and self._goes_on())
        if held and (held > most // 2 or not moving or self.queue.passes(worker)):
            return 0
        if self._terms.max_tasks_per_child is not None:
            most = min(most, self._terms.max_tasks_per_child - worker.given + held)
        return max(0, most - held)

    def _goes_on(self) -> bool:
        """Tell whether the next task is of a map, and all workers have come that will. The lock is held.

        A map sends each worker several, of which the next one may wait where the worker finds it.
        """
        a_map = bool(self.queue) and self.queue[0].memo is not None
        return a_map and self._all_started() and all(worker.initialized for worker in self.workers)

    def _all_started(self) -> bool:
        return self.places.all_taken(len(self.workers))

    def _requeue(self, tasks: list[Task]) -> None:
        """Move tasks that have not begun back into the queue. The lock is held."""
        self._packer.let_go(tasks)
        for task in tasks:
            task.future.unstart()
        self.queue.put_back(tasks[:], starmap(tasks.pop, repeat((0,), len(tasks))))

    def _take_back(self, worker: Handle) -> None:
        """Put what a worker has not begun back into the queue. The lock is held.

        Ctrl-C may come between any two steps; what is left with the worker then is taken back later.
        """
        serials = worker.revoke()
        tasks = [worker.tasks[serial] for serial in serials]
        self._packer.let_go(tasks)
        for task in tasks:
            task.future.unstart()
        self.queue.put_back(tasks, map(worker.tasks.pop, serials))
        worker.given -= len(serials)

    def _settle(self, worker: Handle) -> None:
        """Note whether a worker is idle now. The lock is held."""
        busy = worker.tasks or worker.claimed is not None or worker.leaving or worker.dropping or not worker.initialized
        idle = not busy and not self._used_up(worker) and worker in self.workers
        if not idle:
            if worker in self._idle:
                self._idle.remove(worker)
        elif worker not in self._idle:
            self._idle.append(worker)
            if self.queue:
                self._bell.ring()  # a submit came while the worker was claimed

    def _used_up(self, worker: Handle) -> bool:
        return self._terms.max_tasks_per_child is not None and worker.given >= self._terms.max_tasks_per_child

    # For the manager thread: what became of a worker.

    def came(self, worker: Handle) -> None:
        """A worker is ready and initialized."""
        with self.lock:
            self.places.came()
            worker.initialized = True
            self._settle(worker)

    def answered(self, worker: Handle, serial: int, seconds: float) -> Task | None:
        """A worker has done a task. Returns it; ``None`` if it was given up meanwhile."""
        with self.lock:
            task = worker.tasks.pop(serial, None)
            worker.since = clock.now()
            worker.moving = True
            self.pace.learn(seconds)
            if task is not None and task.blocks:
                self._packer.let_go((task,))
            if not worker.tasks:  # else it is as busy as it was
                self._settle(worker)
            return task

    def dropped(self, worker: Handle, serial: int) -> None:
        """A worker has dropped a task that was taken back from it."""
        with self.lock:
            if serial in worker.tasks:
                self._take_back(worker)
            worker.dropping.pop(serial, None)
            self._settle(worker)

    def left(self, worker: Handle) -> list[Task]:
        """A worker is dead and buried. Returns what it was running, or could not receive: one task at most."""
        with self.lock:
            failed = list(worker.tasks.values())
            worker.tasks.clear()
            self._packer.let_go(failed)
            if not failed and worker.unbegun:
                first = worker.unbegun[0]
                first.deaths += 1
                if first.deaths >= _DEATHS:
                    failed = [worker.unbegun.pop(0)]
            self._requeue(worker.unbegun)
            return failed

    def leaves(self, worker: Handle) -> bool:
        """A worker is dying; it gets nothing any more. Returns ``False`` while somebody is giving it tasks."""
        with self.lock:
            if worker.claimed is not None:
                return False
            self.workers.remove(worker)
            self._settle(worker)
            return True

    def claim_writer(self, worker: Handle) -> bool:
        """Claim a worker in order to go on writing to it, unless somebody is at it."""
        with self.lock:
            if worker.claimed is None:
                worker.claimed = self
                self._settle(worker)  # or a submit would take it for idle
            return worker.claimed is self

    def release(self, worker: Handle, owner: object) -> None:
        """Undo a claim of ``owner``, if it is one."""
        with self.lock:
            if worker.claimed is owner:
                worker.claimed = None
                self._settle(worker)
            # What the manager left alone because of the claim: the end of the worker, or of the pool.
            ring = self.closed or self._bell.abandoned or self._used_up(worker)
        if ring:
            self._bell.ring()

    # For the manager thread: what to do next.

    @property
    def quiet(self) -> bool:
        """Whether nothing waits, neither for a worker nor behind another task.

        Read without the lock: what is submitted meanwhile finds an idle worker, or rings.
        """
        return not self.queue and all(len(worker.tasks) < 2 for worker in self.workers)

    def feed_all(self) -> None:
        """Give tasks to the workers that should have more; take back what waits behind a long one, for idle ones."""
        with self.lock:
            holders, limit = self._holders()
            for worker in holders:
                stuck = clock.now() - worker.since
                if stuck >= limit or (limit == STUCK and self.pace.worth_taking_back):
                    self._take_back(worker)
                    self.pace.at_least(stuck)
            hungry = [worker for worker in self.workers if worker.claimed is None and self._room(worker)]
            if not self.queue:
                return
            for worker in hungry:
                worker.claimed = self
                self._settle(worker)
        for worker in hungry:
            self._feed(worker, None)
            self.release(worker, self)

    def end_used_up(self) -> None:
        """End the workers that have done ``max_tasks_per_child`` tasks."""
        if self._terms.max_tasks_per_child is not None:
            with self.lock:
                for worker in self.workers:
                    if self._used_up(worker) and not worker.tasks and worker.claimed is None:
                        worker.end()

    def next_check(self) -> float | None:
        """Return when to look again for tasks that wait behind a long one, of ``time.monotonic``."""
        with self.lock:
            holders, limit = self._holders()
            due = [worker.since + limit for worker in holders]
            if (attempt := self.places.next_attempt) is not None:  # then there may be somebody for what waits
                due.append(attempt)
            return min(due, default=None)

    def missing(self) -> float | None:
        """Return when one more worker is to be started for what is queued, of ``clock.now``; ``None`` for never."""
        with self.lock:
            staying = [worker for worker in self.workers if not worker.leaving]
            coming = sum(not worker.initialized for worker in staying)
            count, when = self.places.missing(len(staying), coming, len(self.queue))
            return when if count and self.broken is None else None

    def busy(self) -> list[Handle]:
        """Return the workers that have tasks, or are just being given some."""
        with self.lock:
            return [worker for worker in self.workers if worker.tasks or worker.claimed is not None]

    def _holders(self) -> tuple[list[Handle], float]:
        """Return the workers with tasks that wait, and the seconds after which others should have these, if there are.

        The lock is held.
        """
        others = len(self.workers) > 1 or not self._all_started()  # one is started for what is taken back
        holders = [each for each in self.workers if others and len(each.tasks) > 1 and each.claimed is None]
        if not self.queue and (self._idle or not self._all_started()):
            return holders, STUCK
        return [each for each in holders if not each.writing], STARVED  # what takes long to send is not stuck

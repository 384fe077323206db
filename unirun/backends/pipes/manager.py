"""The manager of a pool over pipes: the thread that hears the workers, has tasks given to them and replaces the dead.

Threads and processes: the manager thread is a daemon that ends after the last task, once the pool is shut down or
forgotten; the exit of the interpreter shuts it down and waits for it. It ends every worker before it ends itself.
"""

from __future__ import annotations

import math
import select
import threading
import time
import weakref
from itertools import starmap
from typing import Any, Final

from unirun import clock
from unirun.backends.pipes import answers, arena, exits, forks, protocol
from unirun.backends.pipes.bell import Bell
from unirun.backends.pipes.buffers import Buffers
from unirun.backends.pipes.dispatch import Dispatch
from unirun.backends.pipes.ear import Ear, heard
from unirun.backends.pipes.handle import Handle
from unirun.backends.pipes.lastwords import death
from unirun.backends.pipes.terms import Terms
from unirun.backends.pipes.vacancy import Vacancy
from unirun.backends.pipes.watch import Watch
from unirun.backends.pipes.worker import Orders
from unirun.backends.processes import BrokenProcessPool, died_early
from unirun.backends.raised import words
from unirun.refusal import Refused, failure, is_refusal, refused_start

__all__ = ["Manager"]

#: Seconds that a task has for ending by the KeyboardInterrupt of a Ctrl-C.
_GRACE: Final = 0.5


class Manager:
    """A pool's workers and the thread that serves them.

    Args:
        workers: How many workers at most.
        context: The ``multiprocessing`` context to start them by.
        orders: What each worker is told.
        terms: How tasks and workers are treated.
        bell: Wakes the thread.
    """

    def __init__(self, workers: int, context: Any, orders: Orders, terms: Terms, bell: Bell) -> None:
        #: The executor. When nobody holds it any more the workers end, after what was submitted. Kept here, where it
        #: outlives the executor, or it would not call. It may do so in any thread, also in one that holds a lock of
        #: the pool's: it only rings.
        self.serves: weakref.ref[object] | None = None
        self._most = workers
        self._context = context
        self._orders = orders
        self._terms = terms
        self._bell = bell
        self._arena = arena.opened(bell.ring)
        if self._arena is not None:
            self._orders = orders._replace(shared=self._arena.shared)
        #: The queue and the workers.
        self.dispatch: Dispatch = Dispatch(terms, bell, workers, self._arena)
        #: The processes of the workers by their ids. Only read by other threads, and copied by ``copy``, one step.
        self.processes: dict[int, Any] = {}
        #: Whom to tell when nothing is left to do.
        self.vacancy: Vacancy = Vacancy(bell)
        self._watch = Watch()
        self._watch.add(bell.fd)
        #: Hears a worker for who waits for it.
        self.ear: Ear = Ear(self.dispatch, self._watch, self.vacancy, terms, bell)
        #: A worker has ended that was not told to.
        self.worn: bool = False
        # Set by any thread, read by the manager's; each by one assignment.
        self._final = False  # tasks that run are waited for, and no worker is started for others
        self._kill_at: float | None = None
        # Only the manager thread's, or before it starts the opening one's:
        self._hired: list[Handle] = []  # a worker that was started and is not among the others yet
        self._watched: dict[int, Handle] = {}
        self._buffers = Buffers()
        self._thread: threading.Thread | None = None
        self._owned = threading.Lock()  # taken for good by who has the workers: the thread, or who gives up its start
        self._mine: list[bool] = []  # what the latter got when it took that

    # In the thread that opens the pool.

    def start(self) -> None:
        """Start workers, wait until one is ready, then start the thread.

        Raises:
            Refused: No worker could be started, or all ended before they were ready.
            RuntimeError: No thread can be started.
        """
        from multiprocessing import connection

        exits.add(self)  # first: the exit must find a pool that is just being opened, or that nobody has given up yet
        workers = self.dispatch.workers
        # All at once where they are forked: later there is a thread, and who forks with threads is warned.
        self._hire(self._most if self._context.get_start_method() == "fork" else 1)
        while not any(worker.ready for worker in workers):
            if not workers:
                raise Refused("bootstrap", died_early())
            # Under gevent this lets its other greenlets run, which a plain poll does not.
            connection.wait([worker.fd for worker in workers])
            for worker in list(workers):
                self._hear(worker)
        self._thread = threading.Thread(target=self._run, name="unirun-pipes", daemon=True)
        self._thread.start()

    def give_up(self, again: bool = True) -> None:
        """End what was started; nothing was submitted. Once ``again`` where it fails, and after each Ctrl-C."""
        try:
            if self._thread is not None and not self._mine:
                self._mine.extend(filter(None, map(self._owned.acquire, (False,))))  # one step
                if not self._mine:
                    self.shutdown(cancel=True, final=True)
                    self._thread.join()
                    return
            for worker in {*self.dispatch.workers, *self._hired}:
                worker.kill()
                worker.bury()
                worker.popen.close()
            self.dispatch.workers.clear()
            self.processes.clear()
            self._close()
            exits.discard(self)
        except BaseException as error:  # at the exit multiprocessing would wait for workers that nobody ends
            if again or isinstance(error, KeyboardInterrupt):
                self.give_up(again=False)
            raise

    def _hire(self, count: int) -> None:
        """Start some workers; fewer are as good, unless there is none."""
        for _ in range(count):
            try:
                # One step, between whose parts no Ctrl-C can come: a worker that was started is known.
                self._hired.extend(starmap(Handle, ((self._context, self._orders, self._buffers),)))
            except Exception as error:
                if not is_refusal("start", error):
                    raise
                if not self.dispatch.workers:
                    raise refused_start(error, self._context) from None
                self.dispatch.places.refuse(failure("pipes", "start", error))
                return
            self.dispatch.places.grant()
            (worker,) = self._hired
            self.processes[worker.pid] = worker.process
            if exits.ending():  # multiprocessing would wait for it while a daemon thread has it; it ends with us
                exits.unlist([worker.process])
            self._watched[worker.fd] = worker
            self._watch.add(worker.fd)
            with self.dispatch.lock:
                self.dispatch.workers.append(worker)
            self._hired.clear()

    # From any thread.

    def shutdown(self, *, cancel: bool = False, final: bool = False) -> None:
        """Take no more tasks; end when those submitted are done.

        Args:
            cancel: Cancel those that have not begun.
            final: Start no workers for the others any more.
        """
        if self.dispatch.foreign:
            return
        self._final = self._final or final
        self.dispatch.closed = True
        if cancel:
            self.dispatch.cancelling = True
        self._bell.ring()

    def interrupt(self) -> None:
        """Shut down after a Ctrl-C."""
        if self.dispatch.foreign:
            return
        self._kill_at = clock.now() + _GRACE
        busy = self.dispatch.busy()
        self.shutdown(cancel=True, final=True)
        for worker in busy:
            worker.interrupt()

    def runs_in(self, thread: threading.Thread) -> bool:
        """Tell whether a thread is the manager's."""
        return thread is self._thread

    def join(self) -> None:
        """Wait for the end of the thread, and so of all workers."""
        thread = self._thread  # not started yet where a daemon thread opens this pool at the exit
        if thread not in (None, threading.current_thread()) and thread.ident is not None and not self.dispatch.foreign:
            thread.join()

    def disown(self) -> None:
        """In a forked child: the workers are the parent's."""
        self.dispatch.lock = threading.Lock()
        self.dispatch.foreign = True

    # The manager thread.

    def _run(self) -> None:
        if not self._owned.acquire(blocking=False):
            return
        try:
            while not self._finished():
                self._turn()
                if self.dispatch.cancelling:
                    self.dispatch.cancel_all()
                if not self.dispatch.quiet:  # what is done here keeps whoever waits for a result from the GIL
                    self.dispatch.feed_all()
                    while not self._final and (when := self.dispatch.missing()) is not None and when <= clock.now():
                        self._replace()
                self.dispatch.end_used_up()
                if self.vacancy.wanted and not self.dispatch.queue and not self.dispatch.busy():
                    self.vacancy.tell()
            self._end()
        except BaseException as error:
            self._break(f"the manager of the pool failed: {words(error)}")  # nobody else would end what waits
            raise
        finally:
            exits.discard(self)
            self._close()
            self.vacancy.end()

    def _close(self) -> None:
        self._bell.silence()
        self._watch.close()
        self._buffers.close()
        if self._arena is not None:
            forks.close(self._arena)

    def _turn(self) -> None:
        """Wait for something to happen, and see to it."""
        self._watch.await_room(self.dispatch)
        looked = clock.now()  # what has arrived by then is heard before anybody's time is up
        for fd, event in self._watch.wait(self._patience()):
            if fd == self._bell.fd:
                self._bell.hear()
                for each in [worker for worker in self.dispatch.workers if worker.unheard]:
                    self._hear(each)
                continue
            if (worker := self._watched.get(fd)) is None:
                continue  # it was lost just now
            if event & select.POLLOUT and self.dispatch.claim_writer(worker):
                worker.flush()
                worker.since = clock.now()  # it could not begin with it before
                self.dispatch.release(worker, self.dispatch)
            if event & ~select.POLLOUT:
                self._hear(worker)
        self._check_time(looked)

    def _patience(self) -> float:
        """Return how many seconds to wait for an event."""
        due = [] if self._kill_at is None else [self._kill_at]
        if self.dispatch.places.short is not None and not self._final and (when := self.dispatch.missing()) is not None:
            due.append(when)
        if not self.dispatch.quiet and (check := self.dispatch.next_check()) is not None:
            due.append(check)
        if (limit := self._terms.task_timeout) is not None:
            timed = [each for each in self.dispatch.workers if each.tasks and not (each.timed_out or heard(each))]
            due += [each.since + limit for each in timed]
        due += [each.due for each in (self._arena, self._buffers) if each is not None and each.due is not None]
        return min(due) - clock.now() if due else math.inf

    def _check_time(self, now: float) -> None:
        """Kill the workers whose time is up, and give back memory that is not used."""
        for memory in (self._arena, self._buffers):
            if memory is not None and memory.due is not None:
                memory.tidy()
        if (limit := self._terms.task_timeout) is None and self._kill_at is None:
            return
        for worker in list(self.dispatch.workers):
            late = limit is not None and worker.tasks and now >= worker.since + limit and not heard(worker)
            if late or (self._kill_at is not None and now >= self._kill_at):
                worker.timed_out = worker.timed_out or bool(late)
                worker.kill()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None  # once: one that waits for a disk ends when it can

    def _hear(self, worker: Handle) -> None:
        with self.dispatch.lock:
            if worker.listener is not None:
                return
            worker.listener = self
        try:
            for message in worker.receive():
                self._act(worker, message)
        except EOFError:
            self._lose(worker)
        except (protocol.ProtocolError, MemoryError) as error:
            worker.unread = worker.unread or error.with_traceback(None)  # it may be heard again
            worker.kill()
            self._lose(worker)
        finally:
            worker.listener = None

    def _act(self, worker: Handle, message: protocol.Frame) -> None:
        kind = message.kind
        if kind in (protocol.RESULT, protocol.ERROR):
            known = worker.opened.pop(message.serial, None)
            task = self.dispatch.answered(worker, message.serial, message.seconds)
            try:
                if not worker.tasks and self.dispatch.queue:
                    self.dispatch.feed_all()  # rather than let it wait until its answer is unpickled
            finally:
                if task is not None:  # whom nobody else knows any more
                    answers.answer(task.future, message, known)
        elif kind == protocol.DROPPED:
            self.dispatch.dropped(worker, message.serial)
        elif kind == protocol.READY:
            worker.ready = True
        elif kind == protocol.INITIALIZED:
            worker.ready = True
            self.dispatch.came(worker)
        elif kind == protocol.UNINITIALIZED:
            self._break(f"the initializer failed ({answers.text(message)}), the pool is not usable anymore")
        elif kind in (protocol.STDERR, protocol.FOREIGN):
            worker.heard(answers.text(message))
        elif kind == protocol.LOG:
            answers.log(message)
        else:
            raise protocol.ProtocolError(f"no message from a worker has the kind {kind}")

    def _replace(self) -> None:
        """Start one more worker; the pool is broken if there is none and none can be started, after some attempts."""
        try:
            self._hire(1)
        except Refused as refused:
            if not self.dispatch.places.refuse_last(failure("pipes", "start", refused.error)):
                self._break(f"no worker is left and none can be started: {refused.error!r}")
        except Exception as error:  # the initializer cannot be pickled any more
            self._break(f"no worker can be started: {words(error)}")

    def _lose(self, worker: Handle) -> None:
        """A worker is dead, or as good as dead: fail what it ran, and put back what it had not begun."""
        if not self.dispatch.leaves(worker):  # its pipes must not be closed under whoever writes to them
            worker.kill()
            time.sleep(0.0005)  # it is only until the tasks are pickled; the end of its pipe will be heard again
            return
        self.worn = self.worn or not worker.leaving
        initialized = worker.initialized
        worker.initialized = False
        del self.processes[worker.pid], self._watched[worker.fd]
        self._watch.drop(worker.fd)
        worker.bury()
        self.dispatch.places.lost(len(self.dispatch.workers))
        running = self.dispatch.left(worker)
        error = death(worker, self._terms.task_timeout)
        if not worker.ready:
            many = self._thread is not None and self.dispatch.places.fail(failure("pipes", "bootstrap", error))
            if many and not self.dispatch.workers:
                self._break(f"workers end before they are ready: {error}")
        elif not initialized:
            self._break(f"the initializer ended its worker: {error}")
        elif self._terms.on_crash == "raise" and not (self._final or worker.timed_out) and (running or worker.failed):
            self._break(str(error))
        for task in running:
            answers.resolve(task.future, error=error)
        worker.popen.close()  # which may still have a sentinel open; not the process object, which the program may have

    def _break(self, why: str) -> None:
        """Fail everything: the pool is not usable any more."""
        with self.dispatch.lock:
            if self.dispatch.broken is not None:
                return
            self.dispatch.broken = why
        for worker in list(self.dispatch.workers):  # before what they read is used for something else
            worker.kill()
        for task in self.dispatch.empty():
            answers.resolve(task.future, error=BrokenProcessPool(why))

    def _finished(self) -> bool:
        if self.dispatch.broken is not None:
            return True
        if not (self.dispatch.closed or self._bell.abandoned) or self.dispatch.busy():
            return False
        with self.dispatch.lock:
            if self.dispatch.queue and not (self._final and not self.dispatch.workers):
                return False
            self.dispatch.closed = True
            return True

    def _end(self) -> None:
        """End the workers, and wait for them."""
        self._final = True
        self._forget_queue()
        for worker in list(self.dispatch.workers):
            if self.dispatch.claim_writer(worker):  # else it was killed, and somebody is still writing to it
                worker.end()
                self.dispatch.release(worker, self.dispatch)
        while self.dispatch.workers:
            self._turn()
        self._forget_queue()  # of a submit that was giving tasks to a worker of a pool that broke

    def _forget_queue(self) -> None:
        if self.dispatch.cancelling:
            self.dispatch.cancel_all()
        why = self.dispatch.broken or "the pool was ended before the task could begin"
        for task in self.dispatch.empty():
            answers.resolve(task.future, error=BrokenProcessPool(why))

"""One worker process of the pipes backend as its parent sees it: its pipe, its tokens, and the tasks that it holds.

Guarantees:
    The parent never blocks on a pipe. What does not fit into it waits here until the worker reads, while the parent
    goes on reading: two sides that both write first is how pools over pipes hang.
    Of each task it is known whether the worker may have begun it: one that has a token in the pipe was not begun.

Not safe for threads by itself: the pool says who may call what.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice, repeat, starmap
from operator import itemgetter
from typing import Any, Final

from unirun import clock
from unirun.backends.pipes import forks, protocol
from unirun.backends.pipes.buffers import Buffers
from unirun.backends.pipes.by_value import Parts
from unirun.backends.pipes.task import Task
from unirun.backends.pipes.worker import Orders, work
from unirun.backends.repairs import ensure_descriptors, ensure_helpers, is_stray, kill, undo_start

__all__ = ["Handle"]

#: Pieces written in one system call. Linux takes 1024 (IOV_MAX), POSIX promises 16.
_PIECES: Final = 16
#: Bytes kept of what a worker last wrote to standard error.
_TAIL: Final = 2048
#: Seconds that a worker whose pipe is closed has for ending by itself. It has only to leave.
_PATIENCE: Final = 1.0


class Handle:
    """A worker process that was started.

    Args:
        context: The ``multiprocessing`` context to start it by.
        orders: What the worker has to know.
        buffers: What its large results are received into.

    Raises:
        OSError: There is no descriptor left for its pipes, or no process can be started.
        Exception: What pickling the initializer raises, for a start method other than fork.
    """

    def __init__(self, context: Any, orders: Orders, buffers: Buffers) -> None:
        #: The tasks that it was given and has not answered, by serial, in the order given.
        self.tasks: dict[int, Task] = {}
        #: How many tasks it was given ever.
        self.given: int = 0
        #: The tasks that were taken back of which it does not know yet, with their tokens. It must get none before it
        #: does: it would run one that was taken back with the token of the new one.
        self.dropping: dict[int, int] = {}
        #: When it last began something, as far as the parent can tell; of ``time.monotonic``.
        self.since: float = clock.now()
        #: It has answered since it was last given something: what is behind that does not wait for a long task.
        self.moving: bool = False
        self.ready: bool = False
        #: Its initializer is done, too.
        self.initialized: bool = False
        #: Who is giving it tasks, or writing to it, just now: nobody else may. None for nobody.
        self.claimed: object = None
        #: Who hears it just now: nobody else may. None for nobody. Claimed under the pool's lock.
        self.listener: object = None
        #: The bytes that were read and not understood, if a listener was interrupted: one number.
        self.unheard: list[int] = []
        #: What the answer in there was unpickled to, by its serial, if it is left to the manager all the same.
        self.opened: dict[int, tuple[Any, BaseException | None]] = {}
        #: It was told to end, and gets no more tasks.
        self.leaving: bool = False
        #: It was killed because its task ran too long.
        self.timed_out: bool = False
        #: After its death: the tasks that it had not begun.
        self.unbegun: list[Task] = []
        #: What it last wrote to standard error.
        self.tail: str = ""
        #: Why this process could not take in what it has sent.
        self.unread: BaseException | None = None
        #: The manager watches for room to write.
        self.awaited: bool = False
        self._out: deque[memoryview] = deque()
        self._borrows = False  # some of that may be memory of who submits
        self._serial = 0
        self._reader = protocol.Reader(buffers.room)
        self._poll: Any = None  # a listener's
        self._ends: list[Any] = []
        self._lifeline: forks.Lifeline | None = None
        self.process: Any = None
        theirs = None
        # Restored when the process is started, or by what is raised; not by a context manager, since Ctrl-C, which
        # other threads hear all the same, may come on the way into its `__exit__`.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            ensure_helpers(context)
            self._pipe, theirs = forks.made(partial(context.Pipe, duplex=True))
            self._ends.append(self._pipe)
            self._tokens, self._grants = forks.made(partial(context.Pipe, duplex=False))
            self._ends += [self._tokens, self._grants]
            for end in self._ends:
                os.set_blocking(end.fileno(), False)
            #: The descriptor to poll; none once it is closed, when another file may have its number.
            self.fd: int = self._pipe.fileno()
            kept = (theirs, self._tokens, *(() if orders.shared is None else (orders.shared,)))
            make = partial(context.Process, target=work, args=(theirs, self._tokens, orders, signal.SIGINT in mask))
            ensure_descriptors(context)
            forks.start(partial(self._start, make), *kept)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._lifeline = forks.Lifeline(self.process)
            forks.close_in_children(self._lifeline)
            forks.close(theirs)
        except BaseException as error:
            try:
                undo_start(error)
                if self.process is not None and self.process.pid is not None:  # Ctrl-C just after its start
                    kill(self.process)
                    self.process.join()
                self.close()
                if theirs is not None:
                    forks.close(theirs)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise

    def _start(self, make: Callable[[], Any]) -> None:
        """Make the process and start it, also from a daemonic one: a worker of `multiprocessing.Pool`, or of Celery.

        multiprocessing forbids it because it kills daemonic processes without a word, and their children would be left
        behind. Ours end when their parent does, however it ends. One thread at a time is in here: see ``forks.start``.
        Celery's copy of multiprocessing has a class of its own for the key, which can be pickled for its own workers
        only.
        """
        from multiprocessing import process

        settings = process.current_process()._config  # type: ignore[attr-defined]
        before = {name: settings[name] for name in ("daemon", "authkey") if name in settings}
        kind: type[bytes] = process.AuthenticationString  # type: ignore[attr-defined]
        try:
            if before.get("daemon"):
                settings["daemon"] = False
            if type(key := before.get("authkey")) is not kind and isinstance(key, bytes):
                settings["authkey"] = kind(key)
            # Until the worker can take Ctrl-C, which is when it unblocks it: it would print a traceback.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            self.process = make()
            self.process.start()
        finally:
            settings.update(before)
        self.pid: int = self.process.pid
        # What to ask: the program may close the process object at any moment, as soon as the process has ended.
        self.popen: Any = self.process._popen

    @property
    def writing(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._out)

    def give(self, tasks: list[tuple[Task, Parts]]) -> None:
        """Put tasks, and what ``dump`` made of them, on their way, and take them out of the list; ``flush`` sends them.

        Raises:
            BaseException: Ctrl-C. What is in the list then was not given; all else was, and may not have been sent.
        """
        pieces: list[bytes | memoryview] = []
        small: list[bytes] = []
        count = len(tasks)
        serials = range(self._serial + 1, self._serial + count + 1)
        self._serial += count
        for serial, (_, parts) in zip(serials, tasks, strict=True):
            framed = protocol.frame(protocol.TASK, serial, parts)
            if len(framed) == 1:
                small += framed  # type: ignore[arg-type]
            else:
                pieces += [b"".join(small), *framed]
                small = []
        pieces.append(small[0] if len(small) == 1 else b"".join(small))
        self.since = clock.now()
        self.moving = False
        # So few tokens fit into any pipe.
        granted: Any = islice(map(os.write, (self._grants.fileno(),), (b"t" * count,)), 1, None)
        taken = map(itemgetter(0), starmap(tasks.pop, repeat((0,), count)))
        # One step: whose a token is must be known, or a task that was begun would be taken for one that was not.
        self.tasks.update(chain(granted, zip(serials, taken, strict=False)))
        self.given += count
        self._out.extend(memoryview(piece) for piece in pieces if len(piece))
        self._borrows = self._borrows or len(pieces) > 1

    def revoke(self) -> list[int]:
        """Keep it from beginning what it has not begun; return the serials of that, which stays in ``tasks``.

        So does what was revoked before, if Ctrl-C has kept somebody from taking it.
        """
        begun = [serial for serial in self.tasks if serial not in self.dropping]
        tokens = map(os.read, (self._tokens.fileno(),), (max(1, len(begun)),))
        try:
            # One step, from the reading of the tokens to the notes of whose they were: the newest tasks'.
            self.dropping.update(chain.from_iterable(map(zip, (reversed(begun),), tokens)))
        except BlockingIOError:
            pass  # there are none
        return [serial for serial in self.tasks if serial in self.dropping]

    def flush(self) -> None:
        """Write what the pipe takes now."""
        out = self._out
        while out:
            try:
                if len(out) == 1:
                    written = os.write(self.fd, out[0])
                else:
                    written = os.writev(self.fd, [out[i] for i in range(min(len(out), _PIECES))])
            except BlockingIOError:
                self._return_borrowed()
                return
            except (BrokenPipeError, ConnectionResetError):
                out.clear()  # it is dead, which reading will tell
                return
            while written:
                first = out[0]
                if written < first.nbytes:
                    out[0] = first[written:]
                    break
                written -= first.nbytes
                out.popleft()

    def _return_borrowed(self) -> None:
        """Copy what is still memory of who submits, and may be changed from now on; as far as there is room for it."""
        if self._borrows:
            try:
                for place, view in enumerate(self._out):
                    if not isinstance(view.obj, bytes):
                        self._out[place] = memoryview(bytes(view))
                self._borrows = False
            except MemoryError:
                pass  # once more of it is written

    def end(self) -> None:
        """Let it end when it has done what it was given."""
        if not self.leaving:
            self.leaving = True
            self._out.append(memoryview(protocol.frame(protocol.END)[0]))
            self.flush()

    def receive(self) -> Iterator[protocol.Frame]:
        """Iterate over the messages that have arrived.

        Raises:
            EOFError: There will be no more: its end of the pipe is closed.
            ProtocolError: What arrived is no message.
        """
        if self.unheard:
            yield from self._reader.got(self.unheard.pop())
        for _ in range(16):  # then another worker has its turn
            room = self._reader.room()
            try:
                count = os.readv(self.fd, [room])
            except BlockingIOError:
                return
            except ConnectionResetError:
                raise EOFError from None
            if not count:
                raise EOFError
            full = count == len(room)
            del room
            yield from self._reader.got(count)
            if self._reader.answering:
                self.since = clock.now()  # its task is done, and may have been for long: we may have been stopped
            if not full:
                return

    def wait(self, seconds: float) -> bool:
        """Wait for a message, or for its end; return whether there is one."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.fd, select.POLLIN)
        return bool(self._poll.poll(seconds * 1000))

    def overhear(self) -> protocol.Frame | None:
        """Read what has arrived, and return it if it is one small message. Who has understood it clears ``unheard``."""
        try:
            # One step, between whose parts no Ctrl-C can come: what is read is known to be there.
            self.unheard.extend(map(os.readv, (self.fd,), ([self._reader.room()],)))
        except (BlockingIOError, ConnectionResetError):
            return None
        return self._reader.only(self.unheard[0])

    def heard(self, text: str) -> None:
        """Keep the end of what it writes to standard error."""
        self.tail = (self.tail + text)[-_TAIL:]

    def kill(self) -> None:
        """Kill it. Its end of the pipe closes."""
        if not self._ended() or is_stray(self.process):  # else another process may have its id
            try:
                kill(self.process)
            except (ValueError, AttributeError):
                pass  # the program is closing it just now, so it has ended

    def interrupt(self) -> None:
        """Send it SIGINT, as Ctrl-C in a terminal would."""
        try:
            if self.popen.poll() is None:
                os.kill(self.pid, signal.SIGINT)
        except ProcessLookupError:
            pass  # it has just ended and was no child of this process

    def bury(self) -> None:
        """Wait for its end and close what it leaves.

        What it had not begun goes from ``tasks`` to ``unbegun``; there remains what it was running, one task at most.
        """
        end = clock.now() + (math.inf if self.leaving else _PATIENCE)
        # Not `join` with a timeout: that waits for a pipe first, which a task may have closed, and then for ever.
        while not self._ended() and clock.now() < end:
            time.sleep(0.0005)
        self.kill()  # it may live, and have only closed its pipe
        self.popen.wait()
        from multiprocessing import process

        # As `join` does, but where somebody else has waited for it, and multiprocessing takes it for alive.
        process._children.discard(self.process)  # type: ignore[attr-defined]
        self.unbegun = [self.tasks.pop(serial) for serial in self.revoke()]
        self.close()

    def _ended(self) -> bool:
        """Tell whether it has ended, also where multiprocessing cannot know.

        Somebody else may have waited for it: the kernel, where SIGCHLD is ignored, or a handler that waits for all.
        """
        if self.popen.poll() is not None:
            return True
        if self.popen.method == "forkserver":
            return False  # it is no child of this process, and tells its end through a pipe
        try:
            if hasattr(os, "waitid"):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            else:
                os.kill(self.pid, 0)
        except (ChildProcessError, ProcessLookupError):
            return True
        return False

    @property
    def failed(self) -> bool:
        """Whether it ended by a signal or with an error, once it has."""
        return bool(self.popen.poll())

    def close(self) -> None:
        """Close this side's ends."""
        forks.forget(self._lifeline)
        forks.close(*self._ends)
        self.fd = -1

    def __str__(self) -> str:
        code = self.popen.poll()
        if code is None:
            how = "ended, and its exit code went to whoever else waits for children of this process"
        elif code < 0:
            try:
                how = f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                how = f"was killed by signal {-code}"
        else:
            how = f"ended with exit code {code}"
        return f"the worker process {self.pid} {how}"

"""Bell: wakes the manager thread from any other one."""

from __future__ import annotations

import os
import threading
from collections import deque
from functools import partial

from unirun.backends.pipes import forks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Bell"]


class Bell:
    """Wakes the manager, or nobody once it has ended."""

    def __init__(self) -> None:
        from multiprocessing.connection import Pipe

        # Guards the pipe from being closed under a ring, which would go to another file. Reentrant: the collector may
        # ring in a thread that holds it.
        self._lock = threading.RLock()
        self._reader, self._writer = forks.made(partial(Pipe, duplex=False))
        self._owner = os.getpid()
        os.set_blocking(self._reader.fileno(), False)
        os.set_blocking(self._writer.fileno(), False)
        self.abandoned: bool = False
        self._left: deque[Callable[[], object]] = deque()

    @property
    def fd(self) -> int:
        """The descriptor to poll."""
        number: int = self._reader.fileno()
        return number

    def ring(self) -> None:
        """Wake the manager."""
        if self._writer.closed:  # also in a forked child, where another thread may have left the lock held
            return
        with self._lock:
            try:
                os.write(self._writer.fileno(), b"!")
            except OSError:
                pass  # full: it rings anyway; closed meanwhile

    def leave(self, step: Callable[[], object]) -> None:
        """Have the manager do something, whatever lock this thread may hold; if it has ended, it is done here."""
        self._left.append(step)
        self.ring()
        if self._writer.closed:
            self._run()

    def hear(self) -> None:
        """Take the rings so far, and do what was left to the manager."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            pass
        self._run()

    # The function is held here: the collector may find an executor when modules have lost their names.
    def abandon(self, _: object = None, *, getpid: Callable[[], int] = os.getpid) -> None:
        """Say that nobody holds the pool any more."""
        if getpid() != self._owner:
            return  # in a child, at a moment when the pipe may not be closed there yet, and another thread has the lock
        self.abandoned = True
        self.ring()

    def silence(self) -> None:
        """Close it: nobody listens any more."""
        forks.close(self._reader, self._writer, under=self._lock)
        self._run()  # what comes from now on finds the pipe closed

    def _run(self) -> None:
        while self._left:
            try:
                step = self._left.popleft()
            except IndexError:  # another thread has it
                return
            step()

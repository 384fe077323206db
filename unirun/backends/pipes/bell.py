"""Bell: wakes the manager thread from any other one."""

from __future__ import annotations

import os
import threading
from functools import partial

from unirun.backends.pipes import forks

__all__ = ["Bell"]


class Bell:
    """Wakes the manager, or nobody once it has ended."""

    def __init__(self) -> None:
        from multiprocessing.connection import Pipe

        # Guards the pipe from being closed under a ring, which would go to another file. Reentrant: the collector may
        # ring in a thread that holds it.
        self._lock = threading.RLock()
        self._reader, self._writer = forks.made(partial(Pipe, duplex=False))
        os.set_blocking(self._reader.fileno(), False)
        os.set_blocking(self._writer.fileno(), False)
        self.abandoned: bool = False

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

    def hear(self) -> None:
        """Take the rings so far."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            pass

    def abandon(self, _: object = None) -> None:
        """Say that nobody holds the pool any more."""
        self.abandoned = True
        self.ring()

    def silence(self) -> None:
        """Close it: nobody listens any more."""
        with self._lock:
            forks.close(self._reader, self._writer)

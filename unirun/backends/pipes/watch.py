"""Watch: the pipes that the manager thread waits for."""

from __future__ import annotations

import math
import select
from typing import TYPE_CHECKING, Any, Final

from unirun.backends.pipes import forks

if TYPE_CHECKING:
    from unirun.backends.pipes.dispatch import Dispatch

__all__ = ["Watch"]

#: Seconds to wait at most before the manager looks again. The system calls take milliseconds, of 31 bits.
_LONGEST: Final = 86400.0


class Watch:
    """A set of descriptors to wait for.

    Attributes:
        shared: Whether other threads may take a descriptor out, and put it back, while this one waits. Linux can.
    """

    def __init__(self) -> None:
        self.shared: bool = True
        self._scale = 1.0
        try:
            self._poll: Any = forks.made(lambda: (made := select.epoll(), made))[0]
        except (AttributeError, OSError):  # another system; gevent, which has none; no descriptor left
            self.shared = False
            self._poll = select.poll()
            self._scale = 1000.0

    def add(self, fd: int) -> None:
        """Wait for something to read, or for the end."""
        try:
            self._poll.register(fd, select.POLLIN)
        except FileExistsError:
            pass  # whoever was to put it back was interrupted, and does it again
        except ValueError:
            if not getattr(self._poll, "closed", False):  # it is when the manager has failed
                raise

    def await_room(self, dispatch: Dispatch) -> None:
        """Wait for room to write as well, for those workers to whom there is something to write.

        Not where somebody is writing just now, who rings if something is left: there is room, and that would wake the
        manager at once, and again.
        """
        for worker in dispatch.workers:
            left = worker.writing and worker.claimed is None
            if left != worker.awaited:
                with dispatch.lock:
                    if worker.listener is None:  # else it is not in here, and who listens rings
                        worker.awaited = left
                        self._poll.modify(worker.fd, select.POLLIN | (select.POLLOUT if left else 0))

    def drop(self, fd: int) -> None:
        """Do not wait for this one."""
        self._poll.unregister(fd)

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Return what has happened, within so many seconds: descriptors and events as ``select.poll`` has them."""
        # Which both round up.
        timeout = -1.0 if seconds == math.inf else min(max(0.0, seconds), _LONGEST) * self._scale
        return self._poll.poll(timeout)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close it."""
        if self.shared:
            forks.close(self._poll)

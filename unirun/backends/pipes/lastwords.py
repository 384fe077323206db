"""Last words: what a worker writes to standard error, of which the parent gets a copy, as it may explain a death."""

from __future__ import annotations

from unirun import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from unirun.backends.pipes.handle import Handle

__all__ = ["Watched", "death"]

#: Characters of it that are kept.
_LONGEST: Final = 2048
#: How often the parent is told at once, and how often in a second of what does not end: the newest of it.
_BURST: Final = 1000
_RATE: Final = 1000


class Watched:
    """Standard error, of whose end the parent knows.

    Args:
        stream: The stream itself.
        tell: Tells the parent, and wakes it.
    """

    def __init__(self, stream: Any, tell: Callable[[str], object]) -> None:
        self._stream = stream
        self._tell = tell
        self._untold = ""
        self._may, self._since = float(_BURST), clock.now()  # how often it may be told at once, as of then

    def write(self, text: str) -> Any:
        written = self._stream.write(text)
        if text.strip():
            self._untold = (self._untold + text)[-_LONGEST:]
            now = clock.now()
            self._may, self._since = min(_BURST, self._may + (now - self._since) * _RATE), now
            if self._may >= 1:
                self._may -= 1
                untold, self._untold = self._untold, ""
                self._tell(untold)
        return written

    def unwatched(self) -> Any:
        """Return the stream itself."""
        return self._stream

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __iter__(self) -> Any:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def death(worker: Handle, limit: float | None) -> Exception:
    """Return the error of the task that a worker ran at its end: what it last wrote, or the limit in seconds."""
    from unirun.backends.processes import BrokenProcessPool

    if worker.timed_out:
        return TimeoutError(f"the task ran longer than task_timeout={limit} seconds, and its worker was killed")
    said = f"; it last wrote to standard error:\n{worker.tail.strip()}" if worker.tail.strip() else ""
    if worker.unread is not None:
        said = f" by this one, which cannot take in what it sent: {worker.unread!r}{said}"
    error = BrokenProcessPool(f"{worker}{said}")
    error.__cause__ = worker.unread
    return error

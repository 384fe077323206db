"""Mapped: the worker's side of the ``arena``, where large buffers arrive as private copies of shared memory.

What a task writes to its arguments goes to pages of its own. All others are the parent's, which fills them with another
task's buffers once this one is done.

Guarantees:
    What a task keeps stays what it is, and so does what it hands on to a process that it forks.
    Where there is no room for a mapping, a buffer is copied.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

from unirun.backends.pipes.protocol import Placed, ProtocolError

__all__ = ["Shared", "keep", "make_private"]

#: Mappings of a worker at a time before Python 3.13, where each has a descriptor: most of these are left for its tasks.
_MAPPED: Final = 64
#: `MADV_POPULATE_WRITE` of Linux's <mman.h>, which Python does not name: as if each page were written to.
_POPULATE_WRITE: Final = 23


class Shared:
    """The worker's side: passed to it when it is started.

    Args:
        fd: The descriptor of the arena, which fork hands on and the other start methods are told to.
    """

    def __init__(self, fd: int) -> None:
        self.fd: int = fd

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        from multiprocessing.reduction import DupFd

        return _received, (DupFd(self.fd),)

    def close(self) -> None:
        """Let go of it, in a child that a task forks."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def fetch(self, buffers: Iterable[bytearray | Placed]) -> tuple[list[Any], list[mmap.mmap]]:
        """Return buffers with what was placed, and the mappings among them.

        Raises:
            ProtocolError: They are not in the arena.
        """
        fetched: list[Any] = []
        mappings: list[mmap.mmap] = []
        for buffer in buffers:
            if not isinstance(buffer, Placed):
                fetched.append(buffer)
                continue
            try:
                memory = _map(self.fd, buffer.length or -1, buffer.offset)  # 0 would mean the whole file
            except OSError:
                copy = bytearray(buffer.length)
                if os.preadv(self.fd, [copy], buffer.offset) != buffer.length:
                    raise ProtocolError(f"there is nothing at {buffer}") from None
                fetched.append(copy)
            except (ValueError, OverflowError) as error:
                raise ProtocolError(f"there is nothing at {buffer}: {error}") from None
            else:
                fetched.append(memory)
                mappings.append(memory)
                del memory
        return fetched, mappings


def _received(fd: Any) -> Shared:
    return Shared(fd.detach())


class _Private(mmap.mmap):
    """A mapping that a task may get for an argument, and return."""

    def __reduce_ex__(self, version: object) -> tuple[type[bytearray], tuple[bytes]]:
        return bytearray, (self[:],)


#: The mappings of this process, where each holds a descriptor.
_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def _map(fd: int, length: int, offset: int) -> mmap.mmap:
    """Map a part of a file so that what is written to it stays here.

    Raises:
        OSError: No descriptor or no address space is left, or tasks have kept so many that few would be left for them.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if sys.version_info >= (3, 13):
        return _Private(fd, length, flags=mmap.MAP_PRIVATE, prot=protection, offset=offset, trackfd=False)
    if len(_mapped) >= _MAPPED:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    memory = _Private(fd, length, flags=mmap.MAP_PRIVATE, prot=protection, offset=offset)
    _mapped.add(memory)
    return memory


def _references(mappings: list[mmap.mmap], place: int) -> int:
    return sys.getrefcount(mappings[place])


#: The references to a mapping that only the list knows. How many that are depends on the interpreter.
_ALONE: Final = _references([mmap.mmap(-1, 1)], 0) if hasattr(sys, "getrefcount") else 0  # PyPy has no arena


def keep(mappings: list[mmap.mmap]) -> None:
    """Make private what a task has kept; empty the list. The parent will use the blocks for something else.

    A page is private from the first write on; see mmap(2).
    """
    # No weak references: before Python 3.15 they do not tell of what a `__del__` keeps that the collector calls.
    make_private([mappings[place] for place in range(len(mappings)) if _references(mappings, place) > _ALONE])
    mappings.clear()


def make_private(mappings: Iterable[mmap.mmap]) -> None:
    """Have mappings hold what they hold now, whatever the parent does: write to each page what is in there."""
    for memory in mappings:
        if memory.closed:  # by the task, which got it for an argument
            continue
        try:
            memory.madvise(_POPULATE_WRITE)
        except (OSError, ValueError):  # before Linux 5.14; a thread of the task's that writes there may lose a byte
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = memory[page]

"""Arena: memory that a pool's parent and its workers share, for large buffers on their way to a worker.

     parent                           memory without a name                     worker
    ┌────────────┐  copied once  ┌───────┬───────┬───────────────┐  mapped   ┌───────────────┐
    │ NumPy array├──────────────►│ block │ block │ (not in use)  ├──────────►│ a private copy│
    └────────────┘               └───────┴───────┴───────────────┘           └───────────────┘

A task's frame says where its buffers are. The worker maps them privately: what it writes goes to pages of its own.

Guarantees:
    No semaphore, no name in ``/dev/shm``, no resource tracker: the kernel frees the memory when the last process of the
    pool is gone, however they end.
    A block belongs to its task until a worker has answered or is dead, and the worker answers only when it does not
    need the block any more. Then it is used again, and given back after ``LINGER`` seconds without anything to do.
    Where there is no such memory, or not enough, buffers travel through the pipe.

Does not promise:
    That a process which a task forks, and which outlives it, has the task's arguments unchanged.
    That two tasks with the same array share a block, except within one call of ``map``, by its ``Memo``: a program may
    change an array between two calls of ``submit``.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from unirun import clock
from unirun.backends.pipes import forks
from unirun.backends.pipes.memo import Memo
from unirun.backends.pipes.protocol import Placed, ProtocolError

__all__ = ["LINGER", "Arena", "Block", "Shared", "keep", "opened"]

#: Bytes of a buffer from which a mapping in the worker costs less than the way through the pipe.
SMALLEST: Final = 1 << 18
#: Seconds for which unused blocks are kept: pages that are there already are filled ten times as fast as new ones, and
#: programs compute in bursts.
LINGER: Final = 10.0
#: Bytes of unused blocks that are kept at most.
_KEPT: Final = 1 << 26
#: Blocks at most: each has a mapping here, and before Python 3.13 a descriptor.
_BLOCKS: Final = 32
#: Objects of which a map remembers that they were sent: the newest.
_REMEMBERED: Final = 4
#: `MADV_POPULATE_WRITE` of Linux's <mman.h>, which Python does not name: as if each page were written to.
_POPULATE_WRITE: Final = 23


class Block:
    """A part of the arena. Guarded by the arena's lock."""

    __slots__ = ("memory", "offset", "size", "users")

    def __init__(self, offset: int, size: int) -> None:
        self.offset: int = offset
        self.size: int = size
        #: Where it is mapped here, from its second use on.
        self.memory: mmap.mmap | None = None
        self.users: int = 1


class Arena:
    """The parent's side.

    Args:
        ring: Wakes whoever calls ``tidy``.

    Raises:
        OSError: There is no such memory on this host.
        AttributeError: Nor on this platform.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        #: The descriptor, for the workers.
        self.shared: Shared = Shared(os.memfd_create("unirun", os.MFD_CLOEXEC))
        self._ring = ring
        self._owner = os.getpid()
        # Guards all below, and the users of blocks; never held while something is copied. Reentrant: the collector may
        # close a memo in a thread that holds it.
        self._lock = threading.RLock()
        self._end = self._length = 0  # of what is in use, and of the file
        self._used: set[Block] = set()
        self._free: list[Block] = []
        self._idle_since: float | None = None
        self._closed = False
        self._copying = 0  # threads that are writing into blocks, which must not be closed under them

    def place(
        self, buffers: Iterable[memoryview | Placed], memo: Memo | None
    ) -> tuple[list[memoryview | Placed], list[Block]]:
        """Copy what is large into blocks, as long as there is room.

        Returns:
            The buffers, with the places of those that were copied, and the blocks to release when they are not needed.
        """
        placed: list[memoryview | Placed] = []
        blocks: list[Block] = []
        try:
            for view in buffers:
                if isinstance(view, Placed) or view.nbytes < SMALLEST or (block := self._block(view, memo)) is None:
                    placed.append(view)
                else:
                    blocks.append(block)
                    placed.append(Placed(block.offset, view.nbytes))
        except BaseException:  # Ctrl-C
            self.release(blocks)
            raise
        return placed, blocks

    def _block(self, view: memoryview, memo: Memo | None) -> Block | None:
        key = id(view.obj), view.nbytes
        if memo is not None and ((memo.only is not None and key[0] not in memo.only) or not _is_whole(view)):
            memo = None  # it may change; or another part of the same object would look the same
        with self._lock:
            if memo is not None and (known := memo.sent.pop(key, None)) is not None:
                memo.sent[key] = known  # the newest now
                known[1].users += 1
                return known[1]
            block = self._allocate(view.nbytes)
            if block is None:
                return None
            self._copying += 1
        try:
            self._fill(block, view)
        except OSError:  # out of memory, or beyond RLIMIT_FSIZE: not to be used again, as part of it may not be there
            with self._lock:
                self._used.discard(block)
            self._give_back(block)
            return None
        except BaseException:  # Ctrl-C
            self.release([block])
            raise
        finally:
            with self._lock:
                self._copying -= 1
                if self._closed and not self._copying:
                    self._close()
        if memo is not None:
            with self._lock:
                if memo.closed or key in memo.sent:  # by another thread, meanwhile
                    return block
                block.users += 1
                memo.arena = self
                memo.sent[key] = view.obj, block
                if len(memo.sent) > _REMEMBERED:
                    self.release([memo.sent.pop(next(iter(memo.sent)))[1]])
        return block

    def _fill(self, block: Block, view: memoryview) -> None:
        """Copy a buffer into a block, which nobody else has."""
        if block.memory is not None:
            block.memory[: view.nbytes] = view  # of bytes, as it is raw
            return
        # Into new memory by a write, which need not clear it before.
        written = 0
        while written < view.nbytes:
            written += os.pwrite(self.shared.fd, view[written:], block.offset + written)

    def _allocate(self, length: int) -> Block | None:
        """Return a block with room for so many bytes, if there is one. The lock is held."""
        if self._closed or len(self._used) >= _BLOCKS:
            return None
        for block in self._free:
            if length <= block.size <= 2 * length:
                self._free.remove(block)
                block.users = 1
                self._used.add(block)
                if block.memory is None:
                    try:
                        block.memory = self._mapped(block)
                    except (OSError, ValueError):
                        pass  # no descriptor is left: it is written to again
                return block
        size = -(-length // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        try:
            if self._end + size > self._length:
                os.ftruncate(self.shared.fd, self._end + size)
        except OSError:  # beyond RLIMIT_FSIZE
            return None
        block = Block(self._end, size)
        self._end += size
        self._length = max(self._length, self._end)
        self._used.add(block)
        return block

    def release(self, blocks: Iterable[Block]) -> None:
        """Say that a task does not need its blocks any more."""
        quiet = False
        with self._lock:
            for block in blocks:
                block.users -= 1
                if not block.users and block in self._used:
                    self._used.remove(block)
                    self._free.append(block)
                    if sum(free.size for free in self._free) > _KEPT:
                        self._give_back(self._free.pop(0))
            if not self._used and self._free and self._idle_since is None:
                self._idle_since = clock.now()
                quiet = True
            elif self._used:
                self._idle_since = None
        if quiet:
            self._ring()

    def forget(self, memo: Memo) -> None:
        """Let go of what a memo holds."""
        with self._lock:
            blocks = [block for _, block in memo.sent.values()]
            memo.sent.clear()
            self.release(blocks)

    @property
    def due(self) -> float | None:
        """When ``tidy`` should be called, of ``time.monotonic``."""
        since = self._idle_since
        return None if since is None else since + LINGER

    def tidy(self) -> None:
        """Give back the memory of unused blocks, if nothing was done for a while."""
        with self._lock:
            if self._idle_since is None or self._used or clock.now() < self._idle_since + LINGER:
                return
            self._idle_since = None
            for block in self._free:
                self._give_back(block)
            self._free.clear()
            # The file stays as long as it is: a worker may have pages of its own in a mapping beyond a new end, and
            # would lose them. What was given back takes no memory.
            self._end = 0

    def _mapped(self, block: Block) -> mmap.mmap:
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        return mmap.mmap(self.shared.fd, block.size, flags=flags, offset=block.offset)

    def _give_back(self, block: Block) -> None:
        try:
            memory = block.memory or mmap.mmap(self.shared.fd, block.size, offset=block.offset)
            memory.madvise(mmap.MADV_REMOVE)
            memory.close()
        except (OSError, ValueError):
            pass  # no descriptor is left: what comes to lie there, or the end of the pool, will use the memory

    def close(self) -> None:
        """Give everything back: there are no workers any more.

        In a forked child, where it is the parent's, and another thread may have left the lock held: let go of blocks.
        """
        if os.getpid() != self._owner:
            for block in (*self._used, *self._free):
                if block.memory is not None:
                    block.memory.close()
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                if not self._copying:
                    self._close()

    def _close(self) -> None:
        for block in (*self._used, *self._free):
            if block.memory is not None:
                block.memory.close()
        self._used.clear()
        self._free.clear()
        self._idle_since = None
        forks.close(self.shared)


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
            except OSError:  # no descriptor or no address space is left
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


def _is_whole(view: memoryview) -> bool:
    """Tell whether a view shows all of the object that it is of."""
    try:
        return memoryview(view.obj).nbytes == view.nbytes
    except TypeError:  # it gives views of itself in some other way
        return False


class _Private(mmap.mmap):
    """A mapping that a task may get for an argument, and return."""

    def __reduce_ex__(self, version: object) -> tuple[type[bytearray], tuple[bytes]]:
        return bytearray, (self[:],)


def _map(fd: int, length: int, offset: int) -> mmap.mmap:
    """Map a part of a file so that what is written to it stays here."""
    more: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}  # else each holds a descriptor
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    return _Private(fd, length, flags=mmap.MAP_PRIVATE, prot=protection, offset=offset, **more)


def _references(mappings: list[mmap.mmap], place: int) -> int:
    return sys.getrefcount(mappings[place])


#: The references to a mapping that only the list knows. How many that are depends on the interpreter.
_ALONE: Final = _references([mmap.mmap(-1, 1)], 0) if hasattr(sys, "getrefcount") else 0  # PyPy has no arena


def keep(mappings: list[mmap.mmap]) -> None:
    """Make private what a task has kept; empty the list. The parent will use the blocks for something else.

    A page is private from the first write on; see mmap(2). So each is written to, and stays what it is.
    """
    # No weak references: before Python 3.15 they do not tell of what a `__del__` keeps that the collector calls.
    for memory in [mappings[place] for place in range(len(mappings)) if _references(mappings, place) > _ALONE]:
        try:
            memory.madvise(_POPULATE_WRITE)
        except (OSError, ValueError):  # before Linux 5.14; a thread of the task's that writes there may lose a byte
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = memory[page]
    mappings.clear()


def _received(fd: Any) -> Shared:
    return Shared(fd.detach())


def opened(ring: Callable[[], object]) -> Arena | None:
    """Return memory for large buffers, or ``None`` where this host has none.

    Nor with PyPy, whose workers would hold a mapping, and its descriptor, until some later collection.
    """
    if sys.implementation.name != "cpython":
        return None
    try:
        arena, _ = forks.made(lambda: ((made := Arena(ring)), made.shared))
    except (AttributeError, OSError):
        return None
    return arena  # type: ignore[no-any-return]

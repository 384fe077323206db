"""Arena: memory that a pool's parent shares with its workers, for large buffers on their way there; the parent's side.

     parent                           memory without a name                     worker
    ┌────────────┐  copied once  ┌───────┬───────┬───────────────┐  mapped   ┌───────────────┐
    │ NumPy array├──────────────►│ block │ block │ (not in use)  ├──────────►│ a private copy│
    └────────────┘               └───────┴───────┴───────────────┘           └───────────────┘

A task's frame says where its buffers are. The worker's side is in ``mapped``.

Guarantees:
    No semaphore, no name in ``/dev/shm``, no resource tracker: the kernel frees the memory when the last process of the
    pool is gone, however they end.
    A block belongs to its task until a worker has answered or is dead, and the worker answers only when it does not
    need the block any more. Then it is used again, and given back after ``LINGER`` seconds without anything to do.
    Where there is no such memory, or not enough, buffers travel through the pipe.

Does not promise:
    That two tasks with the same array share a block, except within one call of ``map``, by its ``Memo``: a program may
    change an array between two calls of ``submit``.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Final

from unirun import clock
from unirun.backends.pipes import forks
from unirun.backends.pipes.mapped import Shared
from unirun.backends.pipes.memo import Memo
from unirun.backends.pipes.protocol import Placed

__all__ = ["LINGER", "Arena", "Block", "opened"]

#: Bytes of a buffer from which a mapping in the worker costs less than the way through the pipe.
SMALLEST: Final = 1 << 18
#: Seconds for which unused blocks are kept: pages that are there already are filled ten times as fast as new ones, and
#: programs compute in bursts.
LINGER: Final = 10.0
#: Bytes of unused blocks that are kept at most.
_KEPT: Final = 1 << 26
#: Bytes that are given back in one step, for which they are mapped: there may be little address space left.
_STEP: Final = 1 << 24
#: Blocks at most: each has a mapping here, and before Python 3.13 a descriptor.
_BLOCKS: Final = 32
#: Objects of which a map remembers that they were sent: the newest.
_REMEMBERED: Final = 4


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
            self._idle_since = None
            self._copying += 1
        try:
            self._fill(block, view)
        except OSError:  # out of memory, or beyond RLIMIT_FSIZE: not to be used again, as part of it may not be there
            with self._lock:
                self._used.discard(block)
                self._give_back(block)
            self.release(())
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
                if key in memo.sent:  # by another thread, meanwhile
                    return block
                block.users += 1
                memo.arena = self
                memo.sent[key] = view.obj, block
                if len(memo.sent) > _REMEMBERED:
                    self.release([memo.sent.pop(next(iter(memo.sent)))[1]])
                if memo.closed:  # meanwhile, perhaps when it had no arena yet
                    self.forget(memo)
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
        if sum(free.size for free in self._free) > _KEPT:
            return None  # they cannot be given back on this host
        if len(self._used) + len(self._free) >= _BLOCKS:
            if not self._give_back(self._free[0]):
                return None
            del self._free[0]  # which was not used for longest
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
            while sum(free.size for free in self._free) > _KEPT:
                largest = max(self._free, key=lambda free: free.size)
                if not self._give_back(largest):
                    break
                self._free.remove(largest)
            if not self._used and self._free and self._idle_since is None:
                self._idle_since = clock.now()
                quiet = True
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
            self._free = [block for block in self._free if not self._give_back(block)]
            # The file stays as long as it is: a worker may have pages of its own in a mapping beyond a new end, and
            # would lose them. What was given back takes no memory.
            self._end = max((block.offset + block.size for block in self._free), default=0)

    def _mapped(self, block: Block) -> mmap.mmap:
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        return mmap.mmap(self.shared.fd, block.size, flags=flags, offset=block.offset)

    def _give_back(self, block: Block) -> bool:
        """Give the memory of a block back to the system, and return whether it was. The lock is held."""
        try:
            if block.memory is not None:
                block.memory.madvise(mmap.MADV_REMOVE)
                block.memory.close()
            else:
                for start in range(0, block.size, _STEP):
                    size = min(_STEP, block.size - start)
                    with mmap.mmap(self.shared.fd, size, offset=block.offset + start) as memory:
                        memory.madvise(mmap.MADV_REMOVE)
        except (OSError, ValueError):  # no descriptor or address space is left, or the host forbids it
            return False
        return True

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


def _is_whole(view: memoryview) -> bool:
    """Tell whether a view shows all of the object that it is of."""
    try:
        return memoryview(view.obj).nbytes == view.nbytes
    except TypeError:  # it gives views of itself in some other way
        return False


def opened(ring: Callable[[], object]) -> Arena | None:
    """Return memory for large buffers, or ``None`` where this host has none.

    Nor with PyPy, whose workers would hold a mapping, and its descriptor, until some later collection.
    """
    if sys.implementation.name != "cpython" or not hasattr(mmap, "MADV_REMOVE"):  # FreeBSD could not give any back
        return None
    try:
        arena, _ = forks.made(lambda: ((made := Arena(ring)), made.shared))
    except (AttributeError, OSError):
        return None
    return arena  # type: ignore[no-any-return]

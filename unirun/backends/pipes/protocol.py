"""What parent and worker of the pipes backend say to each other, as bytes: framing and pickling, and nothing else.

A frame is a header, the lengths and places of its buffers, the pickled data and the buffers that are placed nowhere
else:

    ┌───────┬──────┬─────────┬────────┬─────────┬────────┬─────────────────────┬──────┬─────────┐
    │ magic │ kind │ buffers │ serial │ seconds │ length │ lengths and places… │ data │ buffers │
    └───────┴──────┴─────────┴────────┴─────────┴────────┴─────────────────────┴──────┴─────────┘

Guarantees:
    A ``Reader`` yields exactly the frames that were written, however the bytes were cut on their way.
    Large buffers (pickle protocol 5, PEP 574) and large ``bytes`` are sent from where they lie and received where they
    stay; no frame is ever put together in one piece.

Does not promise:
    Anything about who may write: what is read from a pipe is unpickled, as ``multiprocessing`` does.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from unirun.pickling import NUMBERS, TEXTS, ours, theirs

__all__ = [
    "DROPPED",
    "END",
    "ERROR",
    "FOREIGN",
    "INITIALIZED",
    "LOG",
    "READY",
    "RESULT",
    "STDERR",
    "TASK",
    "UNINITIALIZED",
    "Frame",
    "Placed",
    "ProtocolError",
    "Reader",
    "dump",
    "frame",
    "is_simple",
    "load",
    "size",
]

# From the parent:
TASK: Final = ord("T")  # data: (function, arguments, keyword arguments)
END: Final = ord("Z")  # finish; nothing follows
# From the worker:
READY: Final = ord("r")  # this worker runs; nothing of the user's was called yet
INITIALIZED: Final = ord("i")  # it is ready, and the initializer is done
UNINITIALIZED: Final = ord("u")  # the initializer raised; the worker ends
RESULT: Final = ord("v")  # data: what the task returned
ERROR: Final = ord("e")  # data: (exception, its traceback as text)
DROPPED: Final = ord("d")  # the task was taken back before it began
STDERR: Final = ord("s")  # data: text that the worker wrote to standard error, already written there
LOG: Final = ord("l")  # data: a log record
FOREIGN: Final = ord("f")  # data: what was wrong with a message of the parent's; the worker ends

_KINDS: Final = frozenset({TASK, END, READY, INITIALIZED, UNINITIALIZED, RESULT, ERROR, DROPPED, STDERR, LOG, FOREIGN})
_MAGIC: Final = 0xD15C
_HEADER: Final = struct.Struct("<HHIQdQ")
#: Buffers from this size on travel beside the pickle. Below it the copy is cheaper than a memory area of its own.
_OUT_OF_BAND: Final = 1 << 16
#: As many in one frame; the list of their lengths has to fit into a reader's room.
_MOST_BUFFERS: Final = 1024
#: What a reader asks for at once.
_ROOM: Final = 1 << 17


class ProtocolError(Exception):
    """The bytes received are no message: the other side is no worker of ours, or something wrote into its pipe."""


class Placed(NamedTuple):
    """A buffer that is in memory which both sides have; see ``arena``.

    Attributes:
        offset: Where it begins.
        length: Its bytes.
    """

    offset: int
    length: int


class Frame(NamedTuple):
    """One message.

    Attributes:
        kind: One of the kinds of this module.
        serial: The task that it is about.
        seconds: How long that task took, in a result.
        data: The pickled data; valid until the reader is asked for room again.
        buffers: The buffers that the pickle refers to. They belong to the receiver; it fetches what is placed.
    """

    kind: int
    serial: int
    seconds: float
    data: memoryview | bytearray
    buffers: tuple[bytearray | Placed, ...]


class _Chunks(list[bytes]):
    """The file that a pickler writes to: large ``bytes`` come in one piece and are kept as they are."""

    def write(self, chunk: Any) -> None:
        # Views into the pickler's or a string's own memory are valid only now.
        self.append(chunk if type(chunk) is bytes else bytes(chunk))


def is_simple(value: object) -> bool:
    """Tell whether every pickler makes the same of a value, so that the quickest will do: a number, or a short text."""
    kind = type(value)
    return kind in NUMBERS or (kind in TEXTS and len(value) < _OUT_OF_BAND)  # type: ignore[arg-type]


def dump(value: object, pickler: type[pickle.Pickler] | None = None) -> tuple[list[bytes], list[memoryview]]:
    """Pickle ``value``.

    Args:
        value: What to send.
        pickler: A class with the arguments of ``pickle.Pickler``; the pools' own by default.

    Returns:
        The pickle in pieces, and the buffers beside it. These are views: what they show may still change.

    Raises:
        Exception: What pickling raises.
    """
    if is_simple(value):
        return [pickle.dumps(value, 5)], []
    if pickler is None and (pickler := ours()) is None:
        return [theirs(value)], []
    chunks = _Chunks()
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Return whether a buffer goes into the pickle."""
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < _OUT_OF_BAND or len(buffers) == _MOST_BUFFERS or type(view.obj) is bytes:
            return True  # of bytes, as whoever unpickles it may want just these, which no other memory can be
        buffers.append(view)
        return False

    pickler(chunks, 5, buffer_callback=keep).dump(value)
    return chunks, buffers


def size(parts: tuple[list[bytes], Sequence[memoryview | Placed]]) -> int:
    """Return the bytes of what ``dump`` returned, wherever they are."""
    chunks, buffers = parts
    pickled = len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))
    if not buffers:
        return pickled
    return pickled + sum(each.length if isinstance(each, Placed) else each.nbytes for each in buffers)


def load(message: Frame, buffers: Iterable[Any] | None = None) -> Any:
    """Unpickle what a frame carries.

    Args:
        message: The frame.
        buffers: Its buffers, where some of them were placed and have been fetched.

    Raises:
        Exception: What unpickling raises.
    """
    return pickle.loads(message.data, buffers=message.buffers if buffers is None else buffers)


def frame(
    kind: int,
    serial: int = 0,
    parts: tuple[list[bytes], Sequence[memoryview | Placed]] = ([], []),
    *,
    seconds: float = 0.0,
) -> list[bytes | memoryview]:
    """Return the bytes of a frame, in pieces to be written one after the other.

    Args:
        kind: One of the kinds of this module.
        serial: The task that it is about.
        parts: What ``dump`` returned; buffers may have been placed.
        seconds: How long that task took.
    """
    chunks, buffers = parts
    length = len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))
    header = _HEADER.pack(_MAGIC, kind, len(buffers), serial, seconds, length)
    if not buffers and length < _OUT_OF_BAND:
        return [header + b"".join(chunks)]
    inline: list[memoryview] = []
    table: list[int] = []
    for buffer in buffers:
        if isinstance(buffer, Placed):
            table += buffer.length, buffer.offset + 1
        else:
            table += buffer.nbytes, 0
            inline.append(buffer)
    return [header + struct.pack(f"<{len(table)}Q", *table), *chunks, *inline]


class Reader:
    """Cuts a stream of bytes into frames. It reads nothing itself: the caller fills ``room()`` and tells ``got``.

    Args:
        make: Makes the buffers of large frames.
    """

    def __init__(self, make: Callable[[int], bytearray] = bytearray) -> None:
        self._make = make
        self._buffer = memoryview(bytearray(_ROOM))
        self._start = self._end = 0
        # The frame that is being received, part by part, where it is too large for the buffer:
        self._header: tuple[int, int, float] | None = None
        self._parts: list[bytearray] = []
        self._places: list[Placed | None] = []  # of its buffers; None for those that are among the parts
        self._part = 0  # the one that is being filled,
        self._filled = 0  # so far

    def room(self) -> memoryview:
        """Return memory for the next bytes. What earlier frames carry as a view is not valid any more."""
        if self._header is not None:
            return memoryview(self._parts[self._part])[self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end > _ROOM // 2:
            kept = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        return self._buffer[self._end :]

    @property
    def answering(self) -> bool:
        """Whether a part of a large answer to a task has arrived, and the rest has not."""
        return self._header is not None and self._header[0] in (RESULT, ERROR)

    def only(self, count: int) -> Frame | None:
        """Return the frame that the ``count`` bytes in the room are, if they are a small one and there are no others.

        They are still to be told by ``got``, or else are forgotten.
        """
        length = count - _HEADER.size
        if self._header is not None or self._start != self._end or length < 0:
            return None
        magic, kind, buffers, serial, seconds, said = _HEADER.unpack_from(self._buffer, self._start)
        if magic != _MAGIC or kind not in _KINDS or buffers or said != length or length > _ROOM // 4:
            return None
        begin = self._start + _HEADER.size
        return Frame(kind, serial, seconds, self._buffer[begin : begin + length], ())

    def got(self, count: int) -> Iterator[Frame]:
        """Say that ``count`` bytes were put into the room, and iterate over the frames that are complete now.

        Raises:
            ProtocolError: These bytes are no message.
            MemoryError: A message is larger than what there is.
        """
        if self._header is not None:
            self._filled += count
        else:
            self._end += count
        while True:
            if self._header is None:
                message = self._next_small()
                if message is not None:
                    yield message
                    continue
                if self._header is None:
                    return
            if not self._fill():
                return
            yield self._take(self._header)  # of which nothing is kept here: it may be large

    def _take(self, header: tuple[int, int, float]) -> Frame:
        parts, self._header, self._parts = iter(self._parts), None, []
        data = next(parts)
        return Frame(*header, data, tuple(next(parts) if place is None else place for place in self._places))

    def _next_small(self) -> Frame | None:
        """Return the next frame, if all of it is in the buffer; begin to receive it in parts, if it is a large one."""
        begin = self._start + _HEADER.size
        if begin > self._end:
            return None
        magic, kind, count, serial, seconds, length = _HEADER.unpack_from(self._buffer, self._start)
        if magic != _MAGIC or kind not in _KINDS or count > _MOST_BUFFERS:
            raise ProtocolError(f"no message begins with {bytes(self._buffer[self._start : begin][:16])!r}")
        if count == 0 and length <= _ROOM // 4:
            if begin + length > self._end:
                return None
            self._start = begin + length
            return Frame(kind, serial, seconds, self._buffer[begin : self._start], ())
        if begin + 16 * count > self._end:
            return None
        table = struct.unpack_from(f"<{2 * count}Q", self._buffer, begin)
        self._start = begin + 16 * count
        pairs = list(zip(table[::2], table[1::2], strict=True))
        self._places = [Placed(place - 1, size) if place else None for size, place in pairs]
        lengths = [length, *(size for size, place in pairs if not place)]
        try:
            self._parts = [self._make(each) for each in lengths]
        except OverflowError as error:
            raise ProtocolError(f"no message has {max(lengths)} bytes") from error
        self._header = kind, serial, seconds
        self._part = self._filled = 0
        return None

    def _fill(self) -> bool:
        """Move what is in the buffer into the parts of a large frame; return whether it is complete."""
        while self._part < len(self._parts):
            part = self._parts[self._part]
            count = min(len(part) - self._filled, self._end - self._start)
            if count:
                part[self._filled : self._filled + count] = self._buffer[self._start : self._start + count]
                self._start += count
                self._filled += count
            if self._filled < len(part):
                return False
            self._part += 1
            self._filled = 0
        return True

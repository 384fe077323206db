"""The protocol by itself: what was written is read, however it was cut, and what is no message is refused."""

import os
import pickle
import socket
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirun.backends.pipes import protocol
from unirun.backends.pipes.protocol import ProtocolError, Reader

KINDS = st.sampled_from([protocol.TASK, protocol.RESULT, protocol.ERROR, protocol.LOG])
#: Around the limits: what fits into a reader's room, what travels beside the pickle.
SIZES = st.sampled_from([0, 1, 100, 30_000, (1 << 15) - 40, 1 << 15, (1 << 16) - 1, 1 << 16, (1 << 17) + 3, 300_000])


class Buffer:
    """A value whose bytes travel beside the pickle when there are many of them."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def __reduce_ex__(self, version: object) -> tuple[type["Buffer"], tuple[pickle.PickleBuffer]]:
        return Buffer, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Buffer) and bytes(self.data) == bytes(other.data)

    __hash__ = None  # type: ignore[assignment]


values = st.one_of(
    SIZES.map(lambda size: b"x" * size),
    SIZES.map(lambda size: "ü" * (size // 2)),
    SIZES.map(lambda size: Buffer(bytearray(b"y" * size))),
    st.lists(SIZES.map(lambda size: Buffer(bytearray(b"z" * size))), max_size=3),
)


def read_back(stream: bytes, cuts: Iterable[int]) -> list[tuple[int, int, float, object]]:
    """Return what a reader makes of a stream that arrives in pieces of at most those sizes, again and again."""
    reader = Reader()
    seen: list[tuple[int, int, float, object]] = []
    sizes = list(cuts)
    position = turn = 0
    while position < len(stream):
        room = reader.room()
        count = min(len(room), sizes[turn % len(sizes)], len(stream) - position)
        room[:count] = stream[position : position + count]
        position, turn = position + count, turn + 1
        seen += [(each.kind, each.serial, each.seconds, protocol.load(each)) for each in reader.got(count)]
    return seen


@given(
    st.lists(st.tuples(KINDS, st.integers(0, 2**64 - 1), st.floats(0, 1e6), values), max_size=6),
    st.lists(st.sampled_from([1, 7, 100, 4096, 65_536, 1 << 20]), min_size=1, max_size=4).filter(lambda c: max(c) > 99),
)
def test_what_is_written_is_read_however_it_is_cut(
    messages: list[tuple[int, int, float, object]], cuts: list[int]
) -> None:
    pieces = [
        piece
        for kind, serial, seconds, value in messages
        for piece in protocol.frame(kind, serial, protocol.dump(value), seconds=seconds)
    ]
    assert read_back(b"".join(bytes(piece) for piece in pieces), cuts) == messages


def test_large_data_is_not_copied_to_be_sent() -> None:
    """The pieces of a frame are the caller's own bytes and memory."""
    large, buffer = b"x" * 1_000_000, bytearray(1_000_000)
    pieces = protocol.frame(protocol.TASK, 1, protocol.dump((large, Buffer(buffer))))
    assert any(piece is large for piece in pieces)
    assert any(isinstance(piece, memoryview) and piece.obj is buffer for piece in pieces)


def test_a_large_buffer_stays_where_it_was_received() -> None:
    """And belongs to the receiver, who may write to it."""
    stream = b"".join(map(bytes, protocol.frame(protocol.TASK, 1, protocol.dump(Buffer(bytearray(200_000))))))
    reader = Reader()
    messages: list[protocol.Frame] = []
    while stream:
        room = reader.room()
        count = min(len(room), len(stream))
        room[:count], stream = stream[:count], stream[count:]
        messages += reader.got(count)
    (message,) = messages
    (buffer,) = message.buffers
    loaded = protocol.load(message).data
    loaded[0] = 7
    assert buffer[0] == 7


def test_many_buffers_in_one_frame() -> None:
    """More than a frame can name: the rest goes into the pickle."""
    value = [Buffer(bytearray(1 << 16)) for _ in range(1100)]
    pieces = protocol.frame(protocol.TASK, 1, protocol.dump(value))
    assert sum(isinstance(piece, memoryview) for piece in pieces) == 1024
    assert read_back(b"".join(map(bytes, pieces)), [1 << 20])[0][3] == value


@pytest.mark.parametrize(
    "garbage",
    [
        os.urandom(2).replace(b"\x5c", b"\x00") + b"\x00" * 100,
        b"Traceback (most recent call last):\n  File something\n",
        b"\x5c\xd1" + b"\xff" * 100,
        bytes(protocol.frame(protocol.RESULT)[0])[:1] + bytes(protocol.frame(protocol.RESULT)[0]) * 2,
    ],
)
def test_what_is_no_message_is_refused(garbage: bytes) -> None:
    reader = Reader()
    reader.room()[: len(garbage)] = garbage
    with pytest.raises(ProtocolError, match="no message"):
        list(reader.got(len(garbage)))


def test_an_absurd_length_is_refused() -> None:
    header = bytearray(protocol.frame(protocol.RESULT)[0])
    header[-8:] = (2**63).to_bytes(8, "little")
    reader = Reader()
    reader.room()[: len(header)] = header
    with pytest.raises((ProtocolError, MemoryError)):
        list(reader.got(len(header)))


def test_what_multiprocessing_can_send_can_be_sent() -> None:
    """Its own reducers are used: plain pickle cannot send a socket."""
    left, right = socket.socketpair()
    with left, right, pytest.raises(TypeError):
        pickle.dumps(left)
    left, right = socket.socketpair()
    with left, right:
        assert protocol.dump(left)[0]

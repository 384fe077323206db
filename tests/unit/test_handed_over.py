"""Connections and sockets in a function, an item or an argument: a pickle of one is to be loaded, and only once."""

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import resource_sharer
from multiprocessing.connection import Connection

import pytest

from tests.conformance.columns import FORKING
from tests.conformance.tasks import until
from tests.pipes.pools import opened
from unirun import Run, RuntimeConfig
from unirun.pickling import LoadedOnceError, dumper

pytestmark = [FORKING, pytest.mark.skipif(not hasattr(os, "fork"), reason="descriptors are handed over on a Unix")]
RUNGS = ["processes", "pipes", "threads", "inline"]
PATIENCE = 30.0


@pytest.fixture(autouse=True)
def server_that_ends() -> Iterator[None]:
    """Which has what is handed over until it is fetched."""
    yield
    resource_sharer.stop()


def report(connection: Connection, number: int) -> int:
    connection.send_bytes(b"%d" % number)
    return number


def greet(client: socket.socket, seconds: float) -> None:
    client.sendall(b"hi")
    client.close()
    time.sleep(seconds)


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def pool_on(rung: str) -> Run:
    """A scope of two workers, between which what is left of a batch can be shared out again."""
    config = RuntimeConfig(ladder=(rung,), start_method="fork", downgrade="silent", reuse=False)
    return Run(flavor="processes", max_workers=2, config=config)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_function_with_a_connection(rung: str) -> None:
    """Each item loads its function anew, where it has a state."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer, pool_on(rung) as executor:
        assert list(executor.map(partial(report, writer), range(40))) == list(range(40))
        assert sorted(int(reader.recv_bytes()) for _ in range(40)) == list(range(40))


@pytest.mark.parametrize("rung", RUNGS)
def test_sockets_as_items(rung: str) -> None:
    """Short ones and, in the midst of a batch, long ones, after which the rest is sent once more."""
    seconds = [0.03 if number % 20 == 19 else 0.0 for number in range(100)]
    with pool_on(rung) as executor:
        list(executor.map(time.sleep, [0.05] * 4))  # the workers are there
        clients = [socket.socketpair() for _ in range(100)]
        list(executor.map(greet, [theirs for _, theirs in clients], seconds))
        for ours, theirs in clients:
            theirs.close()
            ours.settimeout(PATIENCE)
            assert ours.recv(10) == b"hi"
            assert ours.recv(10) == b"", "somebody holds the other end"
            ours.close()


def test_a_task_that_is_taken_back() -> None:
    """From a worker that has a long one before it: what its pickle refers to is there still."""
    with opened("fork", 2) as pool:
        theirs, ours = socket.socketpair()
        with theirs, ours:
            pool.submit(greet, theirs, 0.0).result(PATIENCE)  # the server is there
        for future in [pool.submit(abs, number) for number in range(300)]:  # tasks are short
            future.result(PATIENCE)
        before = descriptors()
        clients = [socket.socketpair() for _ in range(100)]
        sent = [pool.submit(greet, each, 0.05 * (place % 20 == 10)) for place, (_, each) in enumerate(clients)]
        for future, (ours, theirs) in zip(sent, clients, strict=True):
            future.result(PATIENCE)
            theirs.close()
            ours.settimeout(PATIENCE)
            assert ours.recv(10) == b"hi"
            assert ours.recv(10) == b"", "somebody holds the other end"
            ours.close()
        until(lambda: descriptors() <= before, "the end of all copies")


@pytest.mark.parametrize("kind", ["connection", "socket", "shared"])
def test_what_can_be_loaded_once_is_refused(kind: str) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer, socket.socket() as a_socket:
        value = {"connection": writer, "socket": a_socket}.get(kind) or resource_sharer.DupFd(reader.fileno())
        dumps = dumper(lasting=True)
        with pytest.raises(LoadedOnceError):
            dumps([1, {"of": value}])
        assert dumps([1, str.upper, partial(abs, 2), b"x".hex]) == dumper()([1, str.upper, partial(abs, 2), b"x".hex])

"""Memory for large results: filled again when nobody else has it, and only then."""

import multiprocessing
import random
import sys
import time
from pathlib import Path

import pytest

from tests.conformance.columns import FORKING
from tests.pipes import jobs
from tests.pipes.jobs import Large
from unirun.backends.pipes import buffers as module
from unirun.backends.pipes.buffers import Buffers
from unirun.backends.pipes.pool import open_pipes

SIZE = 1 << 18
PATIENCE = 30.0
COUNTED = pytest.mark.skipif(sys.implementation.name != "cpython", reason="this Python counts no references")


@COUNTED
@pytest.mark.parametrize("way", ["variable", "view", "part of a view", "list"])
def test_what_somebody_has_is_not_used_again(way: str) -> None:
    buffers = Buffers()
    buffer = buffers.room(SIZE)
    number = id(buffer)
    holders = {
        "variable": buffer,
        "view": memoryview(buffer),
        "part of a view": memoryview(buffer)[5:6],
        "list": [buffer],
    }
    holder = holders.pop(way)
    holders.clear()
    del buffer
    assert id(buffers.room(SIZE)) != number
    del holder
    assert number in [id(each) for each in [buffers.room(SIZE), buffers.room(SIZE)]]


@COUNTED
def test_only_as_many_bytes_as_were_asked_for() -> None:
    buffers = Buffers()
    number = id(buffers.room(SIZE))
    other = buffers.room(SIZE + 1)
    assert len(other) == SIZE + 1
    assert id(other) != number
    own = buffers.room(SIZE)
    assert id(own) == number
    own += b"more"  # a task returned a buffer as it is, and this is the program's now
    del own
    assert len(buffers.room(SIZE)) == SIZE


@COUNTED
def test_little_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 4 * SIZE)
    buffers = Buffers()
    held = [buffers.room(SIZE) for _ in range(6)]
    oldest, newest = [id(each) for each in held[:2]], [id(each) for each in held[2:]]
    others = [buffers.room(5 * SIZE), buffers.room(SIZE - 1)]  # too large, and too small
    assert [len(each) for each in others] == [5 * SIZE, SIZE - 1]
    del held[2:]
    again = [buffers.room(SIZE) for _ in range(5)]
    assert sorted(map(id, again[:4])) == sorted(newest)
    assert id(again[4]) not in oldest + newest


@COUNTED
@pytest.mark.parametrize("length", [0, 10 * SIZE])
def test_what_has_another_length_now_is_the_programs(length: int) -> None:
    """A task may return a buffer as it is. However many, and whether somebody still has them."""
    buffers = Buffers()
    held = [buffers.room(SIZE) for _ in range(3)]
    for _ in range(100):
        own = buffers.room(SIZE)
        own[:] = bytes(length)
        del own
        assert len(buffers._kept) <= 4
    del held[1:]
    again = buffers.room(SIZE)
    assert len(again) == SIZE
    assert again is not held[0]


@FORKING
@COUNTED
@pytest.mark.parametrize("size", [80 << 20, 1000])
def test_what_is_remembered_makes_room(size: int, tmp_path: Path) -> None:
    """For what is too large, or too small, to be remembered."""
    program = tmp_path / "program.py"
    program.write_text(MEMORY.format(size=size), encoding="utf-8")
    done = jobs.run(program)
    assert (done.stdout, done.returncode) == ("made\n", 0), done.stderr


MEMORY = """
import resource
from unirun.backends.pipes.buffers import Buffers

buffers = Buffers()
held = [buffers.room(16 << 20) for _ in range(4)]
del held
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (40 << 20), resource.RLIM_INFINITY))
if {size} < 1 << 20:
    places, held = list(range(10_000)), [None] * 10_000  # this loop itself is to need no memory
    taken = []
    try:
        while True:
            taken.append(bytearray(1 << 20))
    except MemoryError:
        pass
    for place in places:
        held[place] = buffers.room({size})
else:
    assert len(buffers.room({size})) == {size}
print("made")
"""


@COUNTED
def test_nothing_is_remembered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.05)
    buffers = Buffers()
    assert buffers.due is None
    number = id(buffers.room(SIZE))
    assert buffers.due is not None
    buffers.tidy()
    assert id(buffers.room(SIZE)) == number
    time.sleep(0.06)
    buffers.tidy()
    assert buffers.due is None


@FORKING
def test_results_stay_what_they_are() -> None:
    """While others come and go, whoever holds them and for however long."""
    chance = random.Random(5)
    held: dict[int, Large] = {}
    with open_pipes(2, multiprocessing.get_context("fork")) as pool:
        for turn in range(30):
            numbers = range(10 * turn, 10 * turn + 10)
            futures = [pool.submit(jobs.filled, number, SIZE) for number in numbers]
            held.update((number, future.result(PATIENCE)) for number, future in zip(numbers, futures, strict=True))
            del futures
            for number in chance.sample(sorted(held), len(held) // 2):
                del held[number]
            assert all(held[number] == jobs.filled(number, SIZE) for number in held)


@FORKING
@COUNTED
def test_a_pool_that_has_ended_remembers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.2)
    with open_pipes(1, multiprocessing.get_context("fork")) as pool:
        buffers = pool._manager._buffers
        pool.submit(jobs.filled, 1, SIZE).result(PATIENCE)
        end = time.monotonic() + PATIENCE
        while buffers.due is not None:  # its thread wakes up for it
            assert time.monotonic() < end
            time.sleep(0.01)
        pool.submit(jobs.filled, 1, SIZE).result(PATIENCE)
        monkeypatch.setattr(module, "LINGER", 1000)
    assert buffers.due is None

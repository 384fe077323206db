"""Large buffers on their way to a worker: through shared memory, as private copies, and nothing of it stays behind."""

import contextlib
import gc
import mmap
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.pipes import jobs
from tests.pipes.jobs import Large
from tests.pipes.pools import place
from unirun import Run, RuntimeConfig
from unirun.backends.pipes import arena as module
from unirun.backends.pipes import mapped
from unirun.backends.pipes.arena import SMALLEST, Arena
from unirun.backends.pipes.manager import Manager
from unirun.backends.pipes.mapped import Shared
from unirun.backends.pipes.memo import Memo
from unirun.backends.pipes.pool import PipePool, open_pipes
from unirun.backends.pipes.protocol import Placed, ProtocolError

HERE = hasattr(os, "memfd_create") and sys.implementation.name == "cpython"
pytestmark = [FORKING, pytest.mark.skipif(not HERE, reason="buffers go through the pipe here: no memfd, or no CPython")]
PATIENCE = 30.0


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def pool(request: pytest.FixtureRequest) -> Iterator[PipePool]:
    with open_pipes(2, multiprocessing.get_context(request.param)) as opened:
        yield opened


@pytest.fixture
def single() -> Iterator[PipePool]:
    with open_pipes(1, multiprocessing.get_context("fork")) as opened:
        yield opened


def arena(pool: PipePool) -> Arena:
    """Return the arena of a pool."""
    found = pool._manager._arena
    assert found is not None
    return found


def memory(pool: PipePool) -> int:
    """Return the bytes that the arena of a pool takes now."""
    return os.fstat(arena(pool).shared.fd).st_blocks * 512


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def large(number: int, size: int = 3 * SMALLEST) -> Large:
    return Large(bytearray(number.to_bytes(4, "big") * (size // 4 + 1))[:size])


@pytest.mark.parametrize("size", [1, SMALLEST - 1, SMALLEST, SMALLEST + 1, 5 * SMALLEST + 7])
def test_what_arrives_is_what_was_sent(pool: PipePool, size: int) -> None:
    """Of any size, several at once, and again in blocks that were used before."""
    for turn in range(3):
        values = [large(100 * turn + number, size) for number in range(8)]
        futures = [pool.submit(jobs.checksum, value, large(7, size), value) for value in values]
        assert [future.result(PATIENCE) for future in futures] == [
            jobs.checksum(value, large(7, size), value) for value in values
        ]
    assert (memory(pool) > 0) == (size >= SMALLEST)


def test_a_task_has_a_copy(pool: PipePool) -> None:
    """What it writes reaches neither the caller nor the next task."""
    value = large(1)
    expected = jobs.checksum(value)
    memo = Memo()
    futures = [pool.submit_sharing(memo, place(), jobs.overwritten, value) for _ in range(10)]
    futures += [pool.submit(jobs.overwritten, value) for _ in range(10)]
    assert {future.result(PATIENCE) for future in futures} == {expected}
    assert jobs.checksum(value) == expected
    memo.close()


def test_a_kept_argument_stays_what_it_is(pool: PipePool) -> None:
    """Although its block is used for others."""
    values = [large(number) for number in range(4)]
    for value in values:
        pool.submit(jobs.keep, value).result(PATIENCE)
    for number in range(20):
        pool.submit(jobs.checksum, large(1000 + number)).result(PATIENCE)
    assert checksums_of_kept(pool, len(values)) == sorted(map(jobs.checksum, values))


def test_a_kept_argument_outlives_the_memory_of_others(single: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which was given back while nothing was done, and is less than before when it is used again."""
    monkeypatch.setattr(module, "LINGER", 0.1)
    values = [large(number) for number in range(4)]
    single.submit(jobs.keep, *values).result(PATIENCE)
    until(lambda: memory(single) == 0)
    single.submit(jobs.checksum, large(5)).result(PATIENCE)
    assert sorted(single.submit(jobs.checksums_of_kept).result(PATIENCE)[1]) == sorted(map(jobs.checksum, values))


def checksums_of_kept(pool: PipePool, count: int) -> list[int]:
    """Return them, of both workers, once it is so many."""
    seen: dict[int, list[int]] = {}
    end = time.monotonic() + PATIENCE
    while sum(map(len, seen.values())) < count:
        assert time.monotonic() < end
        both = [pool.submit(jobs.checksums_of_kept) for _ in range(2)]  # the one that is free gets the second
        seen.update(future.result(PATIENCE) for future in both)
    return sorted(checksum for one in seen.values() for checksum in one)


def test_an_argument_may_be_returned(pool: PipePool) -> None:
    """Whole or in part, while others come after it."""
    futures = [(number, pool.submit(jobs.same, large(number))) for number in range(12)]
    parts = [(number, pool.submit(jobs.tail, large(number))) for number in range(12)]
    for number, future in futures:
        assert future.result(PATIENCE) == large(number)
    for number, future in parts:
        assert future.result(PATIENCE) == Large(large(number).data[-400_000:])


def test_an_argument_may_be_kept_and_returned(pool: PipePool) -> None:
    """What is kept stays what it is, although the parent has the answer and uses the block again."""
    values = [large(number) for number in range(4)]
    for value in values:
        assert pool.submit(jobs.keep_and_return, value).result(PATIENCE) == value
    for number in range(20):
        assert pool.submit(jobs.same, large(1000 + number)).result(PATIENCE) == large(1000 + number)
    assert checksums_of_kept(pool, len(values)) == sorted(map(jobs.checksum, values))


def test_a_bare_buffer_may_be_returned(pool: PipePool) -> None:
    """It is writable memory, and comes back as such."""
    data = bytes(range(256)) * (SMALLEST // 128)
    assert bytes(pool.submit(jobs.same, pickle.PickleBuffer(bytearray(data))).result(PATIENCE)) == data


@pytest.mark.parametrize("size", [1000, SMALLEST // 2, 4 * SMALLEST])
def test_bytes_are_bytes(single: PipePool, size: int) -> None:
    """Also where they are pickled as a buffer, whose memory would have another type."""
    result = single.submit(jobs.same, pickle.PickleBuffer(b"x" * size)).result(PATIENCE)
    assert type(result) is bytes
    assert result == b"x" * size


def test_a_change_between_two_submits_is_seen(single: PipePool) -> None:
    """Only within one map are objects taken for the same."""
    value = Large(bytearray(SMALLEST))
    futures: list[tuple[int, Future[Any]]] = []
    for number in range(5):
        value.data[:4] = number.to_bytes(4, "big")
        future = single.submit(jobs.checksum, value)
        assert future.result(PATIENCE) == jobs.checksum(value)
        futures.append((number, future))
    assert len({future.result() for _, future in futures}) == 5


def test_within_a_map_an_object_is_sent_once(single: PipePool) -> None:
    """Its block is used by all tasks; the newest few objects are remembered, and let go at the end."""
    memo = Memo()
    value = large(1)
    blocks = set()
    for _ in range(10):
        single.submit_sharing(memo, place(), jobs.checksum, value).result(PATIENCE)
        blocks |= {block.offset for block in arena(single)._used}
    assert len(blocks) == 1
    for number in range(10):
        single.submit_sharing(memo, place(), jobs.checksum, large(number)).result(PATIENCE)
    assert len(arena(single)._used) == len(memo.sent) == module._REMEMBERED
    memo.close()
    assert not arena(single)._used


def test_parts_of_one_object_are_not_the_same(single: PipePool) -> None:
    """Although they are of one size."""
    memo = Memo()
    data = memoryview(bytearray(b"a" * SMALLEST + b"b" * SMALLEST))
    parts = [Large(data[:SMALLEST]), Large(data[SMALLEST:]), Large(data)]
    for part in parts:
        assert single.submit_sharing(memo, place(), jobs.checksum, part).result(PATIENCE) == jobs.checksum(part)
    memo.close()


def test_the_map_of_a_scope_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array that is in each item, or in the function."""
    copied = []
    fill = Arena._fill
    monkeypatch.setattr(Arena, "_fill", lambda *args: copied.append(1) or fill(*args))  # type: ignore[func-returns-value]
    value = large(1)
    with Run(flavor="processes", max_workers=2, config=RuntimeConfig(start_method="fork")) as executor:
        assert set(executor.map(jobs.checksum, [value] * 30)) == {jobs.checksum(value)}
    assert len(copied) <= 2 + 1  # the task that opens the pool is by itself, and two threads may send at once


@pytest.mark.parametrize("ending", ["result", "exception", "crash", "cancelled"])
def test_memory_is_given_back(ending: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When tasks are done, whatever became of them."""
    monkeypatch.setattr(module, "LINGER", 0.1)
    with open_pipes(2, multiprocessing.get_context("fork")) as pool:
        if ending == "result":
            futures = [pool.submit(jobs.checksum, large(number)) for number in range(20)]
        elif ending == "exception":
            futures = [pool.submit(jobs.fail_with, large(number)) for number in range(20)]
        elif ending == "crash":
            marks = [tmp_path / "0", tmp_path / "1"]
            futures = [pool.submit(jobs.sleep_with, large(5), 20, str(mark)) for mark in marks]
            until(lambda: all(mark.exists() for mark in marks))
            for pid in list(pool.processes):
                os.kill(pid, 9)
        else:
            held = [pool.submit(jobs.sleep_with, large(number), 0.3) for number in range(2)]
            futures = [pool.submit(jobs.checksum, large(number)) for number in range(20)]
            for future in futures:
                future.cancel()
            futures += held
        errors = [None if future.cancelled() else future.exception(PATIENCE) for future in futures]
        if ending == "crash":
            assert all(isinstance(error, BrokenProcessPool) for error in errors)
        until(lambda: not arena(pool)._used)
        until(lambda: memory(pool) == 0)
        assert pool.submit(jobs.checksum, large(5)).result(PATIENCE) == jobs.checksum(large(5))


def test_what_is_kept_for_later_is_bounded(single: PipePool) -> None:
    """Also of large blocks."""
    for _ in range(3):
        assert single.submit(jobs.checksum, large(1, module._KEPT // 2 + 5)).result(PATIENCE)
        assert single.submit(jobs.checksum, large(1, module._KEPT // 8)).result(PATIENCE)
    until(lambda: sum(block.size for block in arena(single)._free) <= module._KEPT)


def test_what_a_task_leaves_is_bounded(single: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the oldest is."""
    monkeypatch.setattr(module, "LINGER", 1000.0)
    for sizes in [SMALLEST] * 8, [module._KEPT // 2 + 1] * 4:
        single.submit(jobs.checksum, *(large(1, size) for size in sizes)).result(PATIENCE)
    until(lambda: memory(single) <= module._KEPT)


def test_blocks_of_many_sizes_are_bounded(single: PipePool) -> None:
    """Each has a mapping here, and before Python 3.13 a descriptor."""
    held = arena(single)
    for size in SMALLEST, 3 * SMALLEST:  # of which none fits into a block of the others
        _, blocks = held.place([memoryview(bytes(size))] * 100, None)
        held.release(blocks)
        assert len(blocks) == len(held._free) == module._BLOCKS


def test_what_cannot_be_given_back_is_used_again(single: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it cannot be used, no more is taken."""
    monkeypatch.setattr(mmap, "MADV_REMOVE", 12345)  # as where a host forbids it
    size = module._KEPT + (1 << 20)
    for number in (1, 2, 3):
        assert single.submit(jobs.checksum, large(number, size)).result(PATIENCE) == jobs.checksum(large(number, size))
    assert single.submit(jobs.checksum, large(4)).result(PATIENCE) == jobs.checksum(large(4))
    assert memory(single) == size


def test_nobody_wakes_while_a_task_has_memory(single: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there was a time without anything to do."""
    monkeypatch.setattr(module, "LINGER", 0.1)
    turns = []
    turn = Manager._turn
    monkeypatch.setattr(Manager, "_turn", lambda manager: turns.append(1) or turn(manager))  # type: ignore[func-returns-value]
    single.submit(jobs.checksum, large(1)).result(PATIENCE)
    until(lambda: arena(single).due is not None)
    single.submit(jobs.sleep_with, large(2), 1).result(PATIENCE)
    assert len(turns) < 50


def test_a_child_that_a_task_forks_has_its_arguments(pool: PipePool, tmp_path: Path) -> None:
    """Also when the task is done, and others have its memory."""
    gate, path = str(tmp_path / "gate"), tmp_path / "said"
    pool.submit(jobs.fork_with, large(1), gate, str(path)).result(PATIENCE)
    for number in range(20):
        pool.submit(jobs.checksum, large(1000 + number)).result(PATIENCE)
    Path(gate).touch()
    until(path.exists)
    assert int(path.read_text()) == jobs.checksum(large(1))


def test_tasks_may_keep_more_than_there_are_descriptors(single: PipePool) -> None:
    there = single.submit(jobs.descriptors).result(PATIENCE)
    for number in range(100):
        single.submit(jobs.keep, large(number, SMALLEST)).result(PATIENCE)
    assert single.submit(jobs.descriptors).result(PATIENCE) <= there + mapped._MAPPED
    kept = single.submit(jobs.checksums_of_kept).result(PATIENCE)[1]
    assert kept == [jobs.checksum(large(number, SMALLEST)) for number in range(100)]


def test_nothing_has_a_name() -> None:
    """Not in /dev/shm, not in the folder for temporary files: nobody has to remove it."""
    before = named(os.getpid())
    with open_pipes(1, multiprocessing.get_context("fork")) as pool:
        worker = pool.submit(os.getpid).result(PATIENCE)
        future = pool.submit(jobs.sleep_with, large(1), 1)
        until(lambda: "memfd:" in Path(f"/proc/{worker}/maps").read_text())  # it has its argument
        assert named(os.getpid()) | named(worker) == before
        future.result(PATIENCE)


def named(process: int) -> set[str]:
    """Return the files that a process has open or in its memory, and that others could find."""
    paths = {line.split(maxsplit=5)[-1].strip() for line in Path(f"/proc/{process}/maps").read_text().splitlines()}
    for descriptor in list(Path(f"/proc/{process}/fd").iterdir()):
        with contextlib.suppress(OSError):  # it was that of the folder itself
            paths.add(os.readlink(descriptor))
    folders = "/dev/shm/", os.path.join(tempfile.gettempdir(), "")
    return {path for path in paths if path.startswith(folders) and os.path.exists(path)}


def test_descriptors_do_not_pile_up(single: PipePool) -> None:
    """Neither here nor in the worker, also where it keeps its arguments."""
    single.submit(jobs.checksum, large(1)).result(PATIENCE)
    here, there = jobs.descriptors(), single.submit(jobs.descriptors).result(PATIENCE)
    for number in range(30):
        single.submit(jobs.checksum, large(number), large(number + 1)).result(PATIENCE)
    gc.collect()
    assert jobs.descriptors() <= here + module._BLOCKS
    assert single.submit(jobs.descriptors).result(PATIENCE) == there


def test_more_buffers_than_blocks(pool: PipePool) -> None:
    """The others go through the pipe."""
    values = [large(number, SMALLEST) for number in range(2 * module._BLOCKS)]
    assert pool.submit(jobs.checksum, *values).result(PATIENCE) == jobs.checksum(*values)


def test_a_forked_child_lets_go(single: PipePool) -> None:
    """It must not keep the memory of its parent's pool."""
    single.submit(jobs.checksum, large(1)).result(PATIENCE)
    single.submit(jobs.checksum, large(1)).result(PATIENCE)
    shared = arena(single).shared
    child = os.fork()
    if not child:
        mapped = "memfd:unirun" in Path("/proc/self/maps").read_text()
        os._exit(10 * (shared.fd != -1) + mapped)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert single.submit(jobs.checksum, large(2)).result(PATIENCE) == jobs.checksum(large(2))


@pytest.mark.parametrize("place", [Placed(1 << 40, SMALLEST), Placed(0, 1 << 40), Placed(0, 0)])
def test_what_is_not_there_is_no_message(place: Placed) -> None:
    """A worker that is told so dies, as of any foreign message."""
    shared = Shared(os.memfd_create("test"))
    os.ftruncate(shared.fd, 1 << 20)
    with pytest.raises(ProtocolError, match="there is nothing at"):
        shared.fetch([place])
    shared.close()


def test_a_host_without_such_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends through the pipe."""

    def refuse(name: str, flags: int = 0) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with open_pipes(2, multiprocessing.get_context("fork")) as pool:
        assert pool._manager._arena is None
        assert pool.submit(jobs.checksum, large(1)).result(PATIENCE) == jobs.checksum(large(1))


def test_what_goes_through_the_pipe_is_not_torn(single: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has submitted a buffer may write into it: the task gets all of it as it was."""
    monkeypatch.setattr(single._manager.dispatch._packer, "_arena", None)
    for number in range(10):
        value = large(number, 4 << 20)
        expected = jobs.checksum(value)
        future = single.submit(jobs.checksum, value)
        value.data[:] = b"\xff" * len(value.data)
        assert future.result(PATIENCE) == expected


def test_a_limit_of_file_sizes(tmp_path: Path) -> None:
    """Which counts for memory without a name, too: what does not fit goes through the pipe."""
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, resource\n"
        "from tests.pipes import jobs\n"
        "from tests.pipes.test_arena import large, arena\n"
        "from unirun.backends.pipes.pool import open_pipes\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "with open_pipes(1, multiprocessing.get_context('fork')) as pool:\n"
        "    for size in (1 << 19, 1 << 22, 1 << 19):\n"
        "        value = large(1, size)\n"
        "        assert pool.submit(jobs.checksum, value).result() == jobs.checksum(value)\n"
        "    print(arena(pool)._end)\n"
    )
    ended = jobs.run(program)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert 0 < int(ended.stdout) <= 1 << 20


def test_arrays() -> None:
    """Are arrays there: writable, of any order and kind."""
    numpy = pytest.importorskip("numpy")
    with open_pipes(2, multiprocessing.get_context("fork")) as pool:
        for array in (
            numpy.arange(1 << 18, dtype="f8"),
            numpy.asfortranarray(numpy.ones((700, 700))),
            numpy.arange(1 << 20, dtype="i4")[::2],
            numpy.broadcast_to(numpy.arange(1 << 17, dtype="f8"), (3, 1 << 17)),
        ):
            result = pool.submit(jobs.same, array).result(PATIENCE)
            assert (result == array).all()
            assert result.flags.writeable == array.flags.writeable or not array.flags.c_contiguous


def test_what_a_dying_object_keeps_stays_as_it_is(single: PipePool) -> None:
    """In a cycle: until Python 3.15 a weak reference tells nothing of what its `__del__` keeps."""
    single.submit(jobs.collect, [jobs.Holder(large(1))]).result(PATIENCE)
    jobs.kept.clear()  # this process's own, of the argument
    expected = jobs.checksum(large(1))
    for number in range(2, 5):
        single.submit(jobs.checksum, large(number)).result(PATIENCE)
        assert single.submit(jobs.checksums_of_kept).result(PATIENCE)[1][-1] == expected

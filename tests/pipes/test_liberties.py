"""What programs do to a pool over pipes, or to the process around it: signals, forks, children, what they print."""

import gc
import io
import linecache
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.conformance.tasks import until
from tests.pipes import jobs
from tests.pipes.pools import opened
from unirun.backends.pipes import ear, forks
from unirun.backends.pipes.handle import Handle
from unirun.backends.pipes.lastwords import Watched
from unirun.backends.pipes.manager import Manager
from unirun.backends.pipes.pace import Pace
from unirun.backends.pipes.pool import PipePool

pytestmark = [
    FORKING,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="pipes need a Unix"),
    pytest.mark.usefixtures("nothing_left"),
]
PATIENCE = 30.0
ROOT = Path(__file__).parents[2]
METHODS = multiprocessing.get_all_start_methods()
ON_LINUX = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists what a process has open")


# ------------------------------------------------------------------------------------------- children of the process


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["ignored", "waited for"])
def test_somebody_else_waits_for_all_children(method: str, how: str) -> None:
    """The kernel, where SIGCHLD is ignored, or a handler of the program's: nobody can say how a worker ended."""

    def reap(signum: int, frame: FrameType | None) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    with opened(method) as pool:  # starts the helpers of the start method, which must not be waited for
        pool.submit(jobs.square, 3).result(PATIENCE)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN if how == "ignored" else reap)
    try:
        with opened(method) as pool:
            assert pool.submit(jobs.square, 3).result(PATIENCE) == 9
            assert type(pool.submit(jobs.crash, "exit").exception(PATIENCE)) is BrokenProcessPool
            assert pool.submit(jobs.square, 3).result(PATIENCE) == 9
        assert not multiprocessing.active_children()
    finally:
        signal.signal(signal.SIGCHLD, before)


@ON_LINUX
def test_pools_that_are_opened_at_once_share_no_pipe() -> None:
    """Else the death of a worker would not be noticed as long as one of the other pool's lives."""
    for _ in range(5):
        pools: list[PipePool] = []
        barrier = threading.Barrier(2)

        def open_one(pools: list[PipePool] = pools, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            pools.append(opened(workers=3))

        threads = [threading.Thread(target=open_one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        def disjoint(pools: list[PipePool] = pools) -> bool:
            first, second = ([sockets(pid) for pid in pool.processes] for pool in pools)
            return all(one.isdisjoint(other) for one in first for other in second)

        until(disjoint, "the closing of what new workers inherited")
        for pool in pools:
            pool.shutdown()


def sockets(pid: int) -> set[str]:
    links = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            pass  # the folder's own
    return {link for link in links if link.startswith("socket:")}


@ON_LINUX
def test_a_fork_of_the_program_gets_no_end_of_a_pipe(tmp_path: Path) -> None:
    """Also one that happens while a pool is being opened in another thread."""
    context: Any = multiprocessing.get_context("fork")
    for attempt in range(4):
        journal = tmp_path / f"journal {attempt}"
        pools: list[PipePool] = []
        thread = threading.Thread(target=lambda pools=pools: pools.append(opened(workers=4)))
        thread.start()
        children = [context.Process(target=time.sleep, args=(60,)) for _ in range(4)]
        for child in children:
            child.start()
        thread.join()
        try:
            futures = [pools[0].submit(jobs.note, str(journal), "begun", 60) for _ in range(4)]
            while not journal.exists() or journal.read_text().count("begun") < 4:
                time.sleep(0.001)
            pools[0].kill_workers()
            assert [type(future.exception(PATIENCE)) for future in futures] == [BrokenProcessPool] * 4
        finally:
            for child in children:
                child.kill()
                child.join()
            pools[0].shutdown()


@ON_LINUX
def test_a_fork_in_whose_midst_the_first_pool_is_opened(tmp_path: Path) -> None:
    """By another thread, say: what is to be done after a fork is then done after one before which it was not begun."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "os.register_at_fork(before=lambda: __import__('unirun.backends.pipes.forks'))\n"
        "for _ in range(2):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os._exit(0)\n"
        "    print(os.waitpid(child, 0)[1], 'unirun.backends.pipes.forks' in sys.modules)\n"
    )
    done = jobs.run(program)
    assert (done.stdout, done.stderr) == ("0 True\n0 True\n", "")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_ctrl_c_reaches_other_children_of_the_program(method: str) -> None:
    """The helpers of the start method are not started while it is kept from a new worker."""
    with opened(method, 1) as pool:
        pool.submit(jobs.square, 3).result(PATIENCE)
    context: Any = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    child = context.Process(target=jobs.put_blocked_signals, args=(results,))
    child.start()
    assert results.get() == set()
    child.join()


# ---------------------------------------------------------------------------------------------- children of a task


@pytest.mark.parametrize("how", ["multiprocessing", "fork", "pool"])
def test_a_child_of_a_task_writes_to_no_pipe_of_its_worker(how: str, tmp_path: Path) -> None:
    """Nor to the file that has its number there."""
    file = tmp_path / "file"
    with opened() as pool:
        pool.submit(jobs.child_writes, how, str(file)).result(PATIENCE)
        assert file.read_text() == "mine\n"
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9


def test_a_child_of_a_task_that_prints_is_not_stuck() -> None:
    """Whatever a thread of the task's was printing when it was forked."""
    with opened() as pool:
        busy = pool.submit(jobs.sleep, 0.1)
        busy.add_done_callback(lambda _: time.sleep(1))  # the parent reads nothing meanwhile
        assert pool.submit(jobs.fork_while_printing).result(PATIENCE) == 7


def test_pools_in_daemonic_processes_in_workers() -> None:
    with opened(workers=1) as pool:
        assert pool.submit(jobs.nested, 2).result(PATIENCE) == 2


# ------------------------------------------------------------------------------------------------------------ signals


def test_what_a_signal_handler_prints_does_not_cut_a_result() -> None:
    size = 40 << 20
    with opened() as pool:
        assert pool.submit(jobs.ticking, size).result(PATIENCE) == b"\0" * size


def test_cancel_in_a_signal_handler(tmp_path: Path) -> None:
    """It may come in the middle of a submit, which holds the pool's lock."""
    gate = tmp_path / "gate"
    with opened() as pool:
        long = pool.submit(jobs.hold, str(gate))
        while not gate.with_name("gate.held").exists():
            time.sleep(0.001)

        def cancel(signum: int, frame: FrameType | None) -> None:
            long.cancel()
            signal.setitimer(signal.ITIMER_REAL, 0.0007)

        before = signal.signal(signal.SIGALRM, cancel)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        try:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert pool.submit(jobs.square, 3).result(PATIENCE) == 9
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            gate.touch()
        assert long.result(PATIENCE)


@pytest.mark.parametrize("function", ["_feed", "pack", "give", "release"])
def test_ctrl_c_in_a_submit(function: str) -> None:
    """A later one is served, and shutdown ends."""
    with opened(workers=1) as pool:
        pool.submit(jobs.square, 3).result(PATIENCE)
        time.sleep(0.1)

        def interrupt(frame: FrameType, event: str, argument: object) -> None:
            if frame.f_code.co_name == function:
                sys.settrace(None)
                raise KeyboardInterrupt

        traced = sys.gettrace()
        sys.settrace(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                pool.submit(jobs.square, 4)
        finally:
            sys.settrace(traced)
        assert pool.submit(jobs.square, 5).result(PATIENCE) == 25


@pytest.mark.parametrize("crash", [False, True], ids=["goes-on", "crash"])
@pytest.mark.parametrize("function", ["reclaim", "revoke", "_take_back"])
def test_ctrl_c_in_a_cancel(function: str, crash: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes, each task is run or cancelled, once, and those that the others waited behind too."""
    monkeypatch.setattr(Pace, "ahead", 100)
    line, lines = 0, 0
    while line <= lines:
        journal, gate = tmp_path / f"journal {line}", tmp_path / f"gate {line}"
        with opened(workers=1) as pool:
            pool.submit(jobs.square, 3).result(PATIENCE)
            (process,) = pool.processes
            os.kill(process, signal.SIGSTOP)
            pool.submit(jobs.square, 3)  # what is submitted until this is done goes to the worker at once
            held = pool.submit(jobs.hold, str(gate))
            futures = [pool.submit(jobs.note, str(journal), str(number)) for number in range(20)]
            os.kill(process, signal.SIGCONT)
            try:
                until(gate.with_name(f"{gate.name}.held").exists, "the held task")
                (worker,) = pool._manager.dispatch.workers
                until(partial(_holds, worker, 21), "the giving of all")
                lines = max(lines, _interrupted_at(line, function, futures[7].cancel))
                if crash:
                    os.kill(process, signal.SIGKILL)
                futures += [pool.submit(jobs.note, str(journal), str(number)) for number in range(20, 40)]
            finally:
                gate.touch()
            assert isinstance(held.exception(PATIENCE), BrokenProcessPool) == crash
            assert len(wait(futures, PATIENCE).done) == 40
        ran = [str(number) for number, future in enumerate(futures) if not future.cancelled()]
        assert not [future for future in futures if not future.cancelled() and future.exception() is not None]
        assert sorted(journal.read_text().split(), key=int) == ran
        assert len(ran) >= 39
        line += 1
    assert lines > 1


@pytest.mark.skipif(not ear._KEPT_OUT, reason="Ctrl-C may leave any lock locked here: see ear._KEPT_OUT")
def test_ctrl_c_in_thousands_of_cancels() -> None:
    """By a signal, wherever it comes: the pool serves others, and no lock stays locked."""
    done = subprocess.run(
        [sys.executable, "-c", CANCELS], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE * 3
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


CANCELS = """
import multiprocessing, random, signal, sys, time
from concurrent.futures import wait
from unirun.backends.pipes.pool import open_pipes

chance = random.Random(1)
signal.signal(signal.SIGALRM, signal.default_int_handler)
interrupted = 0
# Only to this thread, and only where it is tried.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
with open_pipes(1, multiprocessing.get_context("fork")) as pool:
    for _ in range(400):
        futures = [pool.submit(time.sleep, 0.005), *(pool.submit(abs, 1) for _ in range(3))]
        time.sleep(0.001)
        try:
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-6, 1.2e-4))
                for future in futures[1:] * 2:
                    future.cancel()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        except KeyboardInterrupt:
            interrupted += 1
        if wait(futures, 20).not_done:
            sys.exit(f"{futures} are not done")
    print(interrupted)
"""


def _holds(worker: Handle, count: int) -> bool:
    return len(worker.tasks) == count


def _interrupted_at(line: int, function: str, call: Callable[[], object]) -> int:
    """Have a call interrupted before the line-th line that is run in a function; return how many were."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_name != function:
            return trace
        # Nothing is called before these two, so there it cannot come.
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and "True in held" not in text and "lock.release" not in text:
            count += 1
            if count - 1 == line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    traced = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(traced)
    return count


def test_a_second_ctrl_c_does_not_hit_what_a_task_does_in_the_course_of_the_first(tmp_path: Path) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    pool = opened(workers=1)
    pool.submit(jobs.clean_up, str(begun), str(ended))
    while not begun.exists():
        time.sleep(0.001)
    os.kill(next(iter(pool.processes)), signal.SIGINT)  # the terminal's
    pool.interrupt()  # what leaving the block does
    pool.shutdown()
    assert ended.exists()


# -------------------------------------------------------------------------------------------------- workers that fail


def test_a_pool_that_breaks_while_a_task_is_being_pickled() -> None:
    with opened(on_crash="raise") as pool:
        list(pool.map(jobs.sleep, [0.05] * 2))
        crashing = pool.submit(jobs.crash, "exit", 0.2)
        slow = pool.submit(jobs.square, jobs.SlowToPickle(1.0))
        assert type(crashing.exception(PATIENCE)) is BrokenProcessPool
        assert type(slow.exception(PATIENCE)) is BrokenProcessPool


@ON_LINUX
@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="its allocator has address space in reserve, which the limit does not reach",
)
def test_a_task_that_no_worker_can_receive(tmp_path: Path) -> None:
    """It costs two workers, not one after the other for ever."""
    journal = tmp_path / "journal"
    with opened(workers=1, initializer=jobs.limit_memory, initargs=(100 << 20, str(journal))) as pool:
        assert pool.submit(len, b"small").result(PATIENCE) == 5
        error = pool.submit(len, bytes(400 << 20)).exception(PATIENCE)
        assert type(error) is BrokenProcessPool
        assert "MemoryError" in str(error)
        assert pool.submit(len, b"small").result(PATIENCE) == 5
    assert journal.read_text().count("started") == 3


def test_workers_that_only_sometimes_come_up(tmp_path: Path) -> None:
    """Half a start is a start: after some attempts the pool goes on with those that it has, and says so."""
    program = tmp_path / "half.py"
    program.write_text(
        "import multiprocessing, os, sys\n"
        "if __name__ != '__main__':\n"
        f"    fd = os.open({str(tmp_path / 'count')!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "    os.write(fd, b'x')\n"
        "    if os.fstat(fd).st_size > 1:\n"
        "        os._exit(1)\n"
        "from tests.pipes import jobs\n"
        "from unirun.backends.pipes.pool import open_pipes\n"
        "if __name__ == '__main__':\n"
        "    with open_pipes(2, multiprocessing.get_context('spawn')) as pool:\n"
        "        tasks = 10\n"
        "        while tasks and pool.short is None:\n"
        "            assert list(pool.map(jobs.sleep, [0.2] * 10)) == [0.2] * 10\n"
        "            tasks -= 1\n"
        "        print(pool.short.stage)\n"
    )
    done = jobs.run(program)
    assert done.stdout == "bootstrap\n", done.stderr
    assert (tmp_path / "count").stat().st_size <= 6


def test_a_task_that_is_cancelled_while_its_worker_is_being_buried(tmp_path: Path) -> None:
    """A worker that lives and has closed its pipe is waited for; what it had not begun is cancelled all the same."""
    journal = tmp_path / "journal"
    pool = opened(workers=1)
    list(pool.map(jobs.square, range(1000)))
    pool.submit(jobs.sleep, 0.001)
    pool.submit(jobs.close_everything)
    futures = [pool.submit(jobs.note, str(journal), "ran") for _ in range(20)]
    time.sleep(0.3)
    pool.shutdown(wait=False, cancel_futures=True)
    pool.shutdown()
    assert all(future.cancelled() for future in futures)
    assert not journal.exists()


# -------------------------------------------------------------------------------------------------- what is printed


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_task_that_replaces_what_it_prints_to(stream: str) -> None:
    with opened(workers=1) as pool:
        pool.submit(jobs.replace, stream).result(PATIENCE)
        workers = {pool.submit(jobs.pid).result(PATIENCE) for _ in range(5)}
        assert len(workers) == 1


def test_records_of_loggers_that_do_not_propagate(caplog: pytest.LogCaptureFixture) -> None:
    quiet = logging.getLogger("job")
    quiet.propagate = False
    quiet.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, "job"), opened(log_level=logging.INFO) as pool:
            pool.submit(jobs.log, logging.INFO, "heard").result(PATIENCE)
        assert [record.getMessage() for record in caplog.records if record.name == "job"] == ["heard"]
    finally:
        quiet.removeHandler(caplog.handler)
        quiet.propagate = True


def test_ctrl_c_while_a_worker_is_started() -> None:
    """Wherever it comes there is no worker that nobody knows: the exit would wait for it for ever.

    Nor is Ctrl-C still kept from the program after that; see `hears_ctrl_c`.
    """
    functions = [each.__code__ for each in (Manager._hire, Handle.__init__, Handle._start)]
    before = set(multiprocessing.active_children())
    line, lines = 0, 0
    while line <= lines:
        seen = 0

        def interrupt(frame: FrameType, event: str, argument: object, stop: int = line) -> Any:
            nonlocal seen
            if frame.f_code in functions and event == "line":
                seen += 1
                if seen == stop:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return interrupt if frame.f_code in functions else None

        traced = sys.gettrace()
        sys.settrace(interrupt)
        try:
            with opened(workers=1):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(traced)
        lines = max(lines, seen)
        until(lambda: set(multiprocessing.active_children()) <= before, f"the end of the worker, after line {line}")
        line += 1
    assert lines > 20


def test_the_collector_finds_a_pool_while_another_one_makes_its_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the pool's own thread closes its pipes just then. Each waited for the other's lock, and forks for both."""
    ending, closing = threading.Event(), Manager._close

    def late(manager: Manager) -> None:
        ending.set()
        time.sleep(0.2)
        closing(manager)

    monkeypatch.setattr(Manager, "_close", late)
    gc.disable()
    try:
        pool: Any = opened(workers=1)
        pool.itself = pool  # so that only the collector finds it
        pool.shutdown(wait=False)
        del pool
        assert ending.wait(PATIENCE)

        def pipe() -> Any:
            time.sleep(0.5)
            gc.collect()
            return multiprocessing.Pipe()

        maker = threading.Thread(target=forks.made, args=(pipe,), daemon=True)
        maker.start()
        maker.join(PATIENCE)
        assert not maker.is_alive()
    finally:
        gc.enable()


def test_a_flood_on_standard_error_does_not_wake_the_parent_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Last words are told at once, and of a flood its newest words, now and then."""
    now = 0.0
    told: list[str] = []
    monkeypatch.setattr("unirun.clock.now", lambda: now)
    stream = io.StringIO()
    watched = Watched(stream, told.append)
    for number in range(1000):
        watched.write(f"{number}\n")
    assert told == [f"{number}\n" for number in range(1000)]
    for number in range(1000, 4000):
        now += 1e-5
        watched.write(f"{number}\n")
    assert len(told) <= 1031
    now += 1
    watched.write("last words\n")
    assert told[-1].endswith("3998\n3999\nlast words\n")
    assert len(told[-1]) <= 2048
    assert stream.getvalue().count("\n") == 4001

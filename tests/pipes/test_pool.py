"""What a pool over pipes does that the stdlib's does not: a crash costs one task, time limits, taking tasks back."""

import errno
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.conformance.tasks import until
from tests.pipes import jobs
from tests.pipes.pools import opened, place
from unirun import Run, RuntimeConfig, clock, configure
from unirun.backends.pipes import forks, manager, places
from unirun.backends.pipes.bell import Bell
from unirun.backends.pipes.by_value import by_value
from unirun.backends.pipes.dispatch import Dispatch
from unirun.backends.pipes.handle import Handle
from unirun.backends.pipes.manager import Manager
from unirun.backends.pipes.memo import Memo
from unirun.backends.pipes.pace import Pace
from unirun.backends.pipes.pool import PipePool, open_pipes
from unirun.compat.concurrent.futures import ProcessPoolExecutor
from unirun.refusal import failure

FORKS_WITH_SIGNALS = sys.implementation.name == "pypy"

pytestmark = [
    FORKING,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="pipes need a Unix"),
    pytest.mark.usefixtures("nothing_left"),
]
ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ------------------------------------------------------------------------------------------------------------ crashes


@pytest.mark.parametrize(
    ("how", "said"), [("exit", "exit code 7"), ("SIGKILL", "SIGKILL"), ("SIGXCPU", "SIGXCPU"), ("SIGTERM", "SIGTERM")]
)
def test_a_crash_costs_one_task_and_says_what_happened(method: str, how: str, said: str) -> None:
    with opened(method) as pool:
        before = [pool.submit(jobs.square, number) for number in range(50)]
        crashing = pool.submit(jobs.crash, how)
        after = [pool.submit(jobs.square, number) for number in range(50)]
        error = crashing.exception(PATIENCE)
        assert isinstance(error, BrokenProcessPool)
        assert said in str(error)
        assert "these are my last words" in str(error)
        assert [future.result(PATIENCE) for future in before + after] == [number**2 for number in range(50)] * 2


def test_a_crash_can_break_the_pool_as_in_the_stdlib(method: str) -> None:
    with opened(method, on_crash="raise") as pool:
        held = pool.submit(jobs.sleep, 60)
        crashing = pool.submit(jobs.crash, "exit")
        behind = []
        try:
            for _ in range(10):
                behind += [pool.submit(jobs.square, 1)]
        except BrokenProcessPool:
            pass  # so soon
        for future in (held, crashing, *behind):
            assert type(future.exception(PATIENCE)) is BrokenProcessPool
        with pytest.raises(BrokenProcessPool, match="exit code 7"):
            pool.submit(jobs.square, 1)


def test_an_idle_worker_that_dies_costs_nothing(method: str) -> None:
    with opened(method) as pool:
        victim = pool.submit(jobs.pid).result(PATIENCE)
        os.kill(victim, signal.SIGKILL)
        futures = [pool.submit(jobs.pid) for _ in range(20)]
        broken = [f for f in futures if f.exception(PATIENCE) is not None]
        assert len(broken) <= 1, "at most the one that was sent before the death was known"
        assert all(future.result() != victim for future in futures if future not in broken)


class Deadly:
    """An argument that kills a worker while it is pickled."""

    def __init__(self, victim: int) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        with suppress(ProcessLookupError):  # it is pickled once more, for another worker
            os.kill(self.victim, signal.SIGKILL)
            time.sleep(0.2)
        return jobs.square, (3,)


def test_a_worker_that_dies_while_it_is_being_given_a_task(method: str) -> None:
    with opened(method, workers=1) as pool:
        assert pool.submit(jobs.square, Deadly(pool.submit(jobs.pid).result(PATIENCE))).result(PATIENCE) == 81


def test_the_manager_sleeps_while_another_thread_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe has room then, which would wake it again and again."""
    flush, turn = Handle.flush, Manager._turn
    turns: list[None] = []

    def slow_flush(self: Handle) -> None:
        if threading.current_thread() is threading.main_thread():
            pool._bell.ring()
            time.sleep(0.2)
        flush(self)

    def counted_turn(self: Manager) -> None:
        turns.append(None)
        turn(self)

    with open_pipes(1, multiprocessing.get_context(METHODS[0])) as pool:
        pool.submit(jobs.square, 3).result(PATIENCE)
        monkeypatch.setattr(Handle, "flush", slow_flush)
        monkeypatch.setattr(Manager, "_turn", counted_turn)
        assert pool.submit(jobs.square, 4).result(PATIENCE) == 16
        monkeypatch.undo()
    assert 1 <= len(turns) < 10


def test_the_only_worker_that_could_be_started_is_replaced(method: str) -> None:
    with opened(method, workers=1) as pool:
        pool._manager.dispatch.places.refuse(failure("pipes", "start", OSError("as that of the second one")))
        os.kill(pool.submit(jobs.pid).result(PATIENCE), signal.SIGKILL)
        await_end(pool)
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9


class Full:
    """A host that has no room for one more process, or has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusals = 0  # to come
        self.refused = 0
        monkeypatch.setattr(manager, "Handle", self._start)
        monkeypatch.setattr(places, "_FIRST", 0.02)

    def _start(self, *arguments: Any) -> Handle:
        if self.refusals:
            self.refusals -= 1
            self.refused += 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return Handle(*arguments)


def test_a_host_that_was_full_for_a_moment(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool has as many workers as before when there is room again."""
    full = Full(monkeypatch)
    with opened(method, workers=2) as pool:
        full.refusals = 3
        os.kill(pool.submit(jobs.pid).result(PATIENCE), signal.SIGKILL)

        def is_whole() -> bool:
            assert list(pool.map(jobs.sleep, [0.02] * 4)) == [0.02] * 4
            return full.refused == 3 and len(pool.processes) == 2 and pool.short is None

        until(is_whole, "the second worker")


def test_a_host_that_is_full_when_the_last_worker_is_lost(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried some times before all that waits is lost."""
    full = Full(monkeypatch)
    with opened(method, workers=1) as pool:
        full.refusals = 3
        os.kill(pool.submit(jobs.pid).result(PATIENCE), signal.SIGKILL)
        await_end(pool)
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9
        assert full.refused == 3
        full.refusals = sys.maxsize
        os.kill(pool.submit(jobs.pid).result(PATIENCE), signal.SIGKILL)
        await_end(pool)
        with pytest.raises(BrokenProcessPool, match="no worker is left and none can be started"):
            pool.submit(jobs.square, 3).result(PATIENCE)


def test_a_task_that_waits_for_a_refused_worker_gets_it_when_there_is_room(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else happens meanwhile that would wake the manager; the other task waits for this one."""
    full = Full(monkeypatch)
    with opened(method, workers=2) as pool:
        full.refusals = 2
        os.kill(pool.submit(jobs.pid).result(PATIENCE), signal.SIGKILL)
        gate = tmp_path / "gate"
        held = pool.submit(jobs.hold, str(gate))
        waiting = [pool.submit(jobs.note, str(gate), "open") for _ in range(3)]
        assert held.result(PATIENCE)
        assert [each.result(PATIENCE) for each in waiting] == ["open"] * 3


def test_a_task_that_comes_while_a_refused_worker_is_to_be_tried_again(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waited when it came, so nobody waited for the next attempt; the other task waits for this one."""
    full, gate = Full(monkeypatch), tmp_path / "gate"
    monkeypatch.setattr(places, "_FIRST", 1.0)
    with opened(method, workers=2) as pool:
        list(pool.map(jobs.sleep, [0.1] * 4))
        os.kill(pool.submit(jobs.pid).result(PATIENCE), signal.SIGKILL)
        until(lambda: len(pool.processes) == 1, "one worker is left")
        full.refusals = 1
        pool.submit(jobs.sleep, 0.2)
        held = pool.submit(jobs.hold, str(gate))  # the one for which there was no room
        until(held.running, "the second task")
        assert full.refused == 1
        assert pool.submit(jobs.note, str(gate), "open").result(PATIENCE) == "open"


def test_workers_that_end_before_they_are_ready_are_tried_again_a_minute_later() -> None:
    """What ended five of them in one moment may be over: a host without memory, a module that was being written."""
    several, why = places.Places(2), failure("pipes", "bootstrap", OSError("ended"))
    assert [several.fail(why) for _ in range(5)] == [False] * 4 + [True]
    count, when = several.missing(staying=1, coming=0, queued=5)
    assert count == 1
    assert 0 < when - clock.now() <= 60


def test_what_is_cancelled_while_the_last_worker_is_refused(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Full(monkeypatch)
    monkeypatch.setattr(places, "_ATTEMPTS", (30.0,))
    with opened(method, workers=1) as pool:
        os.kill(pool.submit(jobs.pid).result(PATIENCE), signal.SIGKILL)
        full.refusals = sys.maxsize
        await_end(pool)
        futures = [pool.submit(jobs.square, number) for number in range(3)]
        until(lambda: full.refused == 1, "the refusal")
        begin = time.monotonic()
        pool.shutdown(wait=True, cancel_futures=True)
        assert time.monotonic() - begin < 10
        assert all(future.cancelled() for future in futures)


def test_no_attempts_are_made_while_the_last_worker_is_leaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task is done, and a thread of it goes on."""
    full = Full(monkeypatch)
    monkeypatch.setattr(places, "_FIRST", 1.0)
    with opened("spawn", workers=1, max_tasks_per_child=1) as pool:
        pool.submit(jobs.linger, 1.5).result(PATIENCE)
        full.refusals = sys.maxsize
        future = pool.submit(jobs.square, 3)
        until(lambda: full.refused > 0, "a refusal")
        time.sleep(0.3)
        assert full.refused < 5
        full.refusals = 0
        assert future.result(PATIENCE) == 9


STOPPED = """
import os, signal, subprocess, time
from unirun import Run, RuntimeConfig

if __name__ == "__main__":
    config = RuntimeConfig(start_method="fork", task_timeout=1)
    with Run(flavor="processes", max_workers=1, config=config) as executor:
        executor.submit(abs, 3).result()
        waking = subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {os.getpid()}"])
        future = executor.submit(bytes, 64 << 20)
        os.kill(os.getpid(), signal.SIGSTOP)
        print(len(future.result()))
        waking.wait()
"""


def test_a_task_that_was_done_in_time_while_its_parent_was_stopped(tmp_path: Path) -> None:
    """Its answer, larger than the pipe, is still on its way when the time is up."""
    program = tmp_path / "program.py"
    program.write_text(STOPPED)
    done = jobs.run(program)
    assert (done.stdout, done.stderr) == (f"{64 << 20}\n", "")


def test_a_worker_that_is_being_written_to_is_not_given_tasks_by_others(method: str) -> None:
    """What was left in its pipe by an interrupted submit is written by the manager, and two must not write at once."""
    with opened(method, workers=1) as pool:
        pool.submit(jobs.square, 2).result(PATIENCE)
        dispatch = pool._manager.dispatch
        (worker,) = dispatch.workers
        while not dispatch.claim_writer(worker):
            time.sleep(0.001)  # the submit above is still letting go of it
        waiting = pool.submit(jobs.square, 3)
        assert worker.claimed is dispatch
        assert not worker.tasks
        dispatch.release(worker, dispatch)
        assert waiting.result(PATIENCE) == 9


def await_end(pool: PipePool) -> None:
    """Wait until a pool has noticed that its workers are dead."""
    end = time.monotonic() + PATIENCE
    while pool.processes and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize("job", [jobs.write_garbage, jobs.close_everything])
def test_the_parent_survives_what_a_task_does_to_its_pipe(job: Any) -> None:
    with opened("spawn") as pool:  # which inherits nothing of the test session's own
        assert type(pool.submit(job).exception(PATIENCE)) is BrokenProcessPool
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9


def test_workers_that_never_become_ready_break_the_pool(tmp_path: Path) -> None:
    """The first one came up; after its end none does, because the main module is gone."""
    main = tmp_path / "vanishing.py"
    main.write_text(
        textwrap.dedent("""
            import multiprocessing, os
            from concurrent.futures.process import BrokenProcessPool
            from tests.pipes import jobs
            from unirun.backends.pipes.pool import open_pipes

            if __name__ == "__main__":
                pool = open_pipes(1, multiprocessing.get_context("spawn"))
                assert pool.submit(jobs.square, 3).result(30) == 9
                with open(__file__, "w") as file:
                    file.write("raise SystemExit('this main cannot be imported')")
                assert type(pool.submit(jobs.crash, "exit").exception(30)) is BrokenProcessPool
                try:
                    error = pool.submit(jobs.square, 3).exception(60)
                except BrokenProcessPool as early:
                    error = early
                assert "before they are ready" in str(error), error
                pool.shutdown()
                print("done")
        """)
    )
    done = jobs.run(main)
    assert done.stdout == "done\n", done.stderr


# ------------------------------------------------------------------------------------------------- what cannot travel


def test_what_cannot_travel_fails_its_own_task(method: str) -> None:
    with opened(method) as pool:
        try:
            pickle.dumps(threading.Lock())
        except Exception as error:  # PyPy has another one
            unpicklable = type(error)
        cases: list[tuple[Any, type[BaseException]]] = [
            (jobs.lock, unpicklable),
            (jobs.raise_unpicklable, unpicklable),
            (jobs.raise_unloadable, BrokenProcessPool),
        ]
        for job, kind in cases:
            assert type(pool.submit(job).exception(PATIENCE)) is kind
        assert type(pool.submit(jobs.echo, threading.Lock()).exception(PATIENCE)) is unpicklable
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9


def test_large_values_in_both_directions_at_once_on_every_worker(method: str) -> None:
    """Two sides that both write first is how pools over pipes hang."""
    large = os.urandom(50_000_000)
    with opened(method) as pool:
        futures = [pool.submit(jobs.echo, large) for _ in range(6)]
        assert all(future.result(PATIENCE) == large for future in futures)


# ------------------------------------------------------------------------------------------------- batches and limits


def test_short_tasks_do_not_wait_behind_a_long_one(tmp_path: Path) -> None:
    """They are taken back from the worker that has it, and each runs once."""
    journal = str(tmp_path / "journal")
    with opened() as pool:
        for _ in range(500):  # short ones, so that many are sent at once
            pool.submit(jobs.square, 1)
        begin = time.monotonic()
        long = pool.submit(jobs.sleep, 5)
        short = [pool.submit(jobs.note, journal, str(number)) for number in range(500)]
        assert [future.result(PATIENCE) for future in short] == [str(number) for number in range(500)]
        assert time.monotonic() - begin < 4
        assert not long.done()
    assert sorted(Path(journal).read_text().split(), key=int) == [str(number) for number in range(500)]


def test_a_part_of_a_map_waits_where_its_worker_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the worker would have nothing to do until the parent's thread has its turn."""
    monkeypatch.setattr("unirun.backends.pipes.dispatch.STUCK", PATIENCE)  # this machine may pause
    monkeypatch.setattr(Pace, "ahead", 4)  # tasks have been short
    gate = str(tmp_path / "gate")
    with opened(workers=1) as pool:
        (worker,) = pool._manager.dispatch.workers
        held, part = (pool.submit_sharing(Memo(), place(), *call) for call in ((jobs.hold, gate), (jobs.square, 3)))
        end = time.monotonic() + PATIENCE
        while len(worker.tasks) < 2 and time.monotonic() < end:
            time.sleep(0.001)
        other = pool.submit(jobs.square, 4)
        time.sleep(0.02)
        given = [task.future for task in worker.tasks.values()]
        Path(gate).touch()
        assert given == [held, part]
        assert [future.result(PATIENCE) for future in (held, part, other)] == [True, 9, 16]


def meet(own: str, other: str) -> str:
    Path(own).touch()
    end = time.monotonic() + PATIENCE
    while not Path(other).exists():
        if time.monotonic() > end:
            return "the other one did not begin"
        time.sleep(0.001)
    return "met"


@pytest.mark.parametrize("come", [1, 2])
def test_parts_of_a_map_have_a_worker_each(method: str, come: int, tmp_path: Path) -> None:
    """Also where only one of two workers has come, or was started at all."""
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    with opened(method) as pool:
        for _ in range(20):  # short ones
            pool.submit(jobs.square, 1).result(PATIENCE)
        if come == 2:
            busy = [pool.submit(jobs.sleep, 0.3) for _ in range(2)]
            assert [future.result(PATIENCE) for future in busy] == [0.3, 0.3]
            for _ in range(50):  # short ones again
                pool.submit(jobs.square, 1).result(PATIENCE)
        parts = [pool.submit_sharing(Memo(), place(), meet, *paths) for paths in ((one, other), (other, one))]
        assert [part.result(2 * PATIENCE) for part in parts] == ["met", "met"]


def meet_all(folder: str, number: int, count: int) -> bool:
    Path(folder, str(number)).touch()
    end = time.monotonic() + PATIENCE
    while len(os.listdir(folder)) < count:
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def test_as_many_workers_are_started_as_there_are_items(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unirun.backends.pipes.dispatch.STARVED", PATIENCE)  # or the manager would look again by chance
    config = RuntimeConfig(ladder=("pipes",), start_method=method, reuse=False)  # type: ignore[arg-type]
    with Run(flavor="processes", max_workers=4, config=config) as executor:
        assert list(executor.map(jobs.square, [2])) == [4]
        time.sleep(0.05)  # until the manager waits
        met = executor.map(partial(meet_all, str(tmp_path), count=4), range(4), timeout=2 * PATIENCE)
        assert list(met) == [True] * 4


class SlowToPickle:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> Any:
        time.sleep(self.seconds)
        return int, (7,)


@pytest.mark.parametrize("others", [False, True], ids=["idle", "others-submit"])
@pytest.mark.parametrize("pickling", [0.0, 0.01], ids=["quick", "slow-to-pickle"])
def test_a_part_of_a_map_does_not_stay_behind_a_long_task(
    pickling: float, others: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whichever worker it was given to, and whether the other one is idle or has enough to do."""
    monkeypatch.setattr(Pace, "ahead", 4)
    for turn in range(10):  # sometimes it is given to the other one
        gate = tmp_path / f"gate {turn}"
        with opened() as pool:
            dispatch = pool._manager.dispatch
            while len(dispatch._idle) < 2:
                time.sleep(0.001)
            try:
                long = pool.submit_sharing(Memo(), place(), jobs.hold, str(gate))
                short = pool.submit_sharing(Memo(), place(), jobs.sleep, 0.001)
                part = pool.submit_sharing(Memo(), place(), jobs.square, SlowToPickle(pickling))
                later = [pool.submit(jobs.sleep, 0.001)]
                end = time.monotonic() + PATIENCE
                while not part.done():
                    assert time.monotonic() < end
                    later += [pool.submit(jobs.sleep, 0.001)] if others else []
                    later.pop(0).result(PATIENCE) if len(later) > 50 else time.sleep(0.0002)
                assert [short.result(PATIENCE), part.result()] == [0.001, 49]
                assert not long.done()
            finally:
                gate.touch()


class Heavy:
    pickled = 0

    def __reduce__(self) -> Any:
        Heavy.pickled += 1
        return len, (bytes(4 << 20),)


def test_what_takes_long_to_send_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "ahead", 4)
    monkeypatch.setattr(Pace, "worth_taking_back", False)  # by a worker that is idle, which is another matter
    monkeypatch.setattr("unirun.backends.pipes.dispatch.STUCK", PATIENCE)
    monkeypatch.setattr(Heavy, "pickled", 0)
    with opened() as pool:
        dispatch = pool._manager.dispatch
        while len(dispatch._idle) < 2:
            time.sleep(0.001)
        for pid in pool.processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            parts = [pool.submit_sharing(Memo(), place(), jobs.echo, Heavy()) for _ in range(4)]
            time.sleep(0.2)
        finally:
            for pid in pool.processes:
                os.kill(pid, signal.SIGCONT)
        assert [part.result(PATIENCE) for part in parts] == [4 << 20] * 4
    assert Heavy.pickled == 4


def test_a_task_that_runs_too_long_is_killed_and_nobody_else_notices(method: str) -> None:
    with opened(method, task_timeout=1.5) as pool:  # so much, as a worker imports the task's module within it
        others = [pool.submit(jobs.square, number) for number in range(20)]
        slow = [pool.submit(job, 60) for job in (jobs.sleep, jobs.spin)]
        others += [pool.submit(jobs.square, number) for number in range(20)]
        for future in slow:
            with pytest.raises(TimeoutError, match=r"task_timeout=1\.5"):
                future.result(PATIENCE)
        assert [future.result(PATIENCE) for future in others] == [number**2 for number in range(20)] * 2


def test_a_cancelled_task_never_runs(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal")
    Path(journal).touch()
    with opened() as pool:
        futures = [pool.submit(jobs.note, journal, str(number), 0.001) for number in range(300)]
        cancelled = {str(number) for number, future in enumerate(futures) if number % 3 and future.cancel()}
        pool.shutdown(cancel_futures=True)
        cancelled |= {str(number) for number, future in enumerate(futures) if future.cancelled()}
        ran = Path(journal).read_text().split()
    assert all(future.done() for future in futures)
    assert len(ran) == len(set(ran))
    assert cancelled.isdisjoint(ran)
    assert len(cancelled) + len(ran) == 300


def test_what_is_on_its_way_to_a_worker_can_be_cancelled(tmp_path: Path) -> None:
    """Until it has begun: short tasks travel in batches, and the first of these is held."""
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    with opened(workers=1) as pool:
        list(pool.map(jobs.square, range(1000)))
        held = pool.submit(jobs.hold, str(gate))
        futures = [pool.submit(jobs.note, str(journal), str(number)) for number in range(100)]
        while not gate.with_name("gate.held").exists():
            time.sleep(0.001)
        assert all(future.cancel() for future in futures[50:])
        assert not held.cancel()
        gate.touch()
        assert held.result(PATIENCE)
        assert [future.result(PATIENCE) for future in futures[:50]] == [str(number) for number in range(50)]
        assert not futures[0].cancel()
    assert journal.read_text().split() == [str(number) for number in range(50)]


class Cancelling:
    """An argument that cancels all that has not begun, while it is pickled by the manager thread."""

    def __init__(self, pool: PipePool) -> None:
        self.pool = pool

    def __reduce__(self) -> Any:
        if threading.current_thread() is not threading.main_thread():
            self.pool.shutdown(wait=False, cancel_futures=True)
        return jobs.square, (3,)


def test_tasks_are_taken_back_while_their_worker_is_being_given_more(tmp_path: Path) -> None:
    """What was taken back must not run with the token of what came behind it."""
    for attempt in range(20):
        journal = tmp_path / f"journal {attempt}"
        journal.touch()
        pool = opened(workers=1)
        list(pool.map(jobs.square, range(1000)))
        futures = [pool.submit(jobs.note, str(journal), str(number)) for number in range(600)]
        for _ in range(3):
            futures.append(pool.submit(jobs.echo, Cancelling(pool)))
            try:
                for number in range(len(futures), len(futures) + 200):
                    futures += [pool.submit(jobs.note, str(journal), str(number))]
            except RuntimeError:
                break  # it is shut down by now
        pool.shutdown()
        assert all(future.done() for future in futures)
        cancelled = {str(number) for number, future in enumerate(futures) if future.cancelled()}
        assert cancelled.isdisjoint(journal.read_text().split())
        assert not [future for future in futures if not future.cancelled() and future.exception() is not None]


def test_what_is_put_back_stays_behind_what_is_older(tmp_path: Path) -> None:
    """Somebody may take older tasks back from a worker, while those that come next for it are pickled."""
    gate, journal = str(tmp_path / "gate"), tmp_path / "journal"
    journal.touch()
    with opened(workers=1) as pool:
        held = pool.submit(jobs.hold, gate)
        for number in range(6):
            pool.submit(jobs.note, str(journal), str(number))
        until(held.running, "the first task")
        dispatch = pool._manager.dispatch
        with dispatch.lock:
            assert len(dispatch.queue) == 6
            next_ones = [dispatch.queue.pop() for _ in range(3)][::-1]
            for task in next_ones:
                task.future.start()
            dispatch._requeue(next_ones)
        Path(gate).touch()
    assert journal.read_text().split() == list("012345")


def test_a_task_that_was_done_is_done_whatever_the_next_one_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error as it is sent, of which nobody knows, ends the pool."""
    gate = str(tmp_path / "gate")

    def feed_all(_: Dispatch) -> None:
        if sys._getframe(1).f_code.co_name == "_act":
            raise ArithmeticError

    with opened(workers=1) as pool:
        held = pool.submit(jobs.hold, gate)
        until(Path(f"{gate}.held").exists, "the first task")
        monkeypatch.setattr(Dispatch, "feed_all", feed_all)  # so that the others wait for its end
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        behind = [pool.submit(jobs.square, number) for number in range(3)]
        Path(gate).touch()
        until(behind[-1].done, "the end of the pool")  # who waits for a result would hear of it itself
        assert held.result(PATIENCE) is True
        assert {type(future.exception(PATIENCE)) for future in behind} == {BrokenProcessPool}


class Leaving(logging.Handler):
    """The usual one that ends the program, which can only end the thread that it is called in."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(1)


def test_a_log_handler_that_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    """It does not end the thread that serves the pool."""
    handler = Leaving()
    logging.getLogger().addHandler(handler)
    try:
        with opened(workers=1, log_level=logging.INFO) as pool:
            pool.submit(jobs.log, logging.CRITICAL, "bad").result(PATIENCE)
            assert pool.submit(jobs.square, 3).result(PATIENCE) == 9
    finally:
        logging.getLogger().removeHandler(handler)
    assert "SystemExit" in capsys.readouterr().err


def test_a_closure_travels_by_cloudpickle(method: str) -> None:
    """Where it is installed; plain pickling cannot send it."""
    if by_value() is None:
        pytest.skip("cloudpickle cannot be imported here")
    offset = 7
    with opened(method) as pool:
        assert pool.submit(lambda number: number + offset, 3).result(PATIENCE) == 10


def test_what_nothing_can_pickle_fails_as_in_the_stdlib_s_pool(method: str) -> None:
    """By the error of plain pickling, and not by the one that cloudpickle has further down; which is its cause."""
    if by_value() is None:
        pytest.skip("cloudpickle cannot be imported here")
    lock = threading.Lock()
    with opened(method) as pool, pytest.raises((AttributeError, pickle.PicklingError), match="local") as caught:
        pool.submit(lambda: lock).result(PATIENCE)
    assert "lock" in str(caught.value.__cause__)


@pytest.mark.parametrize("rung", ["threads", "inline"])
def test_a_closure_is_copied_on_lower_rungs_as_it_would_travel(rung: str) -> None:
    """In place of the pool over pipes; in place of the stdlib's, which cannot send it, it fails as it does there."""
    if by_value() is None:
        pytest.skip("cloudpickle cannot be imported here")
    offset = [7]
    config = RuntimeConfig(ladder=(rung,), downgrade="silent")
    with Run(flavor="processes", config=config) as executor:
        assert executor.submit(lambda: offset.__iadd__([8])).result(PATIENCE) == [7, 8]
        assert list(executor.map(lambda number: number + offset[0], [1, 2])) == [8, 9]
    assert offset == [7]
    configure(config)
    with ProcessPoolExecutor(1) as pool, pytest.raises((AttributeError, pickle.PicklingError)):
        pool.submit(lambda: offset).result(PATIENCE)


INTERACTIVE = """
import os, sys, warnings
if sys.argv[1] == "plain":
    sys.modules["cloudpickle"] = None
from unirun import Run, RuntimeConfig, configure
def here(parent):
    return os.getpid() == parent
with warnings.catch_warnings(record=True) as caught:
    with Run(flavor="processes", config=RuntimeConfig(start_method="spawn"), max_workers=1) as executor:
        print(executor.submit(here, os.getpid()).result(), executor.decision.backend, len(caught))
"""


@pytest.mark.parametrize(("kind", "expected"), [("plain", "True threads 1"), ("cloudpickle", "False pipes 0")])
def test_functions_of_an_interactive_main(kind: str, expected: str) -> None:
    """Spawned workers do not find them; with cloudpickle they need not."""
    if kind == "cloudpickle" and by_value() is None:
        pytest.skip("cloudpickle cannot be imported here")
    command = [sys.executable, "-c", INTERACTIVE, kind]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == expected, done.stderr


# ------------------------------------------------------------------------------------------------------------- words


def test_log_records_reach_the_handlers_of_the_parent(method: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "job"), opened(method, log_level=logging.INFO) as pool:
        pool.submit(jobs.log, logging.INFO, "heard").result(PATIENCE)
        pool.submit(jobs.log, logging.DEBUG, "not heard").result(PATIENCE)
        pool.submit(jobs.log, logging.ERROR, "also heard").result(PATIENCE)
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records if r.name == "job"] == [
        ("job", "INFO", "heard"),
        ("job", "ERROR", "also heard"),
    ]
    assert all(record.process != os.getpid() for record in caplog.records if record.name == "job")


def test_two_tasks_that_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are given to the only worker that was started, together, and one of them is taken back for a second one."""
    with opened("spawn") as pool:
        for number in range(5):
            assert pool.submit(jobs.square, number).result(PATIENCE) == number**2
        (worker,) = pool.processes
        os.kill(worker, signal.SIGSTOP)
        with monkeypatch.context() as patch:  # the manager hears of both when the worker answers
            patch.setattr(Bell, "ring", lambda bell: None)
            pool.submit(jobs.square, 1)
            names = str(tmp_path / "a"), str(tmp_path / "b")
            futures = [pool.submit(jobs.meet, *each) for each in (names, names[::-1])]
        os.kill(worker, signal.SIGCONT)
        assert [future.result(PATIENCE) for future in futures] == [True, True]


# ------------------------------------------------------------------------------------------------------- who outlives


def test_a_worker_that_leaves_a_child_behind_ends_all_the_same() -> None:
    """What its child inherited does not keep the pool waiting."""
    begin = time.monotonic()
    with opened() as pool:
        child = pool.submit(jobs.grandchild).result(PATIENCE)
        assert type(pool.submit(jobs.crash, "SIGKILL").exception(PATIENCE)) is BrokenProcessPool
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9
    assert time.monotonic() - begin < 2.5
    os.kill(child, signal.SIGKILL)


PARENT = """
    import multiprocessing, os, sys, time
    from tests.pipes import jobs
    from unirun.backends.pipes.pool import open_pipes

    if __name__ == "__main__":
        pool = open_pipes(2, multiprocessing.get_context(sys.argv[1]))
        workers = {pool.submit(jobs.pid).result() for _ in range(50)}
        tasks = [pool.submit(jobs.sleep, 60), pool.submit(jobs.spin, 60), pool.submit(jobs.square, 2)]
        while len(pool.processes) < 2:
            time.sleep(0.01)
        workers |= set(pool.processes)
        children = [] if len(sys.argv) < 3 else [os.fork()]
        if children == [0]:
            time.sleep(60)
        print(*workers, flush=True)
        print(*children, flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("by", "child"), [(signal.SIGKILL, []), (signal.SIGTERM, []), (signal.SIGKILL, ["and a child that lives on"])]
)
def test_no_worker_outlives_a_parent_that_is_killed(
    method: str, by: signal.Signals, child: list[str], tmp_path: Path
) -> None:
    """Whatever it is doing, waiting, sleeping, computing; and whoever else the parent has started."""
    program = tmp_path / "parent.py"
    program.write_text(textwrap.dedent(PARENT))
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(program), method, *child],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    children = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) >= 2
    time.sleep(0.3)
    parent.send_signal(by)
    parent.wait()
    end = time.monotonic() + PATIENCE / 3  # the tasks take 60 s
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    parent.stdin.close()
    parent.stdout.close()
    for pid in left + children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left
    assert len(children) == len(child)


def test_process_objects_that_the_program_closes(method: str, tmp_path: Path) -> None:
    """Of workers that are dead. The numbers of what they had open are other files' then, and stay so in a child."""
    with opened(method) as pool:
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9
        end = time.monotonic() + PATIENCE
        while not all(worker.initialized for worker in pool._manager.dispatch.workers) and time.monotonic() < end:
            time.sleep(0.01)
        for process in list(pool.processes.values()):
            process.kill()
            while process.exitcode is None:  # the pool may be waiting for it, too, and multiprocessing not know it yet
                process.join(0.01)
            process.close()
        files = [(tmp_path / str(number)).open("w") for number in range(30)]
        child = os.fork()
        if not child:
            os._exit(sum(not is_open(file.fileno()) for file in files))
        assert os.waitpid(child, 0)[1] == 0
        for file in files:
            file.close()
    with opened(method) as pool:
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # before it was opened, or after that
        return False
    except NotADirectoryError:
        return False


def await_sleep(pid: int) -> None:
    """Wait until the main thread of a process has been asleep for some time, on however slow a machine."""
    asleep, before = 0, ""
    while asleep < 4:
        time.sleep(0.1)
        try:
            with open(f"/proc/{pid}/task/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except FileNotFoundError:  # no Linux
            fields = ["S", *[""] * 14]
        times = " ".join(fields[11:13])  # of a processor: user, system
        asleep = asleep + 1 if fields[0] == "S" and times == before else 0
        before = times


INTERRUPTED = """
    import multiprocessing, sys, time
    from tests.pipes import jobs
    from unirun import RuntimeConfig, Run

    if __name__ == "__main__":
        config = RuntimeConfig(ladder=("pipes",), start_method=sys.argv[1], max_workers=2)
        with Run(flavor="processes", config=config) as pool:
            futures = [pool.submit(jobs.spin if number % 2 else jobs.sleep, 30) for number in range(10)]
            while not (futures[0].running() and futures[1].running()):
                time.sleep(0.01)
            time.sleep(0.3)
            print("running", flush=True)
            futures[0].result()
"""


@pytest.mark.parametrize("whom", ["terminal", "parent"])
def test_ctrl_c_gives_the_terminal_back_within_a_second(method: str, whom: str, tmp_path: Path) -> None:
    """The program gets its KeyboardInterrupt, and the workers end without a word."""
    program = tmp_path / "interrupted.py"
    program.write_text(textwrap.dedent(INTERRUPTED))
    parent = subprocess.Popen(
        [sys.executable, str(program), method],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "running\n"
    # A signal that comes just before a thread begins to wait does not wake it on 3.13t, and with PyPy may leave a lock
    # locked.
    await_sleep(parent.pid)
    begin = time.monotonic()
    if whom == "terminal":
        os.killpg(parent.pid, signal.SIGINT)
    else:
        parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=20)
    took = time.monotonic() - begin
    assert parent.returncode == -signal.SIGINT, said
    # Who forks with PyPy while Ctrl-C waits for the main thread takes it along: the child says so, in any program.
    words = said.count("Traceback") - (said.count("Exception ignored in: fork hook") if FORKS_WITH_SIGNALS else 0)
    assert words == 1, said
    assert said.strip().endswith("KeyboardInterrupt")
    assert took < 3, "one second on an idle machine, where nothing is asserted of time"


def test_a_pool_in_a_daemonic_process_has_real_workers() -> None:
    """A worker of `multiprocessing.Pool` may not have children by multiprocessing; ours end with it."""
    with multiprocessing.get_context("fork").Pool(1) as outer:
        inner, results, own = outer.apply(use_inside)
    assert results == [number**2 for number in range(10)]
    assert inner != own


def use_inside() -> tuple[int, list[int], int]:
    with opened() as pool:
        return pool.submit(jobs.pid).result(PATIENCE), list(pool.map(jobs.square, range(10))), os.getpid()


def test_a_pool_that_was_not_shut_down_does_its_work_at_the_exit(method: str, tmp_path: Path) -> None:
    program = tmp_path / "leaving.py"
    program.write_text(
        textwrap.dedent("""
            import multiprocessing, sys
            from tests.pipes import jobs
            from unirun.backends.pipes.pool import open_pipes

            if __name__ == "__main__":
                pool = open_pipes(2, multiprocessing.get_context(sys.argv[1]))
                for number in range(10):
                    pool.submit(jobs.note, sys.argv[2], str(number), 0.02)
        """)
    )
    done = jobs.run(program, method, str(tmp_path / "journal"))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted((tmp_path / "journal").read_text().split()) == [str(number) for number in range(10)]


def test_a_pool_that_nobody_holds_ends_after_its_tasks() -> None:
    pool = opened()
    futures = [pool.submit(jobs.sleep, 0.05) for _ in range(6)]
    processes = list(pool.processes.values())
    del pool
    gc.collect()
    assert [future.result(PATIENCE) for future in futures] == [0.05] * 6
    for process in processes:
        try:
            process.join(PATIENCE)
        except ValueError:
            pass  # closed already


def test_a_forked_child_is_told_that_the_pool_is_not_its_own() -> None:
    with opened() as pool:
        pool.submit(jobs.square, 3).result(PATIENCE)
        child = os.fork()
        if child == 0:
            try:
                pool.submit(jobs.square, 3)
            except RuntimeError as error:
                os._exit(0 if "forked child" in str(error) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9


def test_workers_can_be_killed(method: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    pool = opened(method)
    held = [pool.submit(jobs.note, str(journal), "begun", 60) for _ in range(2)]
    while not journal.exists() or journal.read_text().count("begun") < 2:
        time.sleep(0.01)
    waiting = [pool.submit(jobs.square, 1) for _ in range(5)]
    pool.kill_workers()
    pool.shutdown()
    assert [type(future.exception(PATIENCE)) for future in held] == [BrokenProcessPool] * 2
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(PATIENCE)


# ---------------------------------------------------------------------------------------------- finalizers, everywhere


def with_the_lock_held(pool: PipePool, what: Any) -> Any:
    """Do something in a thread that holds the lock of a pool, where the collector may run any finalizer."""
    results: list[Any] = []

    def step() -> None:
        with pool._manager.dispatch.lock:
            results.append(what())

    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert results, "it waits for itself"
    return results[0]


@pytest.mark.parametrize("cancel", [False, True])
def test_a_finalizer_may_shut_the_pool_down_whatever_its_thread_holds(cancel: bool, tmp_path: Path) -> None:
    pool = opened(workers=1)
    gate = str(tmp_path / "gate")
    held = pool.submit(jobs.hold, gate)
    while not os.path.exists(f"{gate}.held"):
        time.sleep(0.001)
    others = [pool.submit(jobs.echo, number) for number in range(3)]
    with_the_lock_held(pool, lambda: pool.shutdown(wait=False, cancel_futures=cancel))
    Path(gate).touch()
    assert held.result(PATIENCE)
    pool.shutdown(wait=True)
    if cancel:
        assert all(each.cancelled() for each in others)
    else:
        assert [each.result(PATIENCE) for each in others] == [0, 1, 2]


def test_a_finalizer_may_wait_for_a_result_for_as_long_as_it_says(tmp_path: Path) -> None:
    pool = opened(workers=1)
    gate = str(tmp_path / "gate")
    held = pool.submit(jobs.hold, gate)

    def wait() -> bool:
        try:
            return bool(held.result(0.05))
        except TimeoutError:
            return False

    assert not with_the_lock_held(pool, wait)
    Path(gate).touch()
    assert held.result(PATIENCE)
    pool.shutdown(wait=True)


class Closing:
    """An argument that travels as a number, and whose end calls the pool."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return int, ()

    def __del__(self) -> None:
        self.call()


@pytest.mark.skipif(
    "free-threading" in sys.version,
    reason="without a GIL what another thread lets go of dies in the thread that made it, in the middle of anything",
)
def test_the_arguments_of_cancelled_tasks_may_call_the_pool_when_they_die(tmp_path: Path) -> None:
    pool = opened(workers=1)
    gate = str(tmp_path / "gate")
    held = pool.submit(jobs.hold, gate)
    while not os.path.exists(f"{gate}.held"):
        time.sleep(0.001)
    said: list[str] = []

    def call() -> None:
        try:
            pool.submit(jobs.pid)
        except RuntimeError as error:
            said.append(str(error))

    for _ in range(4):
        pool.submit(jobs.echo, Closing(call))
    pool.shutdown(wait=False, cancel_futures=True)
    Path(gate).touch()
    assert held.result(PATIENCE)
    ending = threading.Thread(target=pool.shutdown, daemon=True)
    ending.start()
    ending.join(PATIENCE)
    gc.collect()
    assert said == ["cannot schedule new futures after shutdown"] * 4


# ---------------------------------------------------------------------------- what programs read of the stdlib's pool


def test_how_much_is_left_to_do(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs wait with the next submit until it is less, or report it."""
    monkeypatch.setenv("UNIRUN_LADDER", "pipes")
    gate = str(tmp_path / "gate")
    pool: Any = ProcessPoolExecutor(1, multiprocessing.get_context(method))
    with pool:
        assert (len(pool._pending_work_items), pool._broken, pool._shutdown_thread) == (0, False, False)
        futures = {pool.submit(jobs.hold, gate)} | {pool.submit(jobs.echo, number) for number in range(30)}
        while not os.path.exists(f"{gate}.held"):
            time.sleep(0.001)
        left = pool._pending_work_items
        until(lambda: len(left) == 31, "the pickling of the tasks")
        assert len(left) == len(list(left)) == 31
        assert {task.future for task in left.values()} == futures
        assert all(left[number].fn in (jobs.hold, jobs.echo) for number in left)
        Path(gate).touch()
        for each in futures:
            each.result(PATIENCE)
        until(lambda: not left, "the end of the tasks")


@pytest.mark.parametrize("ladder", ["pipes", "threads", "inline"])
def test_the_cause_of_an_error_is_the_stdlibs(ladder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs ask for its class, to print it in its own way."""
    from concurrent.futures import process

    monkeypatch.setenv("UNIRUN_LADDER", ladder)
    monkeypatch.setenv("UNIRUN_DOWNGRADE", "silent")
    with ProcessPoolExecutor(1) as pool:
        calls: list[Any] = [lambda: pool.submit(jobs.fail, "x").result(), lambda: list(pool.map(jobs.fail, "x" * 50))]
        for call in calls:
            with pytest.raises(LookupError) as raised:
                call()
            cause: Any = raised.value.__cause__
            assert type(cause) is process._RemoteTraceback
            assert cause.tb.startswith('\n"""\nTraceback (most recent call last)')
            assert "LookupError: x" in str(cause)


def test_a_child_may_let_go_of_a_pool_whose_bell_another_thread_was_ringing() -> None:
    """Before its copy of the pipe is closed: without a GIL the last reference may die in the midst of the fork."""
    bell, rings, done = Bell(), threading.Event(), threading.Event()
    forks.forget(bell._reader)  # the child does not close them
    forks.forget(bell._writer)

    def ring() -> None:
        with bell._lock:
            rings.set()
            done.wait()

    thread = threading.Thread(target=ring)
    thread.start()
    rings.wait()
    child = os.fork()
    if not child:
        signal.alarm(10)  # which ends a child that waits for the lock
        Bell.abandon(bell)
        os._exit(0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bell.silence()

"""Who waits for a result hears the worker by himself: interrupts lose nothing, and nobody else is kept waiting."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.conformance.quiet import await_quiet
from tests.pipes import jobs
from unirun.backends.pipes import answers, ear
from unirun.backends.pipes.pool import PipePool, open_pipes

pytestmark = [
    FORKING,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets another thread listen"),
]
IN_MAIN_THREAD = pytest.mark.skipif(
    not ear._KEPT_OUT, reason="the main thread of PyPy and of 3.14 does not listen: Ctrl-C could leave a lock locked"
)
ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


@pytest.fixture
def pool() -> Iterator[PipePool]:
    before = set(threading.enumerate())
    with open_pipes(1, multiprocessing.get_context("fork")) as pool:
        pool.submit(jobs.square, 1).result(PATIENCE)
        yield pool
    await_quiet(before)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The futures that were resolved by who waited for them."""
    resolved: list[Any] = []
    put_alone = answers.put_alone

    def spy(future: Any, value: Any, error: BaseException | None) -> bool:
        done = put_alone(future, value, error)
        resolved.extend([future] if done else [])
        return done

    monkeypatch.setattr(answers, "put_alone", spy)
    return resolved


@IN_MAIN_THREAD
def test_who_waits_hears_the_worker(pool: PipePool, heard: list[Any]) -> None:
    futures = []
    for number in range(100):
        futures.append(pool.submit(jobs.sleep, 0.0002))
        assert futures[-1].result(PATIENCE) == 0.0002, number
    assert heard  # more or fewer of them, as the machine is loaded
    assert {id(future) for future in heard} <= {id(future) for future in futures}


@IN_MAIN_THREAD
def test_exceptions_too(pool: PipePool, heard: list[Any]) -> None:
    for _ in range(100):
        assert isinstance(pool.submit(jobs.square, "text").exception(PATIENCE), TypeError)
    with pytest.raises(TypeError) as caught:
        pool.submit(jobs.square, "text").result(PATIENCE)
    assert "in square" in str(caught.value.__cause__)
    assert heard


@IN_MAIN_THREAD
@pytest.mark.parametrize("job", ["pid", "square, 'text'"])
def test_an_interrupt_loses_nothing(job: str) -> None:
    """Ctrl-C, as it were, some microseconds after the listening began, thousands of times.

    Not while the stdlib waits for the future: its condition may then stay locked for ever, in any pool.
    """
    interrupted, heard = run(f"""
        import multiprocessing, random, signal, time
        from tests.pipes import jobs
        from unirun.backends.pipes import answers, ear
        from unirun.backends.pipes.pool import open_pipes

        put_alone, heard = answers.put_alone, []

        def spy(*args):
            heard.append(None)
            return put_alone(*args)

        answers.put_alone = spy
        chance = random.Random(1)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        interrupted = 0
        # Only to this thread: one that another thread takes up late would come after what is tried here.
        signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGALRM}})
        with open_pipes(1, multiprocessing.get_context("fork")) as pool:
            expected = repr(pool.submit(jobs.{job}).exception(30))
            times = []
            for _ in range(51):
                begin = time.perf_counter()
                pool.submit(jobs.{job}).exception(30)
                times.append(time.perf_counter() - begin)
            longest = 2 * sorted(times)[25]
            for _ in range(4000):
                future = pool.submit(jobs.{job})
                try:
                    try:
                        signal.pthread_sigmask(signal.SIG_UNBLOCK, {{signal.SIGALRM}})
                        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, longest))
                        pool._manager.ear.listen(future)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                        # Raises what is pending: 3.12 forgets to, for a while, when two threads pass on the GIL.
                        signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGALRM}})
                except KeyboardInterrupt:
                    interrupted += 1
                assert repr(future.exception(30)) == expected
            assert pool.usable
        print(interrupted, len(heard))
        """).split()
    assert int(interrupted) > 20
    assert int(heard) > 20


def test_others_who_wait_for_the_same_future_are_woken(pool: PipePool) -> None:
    for _ in range(50):
        future = pool.submit(jobs.sleep, 0.0005)
        results: list[Any] = []
        threads = [threading.Thread(target=lambda f=future, r=results: r.append(f.result(PATIENCE))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert wait([future], PATIENCE).done
        for thread in threads:
            thread.join(PATIENCE)
        assert results == [0.0005] * 3


def test_callbacks_run_in_the_pool_s_own_thread(pool: PipePool) -> None:
    names = []
    for _ in range(50):
        future = pool.submit(jobs.sleep, 0.0002)
        future.add_done_callback(lambda _: names.append(threading.current_thread().name))
        future.result(PATIENCE)
    end = time.monotonic() + PATIENCE
    while len(names) < 50 and time.monotonic() < end:
        time.sleep(0.001)
    assert set(names) <= {"unirun-pipes", threading.current_thread().name}  # the latter if it was done when added
    assert "unirun-pipes" in names


class Exits:
    """Unpickles to the end of the program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


def test_what_ends_the_program_when_it_is_unpickled_is_an_error(pool: PipePool) -> None:
    for _ in range(20):
        with pytest.raises(BrokenProcessPool, match="SystemExit"):
            pool.submit(Exits).result(PATIENCE)


def test_cancelled_while_somebody_listens(pool: PipePool) -> None:
    (pid,) = pool.processes
    os.kill(pid, signal.SIGSTOP)
    try:
        future = pool.submit(jobs.square, 3)
        threading.Timer(0.0003, future.cancel).start()
        with pytest.raises(CancelledError):
            future.result(PATIENCE)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_worker_that_dies_while_somebody_listens(pool: PipePool) -> None:
    for _ in range(20):
        with pytest.raises(BrokenProcessPool, match="exit code 7"):
            pool.submit(jobs.crash, "exit").result(PATIENCE)
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9


def test_shut_down_while_somebody_listens() -> None:
    for number in range(50):
        pool = open_pipes(1, multiprocessing.get_context("fork"))
        future = pool.submit(jobs.sleep, 0.0005)
        ender = threading.Thread(target=pool.shutdown, args=(bool(number % 2),))
        ender.start()
        assert future.result(PATIENCE) == 0.0005
        ender.join(PATIENCE)
        assert not ender.is_alive()
        pool.shutdown()


@pytest.mark.parametrize("timeout", [0, 0.0005, 0.02])
def test_a_timeout_is_kept(pool: PipePool, timeout: float, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    future = pool.submit(jobs.hold, str(gate))
    with pytest.raises(TimeoutError):
        future.result(timeout)
    gate.touch()
    assert future.result(PATIENCE)


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_not_where_a_handler_of_a_signal_can_come_between(pool: PipePool, heard: list[Any]) -> None:
    """It may wait for the pool, and would for ever: who hears the worker is who is suspended for it."""

    def trips() -> None:
        for _ in range(100):
            assert pool.submit(jobs.sleep, 0.0002).result(PATIENCE) == 0.0002

    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        trips()
        assert not heard
        thread = threading.Thread(target=trips)  # where no handler runs
        thread.start()
        thread.join(PATIENCE)
        assert heard
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_without_epoll() -> None:
    """As on other systems, or after gevent has patched `select`: only the manager listens."""
    assert (
        run("""
        import multiprocessing, select
        del select.epoll
        from tests.pipes import jobs
        from unirun.backends.pipes.pool import open_pipes

        with open_pipes(2, multiprocessing.get_context("fork")) as pool:
            assert not pool._manager.ear._watch.shared
            print(sum(pool.submit(jobs.square, number).result(30) for number in range(10)))
        """)
        == "285"
    )


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs the descriptors of Linux")
def test_without_a_descriptor_for_epoll() -> None:
    """All other descriptors are taken when the pool is opened."""
    assert (
        run("""
        import os, resource
        from unirun.backends.pipes.watch import Watch

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        watch = Watch()
        reader = taken.pop()
        watch.add(reader)
        print(watch.shared, watch.wait(0))
        watch.close()
        """)
        .replace(" ", "")
        .startswith("False[(")
    )


class Counted:
    """Counts how often it is unpickled."""

    times = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _counted, ()


def _counted() -> Counted:
    Counted.times += 1
    return Counted()


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_result_is_unpickled_once(pool: PipePool, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although a callback is not for who listens: the end of a pipe, for one, could not be unpickled again."""
    Counted.times = 0
    futures: list[Any] = []
    if when == "while":
        opened = answers.opened

        def and_then(*arguments: Any) -> Any:
            try:
                return opened(*arguments)
            finally:
                if threading.current_thread() is threading.main_thread():  # which listens
                    futures[-1].add_done_callback(lambda _: None)

        monkeypatch.setattr(answers, "opened", and_then)
    for _ in range(100):
        futures.append(pool.submit(Counted))
        if when == "before":
            futures[-1].add_done_callback(lambda _: None)
        assert type(futures[-1].result(PATIENCE)) is Counted
    assert Counted.times == 100

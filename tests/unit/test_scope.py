"""Run, map and submit, to_process and to_thread, and the cached pools behind them."""

import asyncio
import contextvars
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import unirun
from tests.conformance.quiet import exit_status
from tests.tasks import crash, mark, nap, pid, square, thread_id
from unirun import (
    ConfigError,
    DecisionTrace,
    DowngradeError,
    Run,
    RuntimeConfig,
    configure,
    last_decision,
    leases,
    reset,
    to_process,
    to_thread,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
SPAWNING = [m for m in ("spawn", "forkserver") if m in multiprocessing.get_all_start_methods()]
ALL_FLAVORS = ["auto", "processes", "threads", "none"]
PATIENCE = 30.0


class Two(Exception):
    """Made of two values, of which it passes on one."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def lasting(folder: str, seconds: float = 0.3) -> None:
    """Take some time, and say when that begins and ends."""
    Path(folder, "begins").touch()
    time.sleep(seconds)
    Path(folder, "ends").touch()


def fail_with_two(number: int) -> None:
    raise Two(500, "the database is down")


@pytest.mark.parametrize("flavor", ALL_FLAVORS)
def test_a_scope_gives_an_executor_and_closes_it(flavor: Any, tmp_path: Path) -> None:
    with Run(flavor=flavor, max_workers=2, name="mine") as executor:
        assert isinstance(executor, Executor)
        futures: list[Future[Any]] = [executor.submit(nap, 0.1), executor.submit(mark, str(tmp_path / "done"))]
    assert all(f.done() for f in futures)
    assert (tmp_path / "done").exists()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)


def test_the_decision_is_on_the_scope_the_executor_and_the_module() -> None:
    scope = Run(flavor="threads", max_workers=1, name="n")
    assert scope.trace is None
    with scope as executor:
        assert scope.trace == executor.decision
        executor.submit(square, 2)
        assert scope.trace == last_decision()
    assert scope.trace == last_decision()
    assert scope.trace is not None
    assert (scope.trace.name, scope.trace.settled) == ("n", True)


def test_scopes_nest_and_one_can_be_entered_again() -> None:
    outer = Run(flavor="processes", max_workers=1)
    with outer as first:
        with Run(flavor="threads", max_workers=1) as second:
            assert first.submit(pid).result() != second.submit(pid).result() == os.getpid()
        with pytest.raises(RuntimeError, match="already open"):
            outer.__enter__()
        assert first.submit(square, 3).result() == 9
    with outer as again:
        assert again is not first
        assert again.submit(square, 4).result() == 16
    with pytest.raises(RuntimeError, match="not open"):
        outer.__exit__(None, None, None)


def test_an_exception_in_the_block_comes_out_and_the_tasks_are_waited_for(tmp_path: Path) -> None:
    def block() -> None:
        with Run(flavor="threads", max_workers=1) as executor:
            executor.submit(nap, 0.2)
            executor.submit(mark, str(tmp_path / "done"))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        block()
    assert (tmp_path / "done").exists()


def test_an_executor_of_ones_own_stays_open() -> None:
    with ThreadPoolExecutor(1) as own:
        with Run(executor=own, name="mine") as executor:
            future = executor.submit(nap, 0.1)
            assert executor.decision.backend == "ThreadPoolExecutor"
        assert future.done()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(square, 1)
        assert own.submit(square, 5).result() == 25


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"flavor": "process"}, ConfigError, "'process'.*'processes'"),
        ({"max_workers": 0}, ConfigError, "max_workers=0"),
        ({"max_workers": "4"}, ConfigError, "max_workers='4'"),
        ({"config": {"max_workers": 2}}, TypeError, "RuntimeConfig"),
        ({"executor": 4}, TypeError, "executor must be"),
        ({"executor": ThreadPoolExecutor}, TypeError, "executor must be"),
        ({"flavor": None}, ConfigError, "flavor=None"),
        ({"trace": "stderr"}, TypeError, "trace must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Run(**options)


@pytest.mark.parametrize("flavor", ALL_FLAVORS)
def test_async_with(flavor: Any) -> None:
    async def main() -> list[int]:
        async with Run(flavor=flavor, max_workers=2) as executor:
            loop = asyncio.get_running_loop()
            return await asyncio.gather(*(loop.run_in_executor(executor, square, n) for n in range(4)))

    assert asyncio.run(main()) == [0, 1, 4, 9]


async def longest_gap(body: Callable[[], Any]) -> float:
    """Run a coroutine and return the longest time, in seconds, for which the loop did nothing else."""
    gaps: list[float] = []

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    beating = asyncio.create_task(beat())
    await body()
    beating.cancel()
    return max(gaps)


@pytest.mark.parametrize("method", SPAWNING)
def test_async_with_never_blocks_the_loop(method: Any) -> None:
    """Neither while a worker starts nor while a long task is waited for at the end."""

    async def scope() -> None:
        config = RuntimeConfig(start_method=method)
        async with Run(flavor="processes", config=config, max_workers=1) as executor:
            executor.submit(nap, 1.0)

    # Far below the second of the task and yet above the hiccups of a loaded machine: not a timing, but an order.
    assert asyncio.run(longest_gap(scope)) < 0.7


def test_an_async_scope_that_is_cancelled_in_its_block(tmp_path: Path) -> None:
    """As ``asyncio.run`` does on Ctrl-C: what has begun is waited for, and nothing else begins."""

    async def scope() -> None:
        async with Run(flavor="threads", max_workers=1) as executor:
            executor.submit(nap, 0.3)
            executor.submit(mark, str(tmp_path / "begun"))
            await asyncio.sleep(PATIENCE)

    async def main() -> None:
        task = asyncio.create_task(scope())
        await asyncio.sleep(0.1)
        task.cancel()
        begin = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begin < PATIENCE
        assert not (tmp_path / "begun").exists()

    asyncio.run(main())


@pytest.mark.parametrize("run", [to_thread, to_process])
def test_stop_iteration_has_an_end(run: Any) -> None:
    """asyncio's futures cannot hold it, and wait for ever where they should."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await asyncio.wait_for(run(next, iter(())), PATIENCE)
        assert isinstance(caught.value.__cause__, StopIteration)

    asyncio.run(main())


@pytest.mark.parametrize("flavor", ["threads", "processes", "own"])
def test_an_async_scope_that_is_cancelled_at_its_end(flavor: Any, tmp_path: Path) -> None:
    """Where it waits for most of its time: the same as in the block."""
    own = ThreadPoolExecutor(1) if flavor == "own" else None

    async def scope(run: Run) -> None:
        async with run as executor:
            executor.submit(lasting, str(tmp_path))
            executor.submit(mark, str(tmp_path / "begun"))

    async def main() -> None:
        run = Run(flavor="threads" if own else flavor, max_workers=1, executor=own)
        task = asyncio.create_task(scope(run))
        while not (tmp_path / "begins").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (tmp_path / "ends").exists()
        assert not (tmp_path / "begun").exists()
        assert run.trace is not None

    asyncio.run(main())
    if own is not None:
        own.shutdown()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is a signal there is no function for")
def test_ctrl_c_while_the_end_of_a_scope_waits(tmp_path: Path) -> None:
    """As in the block: what runs is interrupted, what waits is cancelled. And the decision stays to be seen."""
    run = Run(flavor="processes", max_workers=1)
    futures: list[Future[Any]] = []

    def interrupt() -> None:
        while not (tmp_path / "begins").exists():
            time.sleep(0.01)
        time.sleep(0.1)  # until the block is left
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), run as executor:  # noqa: PT012
            futures += executor.submit(lasting, str(tmp_path), PATIENCE), executor.submit(square, 2)
            threading.Thread(target=interrupt).start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.trace is not None
    with pytest.raises(BaseException):  # noqa: B017, PT011 - KeyboardInterrupt, or that its worker was killed
        futures[0].result(PATIENCE / 2)
    assert not (tmp_path / "ends").exists()
    with pytest.raises(CancelledError):
        futures[1].result(PATIENCE / 2)


def test_map_and_submit_over_any_executor_or_none() -> None:
    with ThreadPoolExecutor(1) as own:
        assert list(unirun.map(own, square, [1, 2])) == [1, 4]
        assert unirun.submit(own, pow, 2, 5).result() == 32
    assert list(unirun.map(pow, [2, 3], [3, 2], chunksize=1, timeout=30)) == [8, 9]
    assert unirun.submit(int, "ff", base=16).result() == 255
    assert leases.cached() == 1
    nonsense: Any = "square"
    for wrong in (
        lambda: unirun.map(nonsense, [1]),
        lambda: unirun.map(square),
        lambda: unirun.submit(nonsense, 1),
    ):
        with pytest.raises(TypeError):
            wrong()


def test_to_thread_carries_context_variables() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def main() -> tuple[str, int]:
        variable.set("seen")
        return await to_thread(variable.get), await to_thread(thread_id)

    value, thread = asyncio.run(main())
    assert value == "seen"
    assert thread != threading.get_ident()


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_to_process(method: Any) -> None:
    configure(start_method=method)

    async def main() -> list[int]:
        results = await asyncio.gather(*(to_process(square, n) for n in range(5)))
        assert await to_process(int, "ff", base=16) == 255
        with pytest.raises(ZeroDivisionError):
            await to_process(divmod, 1, 0)
        assert await to_process(pid) != os.getpid()
        return results

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]
    assert leases.cached() == 1


def test_a_crash_is_one_error_and_the_next_call_gets_a_new_pool() -> None:
    async def main() -> None:
        with pytest.raises(BrokenProcessPool):
            await to_process(crash)
        assert await to_process(square, 3) == 9

    asyncio.run(main())


def test_cancelling_a_call_cancels_a_task_that_has_not_started(tmp_path: Path) -> None:
    configure(max_workers=1, force_threads=True)

    async def main() -> None:
        first = asyncio.create_task(to_thread(nap, 0.3))
        second = asyncio.create_task(to_thread(mark, str(tmp_path / "ran")))
        await asyncio.sleep(0.1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first

    asyncio.run(main())
    reset()
    assert not (tmp_path / "ran").exists()


def test_a_cached_pool_is_shared_and_ended_by_reset() -> None:
    configure(force_process=True, max_workers=1)
    first = {unirun.submit(pid).result() for _ in range(3)}
    assert len(first) == 1
    configure(force_process=True, max_workers=2)
    unirun.submit(pid).result()
    assert leases.cached() == 2
    reset()
    assert leases.cached() == 0
    assert not multiprocessing.active_children()
    assert {unirun.submit(pid).result()} != first


def test_one_cached_pool_however_many_threads_ask_at_once() -> None:
    configure(force_process=True, max_workers=1)
    barrier = threading.Barrier(8)
    pids: list[int] = []

    def ask() -> None:
        barrier.wait(30)
        pids.append(unirun.submit(pid).result(30))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(pids) == 8
    assert len(set(pids)) == 1
    assert leases.cached() == 1


def test_idle_pools_end_by_themselves_and_busy_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "IDLE_SECONDS", 0.2)
    configure(max_workers=1)
    busy = unirun.submit(nap, 0.8)
    assert busy.result(30) == 0.8, "the pool was ended under its task"
    end = time.monotonic() + 30
    while leases.cached() and time.monotonic() < end:
        time.sleep(0.02)
    assert leases.cached() == 0
    while any(t.name == "unirun-idle" for t in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(t.name == "unirun-idle" for t in threading.enumerate()), "nothing is left to watch"
    assert unirun.submit(square, 2).result(30) == 4


def child_of_a_fork(queue: Any) -> None:
    """Use a cached pool where the parent has one too."""
    queue.put((leases.cached(), unirun.submit(square, 6).result(30), leases.cached()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork")
def test_a_forked_child_does_not_share_the_cached_pools() -> None:
    unirun.submit(square, 1).result()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=child_of_a_fork, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == (0, 36, 1)
    child.join(30)
    assert child.exitcode == 0
    queue.close()
    queue.join_thread()
    assert unirun.submit(square, 2).result() == 4


@pytest.mark.parametrize("method", SPAWNING)
def test_a_pool_is_started_once_for_all_who_await_it(method: Any) -> None:
    configure(start_method=method, max_workers=1)

    async def main() -> int:
        tasks = [asyncio.create_task(to_process(square, n)) for n in range(50)]
        await asyncio.sleep(0)
        starting = sum(t.name == "unirun-off-loop" for t in threading.enumerate())
        assert await asyncio.gather(*tasks) == [n * n for n in range(50)]
        return starting

    assert asyncio.run(main()) <= 1


def test_reset_between_the_submits_of_another_thread() -> None:
    configure(force_threads=True, max_workers=1)
    stop = threading.Event()
    wrong: list[BaseException] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                assert unirun.submit(square, 3).result(30) == 9
            except CancelledError:
                pass  # what reset() says that it does to tasks that have not started
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        reset()
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not wrong


def test_chunks_through_the_cached_pool() -> None:
    configure(force_process=True, max_workers=1)
    assert list(unirun.map(pow, range(7), [2] * 7, chunksize=3)) == [0, 1, 4, 9, 16, 25, 36]
    with pytest.raises(ValueError, match="chunksize"):
        unirun.map(square, [1], chunksize=0)


def test_ctrl_c_in_a_task_that_runs_at_the_call_is_not_tried_again() -> None:
    """Not even if the task has ended the pool that it runs in."""
    runs: list[None] = []

    def task() -> None:
        runs.append(None)
        reset()
        if len(runs) < 3:
            raise KeyboardInterrupt

    configure(ladder=("inline",))
    try:
        with pytest.raises(KeyboardInterrupt):
            unirun.submit(task)
    finally:
        configure()
        reset()
    assert len(runs) == 1


class Slow(ThreadPoolExecutor):
    """Whose submit takes a while, as the first one of a process pool does."""

    def __init__(self) -> None:
        super().__init__(1)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def submit(self, *arguments: Any) -> Any:  # type: ignore[override]
        self.begun.set()
        self.go_on.wait(PATIENCE)
        return super().submit(*arguments)


@pytest.mark.parametrize("cancel", [False, True])
def test_leaving_waits_for_what_another_thread_is_submitting_to_the_callers_own_executor(cancel: bool) -> None:
    with Slow() as own:
        scope = Run(executor=own)
        executor = scope.__enter__()
        futures: list[Future[Any]] = []
        submitting = threading.Thread(target=lambda: futures.append(executor.submit(nap, 0.2)))
        submitting.start()
        own.begun.wait(PATIENCE)
        if cancel:
            executor.shutdown(wait=False, cancel_futures=True)
        left: list[bool] = []

        def leave() -> None:
            scope.__exit__(None, None, None)
            left.append(futures[0].done())

        leaving = threading.Thread(target=leave)
        leaving.start()
        leaving.join(0.1)
        assert leaving.is_alive()
        own.go_on.set()
        leaving.join(PATIENCE)
        submitting.join(PATIENCE)
    assert left == [True]


def test_a_task_that_runs_at_the_call_may_end_its_scope_over_the_callers_own_executor() -> None:
    with Run(flavor="none") as own:
        executor = Run(executor=own).__enter__()
        done = executor.submit(executor.shutdown)
        assert done.result(PATIENCE) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_a_scope_over_the_callers_own_executor(tmp_path: Path) -> None:
    """Its tasks are the parent's."""
    with ThreadPoolExecutor(1) as own:
        scope = Run(executor=own)
        executor = scope.__enter__()
        busy = executor.submit(nap, 0.5)
        child = os.fork()
        if not child:
            scope.__exit__(None, None, None)
            os._exit(0)
        assert exit_status(child) == 0
        scope.__exit__(None, None, None)
    assert busy.done()


def test_a_scope_that_could_not_be_entered_is_not_open() -> None:
    """Ctrl-C came in a listener."""
    told: list[DecisionTrace] = []

    def listen(decision: DecisionTrace) -> None:
        told.append(decision)
        if len(told) == 1:
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as own:
        scope = Run(executor=own, trace=listen)
        with pytest.raises(KeyboardInterrupt):
            scope.__enter__()
        with scope as executor:
            assert executor.submit(square, 3).result(30) == 9
    assert len(told) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_was_refused_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next call, where the cached pool could not open: there may be room now."""
    configure(force_process=True, start_method="fork", downgrade="error", max_workers=1)
    with monkeypatch.context() as full:

        def refuse() -> int:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        full.setattr(os, "fork", refuse)
        for _ in range(2):
            with pytest.raises(DowngradeError, match="Resource temporarily unavailable"):
                unirun.submit(square, 3)
        assert leases.cached() == 0
    assert unirun.submit(square, 3).result(PATIENCE) == 9


@pytest.mark.parametrize("method", SPAWNING)
def test_an_error_of_the_start_is_told_once(method: str, tmp_path: Path) -> None:
    """By the call, and not by asyncio as well: that an exception was never retrieved."""
    program = tmp_path / "program.py"
    program.write_text(f"""
import asyncio, gc, os
if __name__ == "__mp_main__":
    os._exit(3)
import unirun

async def main():
    try:
        await unirun.to_process(abs, -1)
    except unirun.DowngradeError:
        print("refused")
    unirun.reset()
    gc.collect()

unirun.configure(start_method={method!r}, downgrade="error", max_workers=1)
asyncio.run(main())
""")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "refused\n"), ended.stderr
    assert "never retrieved" not in ended.stderr


@pytest.mark.skipif(sys.version_info < (3, 14), reason="this Python's map has no buffersize")
def test_a_buffer_over_an_executor_of_ones_own() -> None:
    with ThreadPoolExecutor(1) as own, Run(executor=own) as executor:
        for chunksize in (1, 2):
            options: dict[str, Any] = {"chunksize": chunksize, "buffersize": 2}
            assert list(executor.map(square, range(5), **options)) == [0, 1, 4, 9, 16]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("rung", ["pipes", "threads", "inline"])
@pytest.mark.parametrize("way", ["submit", "map"])
def test_the_traceback_of_an_exception_that_cannot_be_unpickled(rung: Any, way: str) -> None:
    """Its class wants more than it passes on, as many do: what it said in the worker must not be lost."""
    config = RuntimeConfig(ladder=(rung,), downgrade="silent", start_method="fork")
    with Run(flavor="processes", max_workers=1, config=config) as executor:
        submitted, results = executor.submit(fail_with_two, 1), executor.map(fail_with_two, range(3))
        result = submitted.result if way == "submit" else results.__next__
        with pytest.raises(BrokenProcessPool, match="the exception could not be unpickled: TypeError") as caught:
            result()
        assert "Two: 500: the database is down" in str(caught.value.__cause__)
        assert executor.submit(square, 3).result(PATIENCE) == 9

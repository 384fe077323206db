"""Interpreters as workers: when they cannot serve, what they are, and that nothing of them is left."""

import asyncio
import gc
import importlib
import importlib.util
import os
import secrets
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from multiprocessing import Manager
from pathlib import Path
from typing import Any

import pytest

import unirun
from tests.conformance.columns import COUNTED
from tests.conformance.tasks import PATIENCE
from tests.hosts.fixtures import OnHost
from tests.lower import INTERPRETERS
from tests.tasks import square
from unirun import DowngradeError, Run, RuntimeConfig, leases
from unirun.compat.concurrent.futures import ProcessPoolExecutor
from unirun.compat.concurrent.futures.process import BrokenProcessPool

ROOT = Path(unirun.__file__).parents[1]
#: Nothing else may serve; and threads may.
ALONE, ELSE_THREADS = (RuntimeConfig(ladder=("interpreters", *more), downgrade="silent") for more in ((), ("threads",)))

needed = pytest.mark.skipif(not INTERPRETERS, reason="sub-interpreters come with CPython 3.14")


def workers() -> list[threading.Thread]:
    """Return the threads of all workers."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("unirun-interpreter")]


def check_nothing_is_left() -> None:
    """Wait until all workers have ended, and check that they have closed their interpreters."""
    for thread in workers():
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if INTERPRETERS:
        from concurrent import interpreters  # type: ignore[attr-defined, unused-ignore]

        # Not before: CPython lists one that is just being made, and then ends it with the list.
        assert len(interpreters.list_all()) == 1


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves an interpreter behind, nor its thread."""
    yield
    unirun.reset()
    gc.collect()
    check_nothing_is_left()


def scope(config: RuntimeConfig = ALONE, **arguments: Any) -> Run:
    return Run(flavor="processes", config=config, **arguments)


# What they are


@needed
def test_each_worker_has_modules_of_its_own() -> None:
    """A counter in a module of this process's is another one there, and tasks of one worker see the same."""
    with scope(max_workers=1) as executor:
        assert [executor.submit(count).result(PATIENCE) for _ in range(3)] == [1, 2, 3]
        assert executor.submit(os.getpid).result(PATIENCE) == os.getpid()
    assert TALLY == [0]


TALLY = [0]


def count() -> int:
    TALLY[0] += 1
    return TALLY[0]


@needed
def test_workers_are_made_when_they_are_needed() -> None:
    """One as long as tasks come one after the other; never more than asked for."""
    with scope(max_workers=3) as executor:
        for number in range(5):
            assert executor.submit(square, number).result(PATIENCE) == number * number
            time.sleep(0.02)  # until its thread waits for the next one
        assert len(workers()) == 1
        wait([executor.submit(time.sleep, 0.1) for _ in range(10)])
        assert len(workers()) == 3


@needed
def test_the_first_one_is_started_beside_the_event_loop() -> None:
    """It takes as long as a spawned process does, and the loop goes on meanwhile."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def compute() -> int:
        ticking = asyncio.create_task(tick())
        async with scope(max_workers=1) as executor:
            assert executor.decision.settled, "it would start in `submit`"
            assert ticks > 1
            ticking.cancel()
            return await asyncio.get_running_loop().run_in_executor(executor, square, 3)

    assert asyncio.run(compute()) == 9


@needed
def test_a_proxy_of_a_manager_works_there() -> None:
    """The key by which a worker proves who it is is that of the program."""
    with Manager() as manager, scope(max_workers=2) as executor:
        shared = manager.list()
        assert sorted(executor.map(append, [shared] * 4, range(4))) == [0, 1, 2, 3]
        assert sorted(shared) == [0, 1, 2, 3]


def append(shared: Any, value: int) -> int:
    shared.append(value)
    return value


@needed
def test_many_threads_submit_at_once() -> None:
    with scope(max_workers=2) as executor:
        results: list[int] = []

        def ask() -> None:
            results.extend(executor.submit(square, number).result(PATIENCE) for number in range(50))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(results) == sorted([number * number for number in range(50)] * 4)
        assert len(workers()) <= 2


@needed
def test_a_module_that_has_changed_is_not_served_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached pools of interpreters imported it, as worker processes would have."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"changing_{secrets.token_hex(8)}"  # which modules there are is looked for again where there are other names
    file = tmp_path / f"{name}.py"
    file.write_text("def answer(): return 'old'\n")
    changing: Any = importlib.import_module(name)
    unirun.configure(ALONE.replace(force_process=True))
    try:
        assert unirun.submit(changing.answer).result(PATIENCE) == "old"
        file.write_text("def answer(): return 'the new one'\n")
        time.sleep(2 * leases.FILES_SECONDS)
        assert unirun.submit(changing.answer).result(PATIENCE) == "the new one"
    finally:
        del sys.modules[name]


# When they cannot serve


@needed
def test_an_extension_module_that_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program has loaded it, so tasks may use it: threads serve, and the decision says which module it was."""
    name = "_testsinglephase"
    monkeypatch.delitem(sys.modules, name, raising=False)
    pytest.importorskip(name, reason="this Python came without its test modules")
    with scope(ELSE_THREADS) as executor:
        assert executor.submit(square, 3).result(PATIENCE) == 9
        (refused,) = executor.decision.refused
    assert executor.decision.backend == "threads"
    assert (refused.backend, refused.stage, refused.error) == ("interpreters", "bootstrap", "InterpreterError")
    assert refused.message == f"ImportError: module {name} does not support loading in subinterpreters"


@needed
def test_one_that_a_task_is_the_first_to_load_is_the_task_s_error() -> None:
    """It has begun, and must not run again elsewhere."""
    with scope() as executor:
        pytest.importorskip("_testsinglephase", reason="this Python came without its test modules")
        sys.modules.pop("_testsinglephase")
        with pytest.raises(ImportError, match="does not support loading in subinterpreters"):
            executor.submit(__import__, "_testsinglephase").result(PATIENCE)
        assert executor.submit(square, 3).result(PATIENCE) == 9


@needed
def test_arguments_of_the_initializer_that_only_a_start_can_pass_on() -> None:
    """A lock of multiprocessing's works in threads, as it is."""
    import multiprocessing

    before = unirun.configure(ELSE_THREADS)
    try:
        with ProcessPoolExecutor(1, None, append, ([], multiprocessing.Lock())) as pool:
            assert pool.submit(square, 3).result(PATIENCE) == 9
        assert pool.decision.backend == "threads"
    finally:
        unirun.configure(before)


PROGRAM = textwrap.dedent(
    """
    import sys, warnings
    warnings.simplefilter("ignore", RuntimeWarning)
    if "without cloudpickle" in sys.argv:
        sys.modules["cloudpickle"] = None
    from unirun import Run, RuntimeConfig

    def double(number):
        return 2 * number

    def main():
        with Run(flavor="interpreters", max_workers=3, config=RuntimeConfig(downgrade="silent")) as executor:
            task = abs if "builtin" in sys.argv else double
            print([*executor.map(task, range(100))][-1], executor.decision.backend, executor.decision.short)
    """
)


def perform(
    on_host: OnHost, host: str, folder: Path, program: str, *arguments: str, file: bool = True, stdin: str | None = None
) -> list[str]:
    (folder / "program.py").write_text(program)
    outcome = on_host(
        host,
        [sys.executable, *(["program.py"] if file else ["-c", program]), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "UNIRUN_LADDER": "interpreters,threads,inline"},
        cwd=folder,
        stdin=stdin,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert (outcome.stderr, outcome.left_behind) == ("", ())
    return outcome.stdout.splitlines()


@needed
def test_a_main_module_without_a_guard_does_its_job_once(on_host: OnHost, tmp_path: Path) -> None:
    """What a worker imports of it gets as far as the pool; then threads serve."""
    assert perform(on_host, "healthy", tmp_path, PROGRAM + "\nmain()\n") == ["198 threads None"]


@needed
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["builtin"], "99 interpreters None"),
        (["own"], "198 interpreters None"),
        (["builtin", "without cloudpickle"], "99 interpreters None"),
        (["own", "without cloudpickle"], "198 threads None"),
    ],
)
def test_a_main_module_that_workers_cannot_import(on_host: OnHost, tmp_path: Path, words: list[str], said: str) -> None:
    """What refers to it goes by value, if that is installed."""
    assert perform(on_host, "healthy", tmp_path, PROGRAM + "\nmain()\n", *words, file=False) == [said]


@needed
def test_what_cannot_go_by_value_is_its_future_s_error(on_host: OnHost, tmp_path: Path) -> None:
    program = """
import threading
from unirun import Run

lock = threading.Lock()

def locked(number):
    with lock:
        return number

with Run(flavor="interpreters") as executor:
    future = executor.submit(locked, 3)
    print(type(future.exception()).__name__, executor.submit(abs, -3).result(), executor.decision.backend)
"""
    assert perform(on_host, "healthy", tmp_path, program, file=False) == ["TypeError 3 interpreters"]


@needed
def test_half_a_start(on_host: OnHost, tmp_path: Path) -> None:
    """The second thread is refused: one worker serves, and the decision says so."""
    guarded = PROGRAM + '\nif __name__ == "__main__":\n    main()\n'
    (said,) = perform(on_host, "threads-refused-second", tmp_path, guarded)
    assert said == "198 interpreters interpreters refused (RuntimeError: can't start new thread, at start)"


@needed
def test_no_threads_no_interpreters(on_host: OnHost, tmp_path: Path) -> None:
    """Each of them needs one."""
    guarded = PROGRAM + '\nif __name__ == "__main__":\n    main()\n'
    assert perform(on_host, "threads-refused", tmp_path, guarded) == ["198 inline None"]


@pytest.mark.skipif(INTERPRETERS, reason="this Python has interpreters")
def test_a_python_without_them() -> None:
    """Who asks for them is told; who asks for processes never hears of them, but by a ladder of their own."""
    with Run(flavor="interpreters", config=RuntimeConfig(downgrade="silent")) as executor:
        (refused,) = executor.decision.refused
    assert "they come with CPython 3.14" in str(refused)
    with scope(RuntimeConfig()) as executor:
        assert "interpreters" not in executor.decision.ladder
    with pytest.raises(DowngradeError, match=r"interpreters refused .*3\.14"), scope():
        pytest.fail("the block ran")


@needed
@pytest.mark.skipif(importlib.util.find_spec("_curses") is None, reason="this Python has no curses")
def test_what_the_standard_library_has_that_refuses_them(on_host: OnHost, tmp_path: Path) -> None:
    guarded = PROGRAM + '\nif __name__ == "__main__":\n    import _curses\n    main()\n'
    assert perform(on_host, "healthy", tmp_path, guarded) == ["198 threads None"]


LAZY = """
import importlib.util, sys

def lazy(name):
    spec = importlib.util.find_spec(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
"""


@needed
def test_a_module_that_is_loaded_when_somebody_looks_into_it(on_host: OnHost, tmp_path: Path) -> None:
    """Nobody does."""
    (tmp_path / "loud.py").write_text("print('loaded')")
    guarded = f'{LAZY}{PROGRAM}\nif __name__ == "__main__":\n    lazy("loud")\n    main()\n'
    assert perform(on_host, "healthy", tmp_path, guarded) == ["198 interpreters None"]


@needed
def test_a_connection_for_the_initializer_is_for_one_worker_only() -> None:
    """Its pickle can be loaded once; threads share it as it is."""
    from multiprocessing import Pipe

    reader, writer = Pipe()
    with reader, writer:
        before = unirun.configure(ELSE_THREADS)
        try:
            with ProcessPoolExecutor(2, None, keep, (writer,)) as pool:
                assert pool.submit(square, 3).result(PATIENCE) == 9
            assert pool.decision.backend == "threads"
        finally:
            unirun.configure(before)


def keep(*_: object) -> None:
    """Be an initializer that needs what it is given."""


# What is the program's


@needed
def test_shared_memory_stays_when_a_worker_has_attached_it() -> None:
    """The interpreter's own tracker would take it away at its end."""
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=16)
    try:
        for _ in range(2):
            buffer: Any = memory.buf
            buffer[0] = 7
            del buffer
            with scope(max_workers=1) as executor:
                assert executor.submit(first_byte, memory.name).result(PATIENCE) == 7
    finally:
        memory.close()
        memory.unlink()


def first_byte(name: str) -> int:
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(name)
    try:
        buffer: Any = memory.buf
        return int(buffer[0])
    finally:
        memory.close()


@needed
def test_standard_input_is_left_to_the_program(on_host: OnHost, tmp_path: Path) -> None:
    """Nothing of it is in the buffer of a worker."""
    assert perform(on_host, "healthy", tmp_path, READING, stdin="first\nsecond\n") == ["[] ['first', 'second']"]


READING = """
import sys
from unirun import Run

def read():
    return sys.stdin.read().split()

if __name__ == "__main__":
    with Run(flavor="interpreters") as executor:
        print(executor.submit(read).result(), read())
"""


@needed
def test_cached_pools_in_a_worker(caplog: pytest.LogCaptureFixture) -> None:
    """There are no daemon threads, of which the one is that ends idle pools."""
    with scope() as executor:
        assert executor.submit(nested, 3).result(PATIENCE) == ("9", "")


def nested(number: int) -> tuple[str, str]:
    import io
    import logging

    said = io.StringIO()
    logging.getLogger("concurrent.futures").addHandler(logging.StreamHandler(said))
    result = str(unirun.submit(square, number).result(PATIENCE))
    unirun.reset()
    return result, said.getvalue()


# Ends


INTERRUPTED = """
import random, signal, sys, threading, time
from concurrent import interpreters
from unirun.compat.concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    random.seed(int(sys.argv[1]))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupted = 0
    for _ in range(25):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.1))
            try:
                with ProcessPoolExecutor(2) as pool:
                    pool.submit(abs, -1), pool.submit(abs, -2)
                    time.sleep(0.2)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
        pool = None
    with ProcessPoolExecutor(2) as pool:
        print(interrupted > 0, pool.submit(abs, -3).result(), pool.decision.backend)
    end = time.monotonic() + 30
    while threading.active_count() > 1 and time.monotonic() < end:
        time.sleep(0.01)
    print(threading.active_count(), len(interpreters.list_all()))
"""


@needed
@pytest.mark.parametrize("seed", ["1", "2"])
def test_ctrl_c_at_any_moment_leaves_nothing(on_host: OnHost, tmp_path: Path, seed: str) -> None:
    """Interpreters are made and closed by their threads alone, which hear of no signal."""
    assert perform(on_host, "healthy", tmp_path, INTERRUPTED, seed) == ["True 3 interpreters", "1 1"]


STARTING = """
import os, signal, threading, time
from unirun.compat.concurrent.futures import ProcessPoolExecutor

def interrupt():
    end = time.monotonic() + 10
    names = ()
    while "unirun-interpreter_1" not in names and time.monotonic() < end:
        names = [thread.name for table in (threading._limbo, threading._active) for thread in list(table.values())]
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    ended = 0
    for _ in range(15):
        pool = ProcessPoolExecutor(2)
        pool.submit(time.sleep, 0.3)
        watcher = threading.Thread(target=interrupt)
        try:
            watcher.start()
            pool.submit(abs, -1)
            watcher.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            pass
        futures = [pool.submit(abs, -number) for number in range(4)]
        ended += [future.result(20) for future in futures] == [0, 1, 2, 3]
        pool.shutdown()
        watcher.join()
    print(ended)
"""


@needed
def test_ctrl_c_as_a_worker_starts_costs_nobody_his_interpreter(on_host: OnHost, tmp_path: Path) -> None:
    """Whether its thread has it already, who starts that thread cannot tell then."""
    assert perform(on_host, "healthy", tmp_path, STARTING) == ["15"]


@needed
@pytest.mark.parametrize("workers", [1, 2])
def test_an_initializer_that_fails_after_the_shutdown_lets_the_pool_end(
    workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    """All of its threads, also those that wait: what told them to end was taken out with the tasks that fail."""
    before = unirun.configure(ALONE)
    try:
        pool = ProcessPoolExecutor(workers, initializer=fail_slowly)
    finally:
        unirun.configure(before)
    futures = [pool.submit(square, number) for number in range(4)]
    pool.shutdown(wait=False)
    for future in futures:
        assert type(future.exception(PATIENCE)) is BrokenProcessPool
    with pytest.raises(RuntimeError, match=r"initializer failed \(ValueError: why\)|after shutdown"):
        pool.submit(square, 3)
    pool.shutdown(wait=True)


def fail_slowly() -> None:
    time.sleep(0.2)
    raise ValueError("why")


@needed
@COUNTED
def test_who_keeps_the_error_of_an_initializer_keeps_no_pool(caplog: pytest.LogCaptureFixture) -> None:
    unirun.configure(ALONE)
    pool = ProcessPoolExecutor(1, initializer=fail_slowly)
    error = pool.submit(square, 3).exception(PATIENCE)
    assert "the initializer failed (ValueError: why)" in str(error)
    caplog.clear()  # which holds the original
    del pool
    check_nothing_is_left()
    del error


@needed
@COUNTED
def test_a_pool_that_is_dropped_ends() -> None:
    """As soon as nobody holds it: its threads end, and close their interpreters."""
    unirun.configure(ALONE)
    gc.disable()
    try:
        pool = ProcessPoolExecutor(2)
        assert pool.submit(square, 3).result(PATIENCE) == 9
        del pool
        check_nothing_is_left()
    finally:
        gc.enable()


@needed
def test_shut_down_before_its_second_worker_is_wanted() -> None:
    """And while tasks wait: what has not begun is cancelled, and the workers end."""
    with scope(max_workers=2) as executor:
        futures = [executor.submit(time.sleep, 0.05) for _ in range(20)]
        executor.shutdown(wait=True, cancel_futures=True)
        assert sum(future.cancelled() for future in futures) >= 1
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(square, 3)


@needed
def test_a_result_that_cannot_be_loaded_here() -> None:
    """It is the pool's error, on that future alone; nothing hangs."""
    with scope() as executor:
        with pytest.raises(BrokenProcessPool, match="the result could not be unpickled: ZeroDivisionError"):
            executor.submit(Unloadable).result(PATIENCE)
        with pytest.raises(BrokenProcessPool, match="the task could not be unpickled: ZeroDivisionError"):
            executor.submit(repr, Unloadable()).result(PATIENCE)
        assert executor.submit(square, 3).result(PATIENCE) == 9


class Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return _fail, ()


def _fail() -> None:
    raise ZeroDivisionError

"""Interpreters as workers: when they cannot serve, what they are, and that nothing of them is left."""

import gc
import importlib
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


def alive() -> int:
    """Return how many interpreters there are beside this one."""
    from concurrent import interpreters  # type: ignore[attr-defined, unused-ignore]

    return len(interpreters.list_all()) - 1


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves an interpreter behind, nor a thread."""
    before = threading.active_count()
    yield
    unirun.reset()
    gc.collect()
    deadline = time.monotonic() + PATIENCE
    while INTERPRETERS and (alive() or threading.active_count() > before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not INTERPRETERS or (alive(), threading.active_count()) == (0, before)


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
        assert alive() == 1
        wait([executor.submit(time.sleep, 0.1) for _ in range(10)])
        assert alive() == 3


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
        assert alive() <= 2


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
    from unirun import Run, RuntimeConfig

    def double(number):
        return 2 * number

    def main():
        with Run(flavor="interpreters", max_workers=3, config=RuntimeConfig(downgrade="silent")) as executor:
            task = abs if "builtin" in sys.argv else double
            print([*executor.map(task, range(100))][-1], executor.decision.backend, executor.decision.short)
    """
)


def perform(on_host: OnHost, host: str, folder: Path, program: str, *arguments: str, file: bool = True) -> list[str]:
    (folder / "program.py").write_text(program)
    outcome = on_host(
        host,
        [sys.executable, *(["program.py"] if file else ["-c", program]), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "UNIRUN_LADDER": "interpreters,threads,inline"},
        cwd=folder,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert (outcome.stderr, outcome.left_behind) == ("", ())
    return outcome.stdout.splitlines()


@needed
def test_a_main_module_without_a_guard_does_its_job_once(on_host: OnHost, tmp_path: Path) -> None:
    """What a worker imports of it gets as far as the pool; then threads serve."""
    assert perform(on_host, "healthy", tmp_path, PROGRAM + "\nmain()\n") == ["198 threads None"]


@needed
@pytest.mark.parametrize(("task", "backend"), [("builtin", "interpreters"), ("own", "threads")])
def test_a_main_module_that_workers_cannot_import(on_host: OnHost, tmp_path: Path, task: str, backend: str) -> None:
    last = {"builtin": 99, "own": 198}[task]
    said = perform(on_host, "healthy", tmp_path, PROGRAM + "\nmain()\n", task, file=False)
    assert said == [f"{last} {backend} None"]


@needed
def test_half_a_start(on_host: OnHost, tmp_path: Path) -> None:
    """The second thread is refused: one worker serves, and the decision says so."""
    guarded = PROGRAM + '\nif __name__ == "__main__":\n    main()\n'
    (said,) = perform(on_host, "threads-refused-second", tmp_path, guarded)
    assert said == "198 interpreters threads refused (RuntimeError: can't start new thread, at start)"


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


# Ends


@needed
@COUNTED
def test_a_pool_that_is_dropped_ends() -> None:
    """As soon as nobody holds it: its threads end, and close their interpreters."""
    unirun.configure(ALONE)
    gc.disable()
    try:
        pool = ProcessPoolExecutor(2)
        assert pool.submit(square, 3).result(PATIENCE) == 9
        assert alive() == 1
        del pool
        deadline = time.monotonic() + PATIENCE
        while alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert alive() == 0
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

"""Scopes that use the workers of earlier ones: alone, as good as new, and never stale."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from pathlib import Path
from typing import Any

import pytest

import unirun
from tests.conformance.columns import FORKING
from tests.conformance.tasks import Gate
from tests.unit.moments import in_time
from unirun import Run, RuntimeConfig, configure, leases
from unirun.backends.pipes import shelf
from unirun.backends.pipes.pool import PipePool
from unirun.refusal import Refused

pytestmark = FORKING

PATIENCE = 30.0
METHODS_TO_START = ["spawn", "forkserver"]
METHODS = pytest.mark.parametrize("method", METHODS_TO_START)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    unirun.reset()
    yield
    configure()
    unirun.reset()


def scope(method: Any = "spawn", **options: Any) -> Run:
    return Run(flavor="processes", max_workers=1, config=RuntimeConfig(start_method=method, **options))


def pid(_: object = None) -> int:
    return os.getpid()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def folder() -> str:
    return os.getcwd()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def touch(path: str, seconds: float = 0.0) -> float:
    Path(path).touch()
    time.sleep(seconds)
    return seconds


def submit_for_ever(executor: Executor, taken: list[Future[float]], begun: threading.Event) -> None:
    while True:
        taken.append(executor.submit(nap, 0))
        begun.set()


def pid_in(method: str, **options: Any) -> int:
    with scope(method, **options) as executor:
        return executor.submit(pid).result(PATIENCE)


@METHODS
def test_the_same_workers_serve_one_scope_after_the_other(method: str) -> None:
    """Run means the same each time."""
    assert len({pid_in(method) for _ in range(3)}) == 1


def test_forked_workers_are_used_again_on_request_only() -> None:
    """They hold the program's globals as they were at their birth."""
    assert pid_in("fork") != pid_in("fork")
    assert pid_in("fork", reuse=True) == pid_in("fork", reuse=True)
    assert pid_in("spawn", reuse=False) != pid_in("spawn", reuse=False)


def test_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says the same as the field."""
    monkeypatch.setenv("UNIRUN_REUSE", "1")
    assert pid_in("fork") == pid_in("fork")
    monkeypatch.setenv("UNIRUN_REUSE", "0")
    assert pid_in("spawn") != pid_in("spawn")


def test_two_scopes_at_once_share_nothing() -> None:
    """Nested, and in threads."""
    with scope() as outer, scope() as inner:
        assert outer.submit(pid).result(PATIENCE) != inner.submit(pid).result(PATIENCE)
    pids: list[int] = []
    both = threading.Barrier(2)

    def ask() -> None:
        with scope() as executor:
            both.wait(PATIENCE)
            pids.append(executor.submit(pid).result(PATIENCE))
            both.wait(PATIENCE)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(set(pids)) == 2


def test_other_settings_have_other_pools() -> None:
    """Workers, and how they are treated."""
    first = pid_in("spawn")
    assert pid_in("spawn", task_timeout=20) != first
    with Run(flavor="processes", max_workers=2, config=RuntimeConfig(start_method="spawn")) as executor:
        assert executor.submit(pid).result(PATIENCE) != first
    assert pid_in("spawn") == first


def test_who_has_given_a_pool_back_sees_no_task_of_the_next_one(tmp_path: Path) -> None:
    """Programs look into what is pending, which is a table of the pool's."""
    gate = Gate(str(tmp_path))
    with scope() as first:
        mine = first.submit(pid).result(PATIENCE)
    with scope() as second:
        assert second.submit(pid).result(PATIENCE) == mine
        second.submit(gate.pass_through, "task")
        gate.await_arrival("task")
        seen: Any = first, second
        assert [len(each._pending_work_items) for each in seen] == [0, 1]
        assert list(seen[0]._pending_work_items.values()) == []
        assert [(each._shutdown_thread, each._broken) for each in seen] == [(True, False), (False, False)]
        gate.open()


def test_a_scope_that_has_ended_takes_no_work() -> None:
    """Although its pool lives on."""
    with scope() as executor:
        executor.submit(pid).result(PATIENCE)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(pid)
    with scope() as later:
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.map(pid, [1])
        assert later.submit(pid).result(PATIENCE)


def test_cancelled_tasks_do_not_run_in_a_later_scope(tmp_path: Path) -> None:
    """They are gone with theirs; what ran is waited for."""
    with scope() as executor:
        running = executor.submit(touch, str(tmp_path / "running"), 0.2)
        later = [executor.submit(touch, str(tmp_path / str(number))) for number in range(20)]
        while not (tmp_path / "running").exists():
            time.sleep(0.001)
        executor.shutdown(wait=False, cancel_futures=True)
    assert running.result(0) == 0.2
    with scope() as executor:
        assert executor.submit(nap, 0).result(PATIENCE) == 0
    assert all(future.cancelled() for future in later if not future.done() or future.cancelled())
    assert len(list(tmp_path.iterdir())) == 1 + sum(not future.cancelled() for future in later)
    assert any(future.cancelled() for future in later)
    with pytest.raises(CancelledError):
        later[-1].result(0)


def test_shutdown_without_waiting_gives_back_later() -> None:
    """Whoever comes meanwhile gets another pool."""
    with scope() as executor:
        first = executor.submit(pid).result(PATIENCE)
        running = executor.submit(nap, 0.3)
        executor.shutdown(wait=False)
        assert pid_in("spawn") != first
        assert running.result(PATIENCE) == 0.3


def test_a_crash_costs_its_own_scope_a_task() -> None:
    """The next one has a new pool: of this one a worker is missing, and whether one can be started is not known."""
    with scope() as executor:
        with pytest.raises(BrokenExecutor):
            executor.submit(os._exit, 3).result(PATIENCE)
        replaced = executor.submit(pid).result(PATIENCE)
    assert pid_in("spawn") != replaced
    with scope(on_crash="raise") as executor:
        with pytest.raises(BrokenExecutor):
            executor.submit(os._exit, 3).result(PATIENCE)
        with pytest.raises(BrokenExecutor):
            executor.submit(pid)
    assert pid_in("spawn", on_crash="raise")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="executors have no kill_workers before 3.14")
@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_workers_that_were_ended_are_not_used_again(how: str) -> None:
    """By whatever word."""
    with scope() as executor:
        first = executor.submit(pid).result(PATIENCE)
        getattr(executor, how)()
    assert pid_in("spawn") != first


def test_ctrl_c_ends_the_workers() -> None:
    """The block was left by it, and they were interrupted."""
    first = 0
    with pytest.raises(KeyboardInterrupt), scope() as executor:  # noqa: PT012
        first = executor.submit(pid).result(PATIENCE)
        executor.submit(nap, 20)
        raise KeyboardInterrupt
    assert pid_in("spawn") != first


def test_leaving_waits_for_callbacks() -> None:
    """As leaving a pool of its own does. They run in the pool's thread, where they would hold up the next scope."""
    told: list[float] = []

    def tell(future: Future[float]) -> None:
        time.sleep(0.3)
        told.append(future.result())

    with scope() as executor:
        executor.submit(nap, 0.2).add_done_callback(tell)
    assert told == [0.2]


def test_a_callback_may_shut_its_scope_down() -> None:
    """It runs in the thread that gives the pool back."""
    with scope() as executor:
        first = executor.submit(pid).result(PATIENCE)
        running = executor.submit(nap, 0.2)
        later = [executor.submit(nap, 0.01) for _ in range(50)]
        running.add_done_callback(lambda _: executor.shutdown(wait=True, cancel_futures=True))
    assert all(future.done() for future in later)
    assert pid_in("spawn") == first


def test_a_scope_is_ended_in_the_middle_of_its_own_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the handler of a signal, which must not wait for the submit that it interrupts. The task runs."""
    with scope() as executor:
        first = executor.submit(pid).result(PATIENCE)
        submit = PipePool.submit

        def shut_down_and_submit(pool: PipePool, *task: Any) -> Future[Any]:
            monkeypatch.undo()
            executor.shutdown()
            return submit(pool, *task)

        monkeypatch.setattr(PipePool, "submit", shut_down_and_submit)
        assert in_time(lambda: executor.submit(pid).result()) == first
    assert pid_in("spawn") == first


def test_whoever_has_left_cannot_reach_the_pool() -> None:
    """Neither its workers nor its queue: they are another scope's."""
    with scope() as executor:
        first = executor.submit(pid).result(PATIENCE)
        table: Any = executor._processes  # type: ignore[union-attr]
        assert list(table) == [first]
    with scope() as later:
        tasks = [later.submit(nap, 0.01) for _ in range(20)]
        executor.shutdown(cancel_futures=True)
        for how in ("terminate_workers", "kill_workers") if sys.version_info >= (3, 14) else ():
            getattr(executor, how)()
        executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert not table
        assert [task.result(PATIENCE) for task in tasks] == [0.01] * 20
        assert later.submit(pid).result(PATIENCE) == first


def test_submits_of_another_thread_when_a_scope_is_left() -> None:
    """Each is done before the scope is, or refused; none comes to a later one."""
    for _ in range(20):
        taken: list[Future[float]] = []
        begun = threading.Event()

        def ask(executor: Any, taken: Any = taken, begun: Any = begun) -> None:
            with pytest.raises(RuntimeError, match="after shutdown"):
                submit_for_ever(executor, taken, begun)

        with scope() as executor:
            thread = threading.Thread(target=ask, args=(executor,))
            thread.start()
            assert begun.wait(PATIENCE)
        done = [future.done() for future in taken]
        thread.join(PATIENCE)
        assert all(done)
        assert all(future.done() for future in taken)
    with scope() as executor:
        assert executor.submit(nap, 0).result(PATIENCE) == 0


def test_the_pool_forgets_how_long_tasks_took() -> None:
    """Many at once were right for the tiny ones of the scope before, and are not for these."""
    with scope() as executor:
        executor.submit(nap, 0).result(PATIENCE)
        kept = executor._unirun_lower._pool._manager.dispatch  # type: ignore[union-attr]
        # A task that a loaded machine held up counts as a long one, until some twenty short ones have come after it.
        end = time.monotonic() + PATIENCE
        while kept.pace.ahead <= 2:
            assert time.monotonic() < end
            [future.result(PATIENCE) for future in [executor.submit(nap, 0) for _ in range(300)]]
    assert kept.pace.ahead == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_in_the_block_leaves_it_at_once() -> None:
    """Its copy of the executor has no workers to wait for."""
    with scope() as executor:
        running = executor.submit(nap, 1.0)
        child = os.fork()
        if not child:
            try:
                signal.alarm(10)
                executor.__exit__(None, None, None)
                with pytest.raises(RuntimeError):
                    executor.submit(nap, 0)
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert running.result(PATIENCE) == 1.0


def test_each_scope_tells_its_own_decision() -> None:
    """With its own name, as if its workers were new."""
    seen: list[Any] = []
    for name in ("first", "second"):
        config = RuntimeConfig(start_method="spawn")
        with Run(flavor="processes", max_workers=1, config=config, name=name, trace=seen.append) as executor:
            executor.submit(pid).result(PATIENCE)
    assert [decision.name for decision in seen] == ["first", "second"]
    first, second = (decision.as_dict() | {"name": None, "where": None} for decision in seen)
    assert first == second
    assert first["backend"] == "pipes"
    assert first["settled"]


def test_a_changed_surrounding_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Environment, current directory, sys.path: new workers would have it, so these are new."""
    first = pid_in("spawn")
    monkeypatch.setenv("UNIRUN_TEST_WORD", "new")
    with pytest.warns(RuntimeWarning, match="means nothing to unirun"), scope() as executor:
        assert executor.submit(variable, "UNIRUN_TEST_WORD").result(PATIENCE) == "new"
    monkeypatch.delenv("UNIRUN_TEST_WORD")
    assert pid_in("spawn") != first
    monkeypatch.chdir(tmp_path)
    with scope() as executor:
        assert executor.submit(folder).result(PATIENCE) == str(tmp_path)
    second = pid_in("spawn")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert pid_in("spawn") != second


@METHODS
@pytest.mark.parametrize("cached", [False, True], ids=["Run", "to_process"])
def test_a_module_changed_on_disk_is_seen(
    cached: bool, method: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also when its time and size are the old ones."""
    monkeypatch.syspath_prepend(str(tmp_path))
    # Nobody is to find bytecode that looks as if it were of the new file, not even a fork server of an earlier test's.
    (tmp_path / "__pycache__").touch()
    monkeypatch.setattr(leases, "FILES_SECONDS", 0.0)
    file = tmp_path / f"word_of_{method}_{cached}.py"
    configure(start_method=method, max_workers=1)

    def ask() -> str:
        module: Any = __import__(file.stem)
        if cached:

            async def main() -> str:
                return str(await unirun.to_process(module.word))

            return asyncio.run(main())
        with scope(method) as executor:
            return str(executor.submit(module.word).result(PATIENCE))

    file.write_text("def word():\n    return 'old'\n")
    before = file.stat()
    time.sleep(0.05)
    assert [ask(), ask()] == ["old", "old"]
    file.write_text("def word():\n    return 'new'\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ask() == "new"
    monkeypatch.delitem(sys.modules, file.stem)


def test_a_cached_pool_is_idle_as_soon_as_its_result_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long its thread then takes for what is called when a future is done."""
    give_back = leases._give_back

    def slow(*args: Any) -> None:
        time.sleep(0.3)
        give_back(*args)

    configure(start_method="spawn", force_process=True, max_workers=1)
    assert unirun.submit(variable, "SOME_WORD").result(PATIENCE) is None
    monkeypatch.setattr(leases, "_give_back", slow)
    assert unirun.submit(variable, "SOME_WORD").result(PATIENCE) is None
    monkeypatch.setenv("SOME_WORD", "new")
    assert unirun.submit(variable, "SOME_WORD").result(PATIENCE) == "new"
    monkeypatch.undo()


def test_a_changed_surrounding_is_seen_by_a_cached_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, also between two tasks of which the first was just waited for."""
    configure(start_method="spawn", force_process=True, max_workers=1)
    first = unirun.submit(pid).result(PATIENCE)
    assert unirun.submit(pid).result(PATIENCE) == first
    monkeypatch.setenv("SOME_WORD", "new")
    assert unirun.submit(variable, "SOME_WORD").result(PATIENCE) == "new"
    second = unirun.submit(pid).result(PATIENCE)
    held = unirun.submit(nap, 0.5)
    monkeypatch.setenv("SOME_WORD", "newer")
    assert unirun.submit(pid).result(PATIENCE) == second, "a pool that has tasks is not replaced"
    assert held.result(PATIENCE) == 0.5


def test_threads_see_all_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the cached ones stay, also where processes would be spawned."""
    configure(start_method="spawn")
    before = unirun.submit(threading.get_ident).result(PATIENCE)
    monkeypatch.setenv("OF_THE_PROGRAM", "changed")
    assert unirun.submit(threading.get_ident).result(PATIENCE) == before


def test_the_async_scope() -> None:
    """Uses them again, too."""

    async def main() -> list[int]:
        pids = []
        for _ in range(3):
            async with scope() as executor:
                pids.append(await asyncio.wrap_future(executor.submit(pid)))
        return pids

    assert len(set(asyncio.run(main()))) == 1


def test_reset_ends_them() -> None:
    """And waits for their end."""
    first = pid_in("spawn")
    unirun.reset()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert pid_in("spawn") != first


def test_a_scope_that_is_open_at_reset_ends_its_workers() -> None:
    """It goes on, and what it has is not kept."""
    with scope() as executor:
        first = executor.submit(pid).result(PATIENCE)
        unirun.reset()
        assert executor.submit(pid).result(PATIENCE) == first
    assert pid_in("spawn") != first


def test_idle_ones_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while in which nobody needs them."""
    monkeypatch.setattr(shelf, "IDLE_SECONDS", 0.2)
    first = pid_in("spawn")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            os.kill(first, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail("the worker lives on")


def test_idle_workers_are_nobodys_children() -> None:
    """A program may wait for all that it has."""
    one = pid_in("spawn")
    assert not multiprocessing.active_children()
    with scope() as executor:
        assert executor.submit(pid).result(PATIENCE) == one
        assert [child.pid for child in multiprocessing.active_children()] == [one]


def test_few_are_kept() -> None:
    """However many scopes were open at once."""
    scopes = [scope() for _ in range(5)]
    for each in scopes:
        each.__enter__().submit(pid).result(PATIENCE)
    for each in scopes:
        each.__exit__(None, None, None)
    assert len(shelf._shelf) == shelf._MOST


def complain(words: str) -> int:
    print(words, file=sys.stderr)
    return os.getpid()


def test_a_crash_is_not_explained_by_the_words_of_another_scope() -> None:
    with scope() as executor:
        first = executor.submit(complain, "what one scope has to say").result(PATIENCE)
    with scope() as executor:
        assert executor.submit(complain, "and another one").result(PATIENCE) == first
        error = executor.submit(os._exit, 3).exception(PATIENCE)
    assert str(error).endswith("it last wrote to standard error:\nand another one")


def test_few_of_all_kinds_are_kept() -> None:
    """Those that were used last, where each scope has settings of its own."""
    pids = {}
    for number in range(shelf._IN_ALL + 2):
        with scope("forkserver", task_timeout=100 + number) as executor:
            pids[number] = executor.submit(pid).result(PATIENCE)
    assert len(shelf._shelf) == len({kept.key for kept in shelf._shelf}) == shelf._IN_ALL
    for number in (2, shelf._IN_ALL + 1):
        with scope("forkserver", task_timeout=100 + number) as executor:
            assert executor.submit(pid).result(PATIENCE) == pids[number]


@pytest.mark.parametrize(("room", "kept"), [(0, 1), (29, 3)])
def test_fewer_are_kept_where_there_are_few_descriptors(room: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the program's. One pool is kept all the same: a program has one as a rule."""
    monkeypatch.setattr(shelf, "_room", lambda: room)
    for number in range(5):
        with scope("forkserver", task_timeout=100 + number) as executor:
            newest = executor.submit(pid).result(PATIENCE)
    assert len(shelf._shelf) == kept
    with scope("forkserver", task_timeout=104) as executor:
        assert executor.submit(pid).result(PATIENCE) == newest


def test_few_idle_pools_are_cached() -> None:
    """Where each call comes under other settings."""
    for number in range(leases._IDLE_POOLS + 2):
        configure(start_method="forkserver", max_workers=1, task_timeout=100 + number)
        asyncio.run(unirun.to_process(pid))
    end = time.monotonic() + PATIENCE
    while leases.cached() != leases._IDLE_POOLS:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_worker_is_replaced_in_the_next_scope() -> None:
    """Somebody else has ended it while nobody used it."""
    first = pid_in("spawn")
    os.kill(first, signal.SIGKILL)
    assert pid_in("spawn") != first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_none() -> None:
    """Its parent's are its parent's."""
    first = pid_in("spawn")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"%d" % len(shelf._shelf))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"0"
    os.close(reader)
    os.close(writer)
    assert pid_in("spawn") == first


@METHODS
def test_the_exit_waits_for_nothing(method: str, tmp_path: Path) -> None:
    """And leaves nobody behind."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import os
        from unirun import Run, RuntimeConfig
        if __name__ == "__main__":
            for _ in range(3):
                with Run(flavor="processes", max_workers=1, config=RuntimeConfig(start_method={method!r})) as executor:
                    print(executor.submit(os.getpid).result())
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    (one,) = set(ended.stdout.split())
    with pytest.raises(ProcessLookupError):
        os.kill(int(one), 0)


class Interrupting:
    """A lock at whose release Ctrl-C comes, once: CPython looks for signals there, before the next step."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._left = 1

    def __enter__(self) -> object:
        return self._lock.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._lock.__exit__(*raised)
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["submit", "shutdown"])
def test_ctrl_c_in_a_borrowed_pool_does_not_keep_it(how: str) -> None:
    """Leaving the scope would wait for it for ever."""

    def interrupted() -> None:
        with scope() as executor:
            executor.submit(pid).result(PATIENCE)
            loan: Any = executor._unirun_lower  # type: ignore[union-attr]
            loan._lock = Interrupting(loan._lock)
            getattr(executor, how)(*([pid] if how == "submit" else []))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with scope() as later:
        assert later.submit(pid).result(PATIENCE) > 0


SCARCE = """
    import os, resource, time, warnings
    from unirun import Run, RuntimeConfig

    if __name__ == "__main__":
        warnings.simplefilter("error")
        for workers in (4, 3, 2, 1):
            with Run(flavor="processes", max_workers=workers, config=RuntimeConfig(start_method="spawn")) as executor:
                assert executor.submit(abs, -3).result() == 3
                if workers == 4:
                    for future in [executor.submit(time.sleep, 0.2) for _ in range(20)]:
                        future.result()
                    used = len(os.listdir("/proc/self/fd"))
                    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, used + 3))
            assert executor.decision.backend == "pipes"
        print("pipes")
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists what a process has open")
def test_pools_that_wait_make_room(tmp_path: Path) -> None:
    """For a scope of another kind, which would be refused what they hold."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(SCARCE))
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("pipes\n", 0), done.stderr


DAEMONS = """
    import sys, threading, time
    from unirun import Run, RuntimeConfig

    def scope():
        return Run(flavor="processes", max_workers=1, config=RuntimeConfig(start_method=sys.argv[1]))

    def work(shared):
        while True:
            try:
                with scope() as executor:
                    executor.submit(abs, -3).result()
                begun.set()
                shared.submit(abs, -3).result()
            except RuntimeError:  # the shared one is shut down by the exit
                time.sleep(0.001)

    begun = threading.Event()
    if __name__ == "__main__":
        shared = scope().__enter__()
        shared.submit(abs, -3).result()
        for _ in range(3):
            threading.Thread(target=work, args=(shared,), daemon=True).start()
        begun.wait()
        print("the end", flush=True)
"""


@pytest.mark.parametrize("method", METHODS_TO_START)
def test_daemon_threads_that_go_on_do_not_keep_the_exit_waiting(method: str, tmp_path: Path) -> None:
    """With scopes that they open in the course of it: their workers were waited for, on the shelf, for a minute."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(DAEMONS))
    done = subprocess.run(
        [sys.executable, program, method],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout == "the end\n", done.stderr


def test_no_second_try_for_what_is_no_lack_of_room() -> None:
    """Each would import the main module once more; and the pools that wait stay."""
    pid_in("spawn")
    tries: list[int] = []

    def refuse() -> Any:
        tries.append(1)
        raise Refused("bootstrap", BrokenExecutor("every worker ended"))

    with pytest.raises(Refused):
        shelf.borrow(("spawn", "another kind"), refuse)
    assert tries == [1]
    assert shelf._shelf


NOTEBOOK = """
import asyncio
import unirun
from unirun import Run, RuntimeConfig

unirun.configure(start_method="fork", max_workers=1)

def in_scope(fn):
    with Run(flavor="processes", config=RuntimeConfig(reuse=True)) as executor:
        return executor.submit(fn).result()

def both(fn):
    return asyncio.run(unirun.to_process(fn)), in_scope(fn)

if __name__ == "__main__":
    said, pids = [], set()
    cells = [
        "def f(): return 1",
        "def f(): return 2",
        "import functools\\n@functools.lru_cache\\ndef f(): return 3",
        "@functools.lru_cache\\ndef f(): return 4",
    ]
    for cell in cells:
        exec(cell)
        said += both(f)
    print(*said)
    import os
    print(len({both(os.getpid) for _ in range(3)}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_a_notebook_defines_is_known_to_forked_workers(tmp_path: Path) -> None:
    """Also what it defines anew: an idle pool is replaced then, and else used again."""
    program = tmp_path / "notebook.py"
    program.write_text(NOTEBOOK)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("1 1 2 2 3 3 4 4\n1\n", "")

"""A pool over pipes where libraries have changed what it stands on: clocks, sockets, modules, its own process."""

import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import process, resource_sharer
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.pipes import jobs
from tests.pipes.pools import opened
from unirun import Run, RuntimeConfig
from unirun.backends.pipes.by_value import by_value
from unirun.backends.pipes.watch import Watch

pytestmark = [
    FORKING,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="pipes need a Unix"),
    pytest.mark.usefixtures("nothing_left"),
]
PATIENCE = 30.0
ROOT = Path(__file__).parents[2]
METHODS = multiprocessing.get_all_start_methods()
#: For tests with a limit of memory.
LIMITED = pytest.mark.skipif(
    sys.implementation.name == "pypy"
    or bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    or not os.path.exists("/proc/self/statm"),
    reason="nothing says how much memory there is; or PyPy, which ends itself where there is none; or no GIL: that "
    "allocator has address space in reserve, which the limit does not reach",
)


def ran(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)


def two_faced(real: Callable[[], float]) -> float:
    caller = sys._getframe(1).f_globals["__name__"].partition(".")[0]
    in_main = threading.current_thread() is threading.main_thread()
    return 1.7e9 if in_main and caller in ("tests", "unirun") else real()


@pytest.mark.parametrize("method", METHODS)
def test_time_that_stands_still_in_some_threads(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with freezegun, which tells the real time to whoever was called by ``threading``."""
    for name in ("monotonic", "perf_counter", "time"):
        monkeypatch.setattr(time, name, partial(two_faced, getattr(time, name)))
    with opened(method, task_timeout=20) as pool:
        assert [pool.submit(jobs.square, n).result(PATIENCE) for n in range(20)] == [n * n for n in range(20)]
    config = RuntimeConfig(start_method=method, max_workers=2, reuse=False)  # type: ignore[arg-type]
    with Run(flavor="processes", config=config) as executor:
        assert list(executor.map(jobs.square, range(2000), timeout=PATIENCE)) == [n * n for n in range(2000)]


def test_time_that_stood_still_before_the_import() -> None:
    """As where the tests of a program are frozen when they first import it."""
    code = (
        "import time; sleep, time.monotonic = time.sleep, lambda: 0.0\n"
        "from unirun import clock; begin = clock.now(); sleep(0.01); print(clock.now() - begin >= 0.01)"
    )
    assert ran("-c", code).stdout == "True\n"


@pytest.mark.parametrize("seconds", [1e7, 1e300])
def test_a_limit_beyond_all_system_calls(seconds: float) -> None:
    """These take milliseconds, of 31 bits."""
    with opened(task_timeout=seconds) as pool:
        assert pool.submit(jobs.sleep, 0.1).result(PATIENCE) == 0.1


def test_a_worker_is_put_back_after_the_manager_has_failed() -> None:
    """Who listens to it hears of the failure by his future, and not of a closed descriptor."""
    watch = Watch()
    watch.close()
    watch.add(0)


def test_sockets_that_never_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gevent's, which are told to block, and do not."""
    pair = socket.socketpair

    class Unblocking(socket.socket):
        def setblocking(self, flag: bool) -> None:
            super().setblocking(False)

    def unblocking(*arguments: Any) -> tuple[socket.socket, socket.socket]:
        one, other = (Unblocking(fileno=each.detach()) for each in pair(*arguments))
        one.setblocking(True)
        other.setblocking(True)
        return one, other

    monkeypatch.setattr(socket, "socketpair", unblocking)
    with opened(workers=1) as pool:
        (first,) = pool.processes
        time.sleep(0.1)  # until it waits for its first task, in which others end
        assert pool.submit(os.getpid).result(PATIENCE) == first


class ForOthers(bytes):
    """Celery's key of its processes: only its own workers may have it."""

    def __reduce__(self) -> Any:
        raise TypeError("Pickling an AuthenticationString object is disallowed for security reasons")


@pytest.mark.parametrize("method", METHODS)
def test_in_a_worker_of_celery(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is daemonic, and has a current process of its own class, with a key of its own class."""
    settings = process.current_process()._config  # type: ignore[attr-defined]
    key = ForOthers(settings["authkey"])
    monkeypatch.setitem(settings, "authkey", key)
    monkeypatch.setitem(settings, "daemon", True)
    with opened(method) as pool:
        assert pool.submit(jobs.square, 3).result(PATIENCE) == 9
    assert settings["authkey"] is key
    assert settings["daemon"] is True


def test_where_nobody_can_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """eventlet removes all of it. The stdlib's pool finds another way."""
    for name in ("poll", "epoll"):
        monkeypatch.delattr(select, name, raising=False)
    with Run(flavor="processes", max_workers=1) as executor:
        assert executor.submit(jobs.square, 3).result(PATIENCE) == 9
    (refused,) = executor.decision.refused
    assert (refused.backend, refused.stage, executor.decision.backend) == ("pipes", "import", "processes")


FORKED = """
import asyncio, os, sys, unirun
if __name__ == "__main__":
    unirun.configure(start_method=sys.argv[1])
    assert asyncio.run(unirun.to_process(pow, 2, 3)) == 8
    child = os.fork()
    if child:
        print(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("method", METHODS)
def test_the_exit_of_a_child_that_was_forked_while_a_pool_is_cached(method: str, tmp_path: Path) -> None:
    """It would wait for the parent's workers as for its own."""
    program = tmp_path / "program.py"
    program.write_text(FORKED)
    done = ran("-W", "ignore", str(program), method)
    assert (done.stdout, done.stderr) == ("0\n", "")


DROPPED = """
import sys
from unirun import Run
if __name__ == "__main__":
    for name in [name for name in sys.modules if name.startswith("concurrent.futures")]:
        del sys.modules[name]
    import concurrent.futures
    with Run(flavor="processes", max_workers=1) as executor:
        print(executor.submit(abs, -3).result(), executor.decision.backend)
"""


def test_where_the_modules_of_the_stdlib_were_dropped_and_imported_anew(tmp_path: Path) -> None:
    """As test suites do to measure an import."""
    program = tmp_path / "program.py"
    program.write_text(DROPPED)
    done = ran(str(program))
    assert (done.stdout, done.stderr) == ("3 pipes\n", "")


ASYNC = """
import asyncio, sys
sys.modules["cloudpickle"] = None
import unirun
from unirun import Run, RuntimeConfig
def square(number):
    return number * number
async def called():
    return await unirun.to_process(square, 3), unirun.last_decision().backend
async def opened():
    async with Run(flavor="processes") as executor:
        return executor.submit(square, 3).result(), executor.decision.backend
async def by_name():
    async with Run(flavor="processes") as executor:
        return executor.submit(abs, -3).result(), executor.decision.backend
unirun.configure(start_method=sys.argv[1], downgrade="silent")
print(*(asyncio.run(each()) for each in (called, opened, by_name)))
"""


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
def test_async_functions_of_an_interactive_main(method: str) -> None:
    """Workers do not find what it defines, so it depends on the task where a pool is opened for."""
    done = ran("-c", ASYNC, method)
    assert (done.stdout, done.stderr) == ("(9, 'threads') (9, 'threads') (3, 'pipes')\n", "")


ANSWERS = """
import sys, threading
from unirun import Run, RuntimeConfig
class Point:
    def __init__(self, number):
        self.number = number
class Mine(Exception):
    pass
def made(number):
    return Point(number)
def failing(number):
    if number == 7:
        raise Mine("the reason")
    return number
def locked(number):
    return threading.Lock()
def told(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error)[:20], type(error) is Mine
with Run(flavor="processes", config=RuntimeConfig(start_method=sys.argv[1]), max_workers=2) as executor:
    one, many = executor.submit(made, 3).result(), list(executor.map(made, range(300)))
    print(type(one) is Point, {type(each) is Point for each in many}, many[-1].number, executor.decision.backend)
    print(told(executor.submit(failing, 7).result))
    print(told(lambda: list(executor.map(failing, range(20)))))
    print(told(executor.submit(locked, 3).result))
"""


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
def test_what_functions_of_an_interactive_main_return(method: str) -> None:
    """Their classes went to the worker by value, and so they come back."""
    if by_value() is None:
        pytest.skip("cloudpickle cannot be imported here")
    done = ran("-c", ANSWERS, method)
    mine = ("Mine", "the reason", True)
    lock = ("TypeError", "cannot pickle '_thre", False)
    assert done.stdout.splitlines() == ["True {True} 299 pipes", *map(str, (mine, mine, lock))], done.stderr


FROZEN = """
import os, sys
sys.frozen, sys.executable = True, os.environ["PROGRAM"]  # as the program that makes such executables sees to
import multiprocessing, multiprocessing.spawn
from unirun import Run, RuntimeConfig
if __name__ == "__main__":
    if os.environ["SUPPORT"] == "called":
        multiprocessing.spawn.freeze_support()
    config = RuntimeConfig(start_method="spawn", downgrade="silent", max_workers=1)
    with Run(flavor="processes", config=config) as executor:
        print(executor.submit(os.getpid).result() == os.getpid(), executor.decision.backend, flush=True)
"""
#: What there is in place of the interpreter: a program that also serves the helpers of multiprocessing's.
LAUNCHER = """#!/bin/sh
case "$1" in
    -*fork) exec {python} {program} "$@" ;;
    -*) exec {python} "$@" ;;
    *) exec {python} {program} "$@" ;;
esac
"""


@pytest.mark.parametrize(("support", "expected"), [("called", "False pipes\n"), ("forgotten", "True threads\n")])
def test_in_a_frozen_executable(support: str, expected: str, tmp_path: Path) -> None:
    """Workers are the same program. One that was not told to be one would start workers of its own, and so on."""
    program, launcher = tmp_path / "program.py", tmp_path / "launcher"
    program.write_text(FROZEN)
    launcher.write_text(LAUNCHER.format(python=sys.executable, program=program))
    launcher.chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PROGRAM": str(launcher), "SUPPORT": support}
    done = subprocess.run([str(launcher)], env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == expected, done.stderr
    assert ("BootstrapError" in done.stderr) == (support == "forgotten"), done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_what_a_task_starts_does_not_keep_the_pool(method: str, tmp_path: Path) -> None:
    """A program that lives on has no end of the worker's pipes, of which the parent waits to hear that it is closed."""
    with opened(method, 1) as pool:
        assert pool.submit(jobs.start_sleeper, str(tmp_path / "pid")).result(PATIENCE) == 0
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)  # which fails if the pool has waited for it


def test_a_bound_method_of_a_builtin_goes_with_its_object() -> None:
    """It has no name by which a worker would find it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, opened("fork", 1) as pool:
        ours.settimeout(PATIENCE)
        pool.submit(theirs.sendall, b"hello").result(PATIENCE)
        assert ours.recv(10) == b"hello"
        assert pool.submit([1, 2, 1].count, 1).result(PATIENCE) == 2
    resource_sharer.stop()  # which has sent the socket


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_that_the_program_has_blocked(method: str) -> None:
    """Its workers do not hear it either: a thread of the program's waits for it, and decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with opened(method, 1) as pool:
            pid = pool.submit(os.getpid).result(PATIENCE)
            task = pool.submit(jobs.sleep, 0.5)
            time.sleep(0.1)
            os.kill(pid, signal.SIGINT)
            assert task.result(PATIENCE) == 0.5
            assert pool.submit(os.getpid).result(PATIENCE) == pid
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


NO_MEMORY = """
import resource
from unirun import Run, RuntimeConfig

with Run(flavor="processes", max_workers=1, config=RuntimeConfig(start_method="fork")) as executor:
    executor.submit(bytes, 1).result()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
    error = executor.submit(bytes, 300 << 20).exception()
    print(type(error).__name__, type(error.__cause__).__name__, "cannot take in what it sent" in str(error))
    print(len(executor.submit(bytes, 10).result()))
"""


@LIMITED
def test_a_result_for_which_there_is_no_memory() -> None:
    done = ran("-c", NO_MEMORY)
    assert (done.stdout, done.stderr) == ("BrokenProcessPool MemoryError True\n10\n", "")


DAEMON = """
import os, sys
from multiprocessing import resource_tracker
from unirun import Run, RuntimeConfig

def used():
    with Run(flavor="processes", max_workers=1, config=RuntimeConfig(start_method=sys.argv[1])) as executor:
        return executor.submit(abs, -3).result(30)

if __name__ == "__main__":
    used()
    tracker = resource_tracker._resource_tracker._fd  # a later Python forgets it in a child
    if child := os.fork():
        os.waitpid(child, 0)
        sys.exit()
    os.setsid()
    os.closerange(0, 256)
    with open(sys.argv[2], "w") as file:
        while os.open(os.devnull, os.O_RDWR) < tracker - 1:
            pass  # what is opened next gets that number
        try:
            print(used(), file=file)
        except BaseException as error:
            print(repr(error), file=file)
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
def test_a_daemon_that_has_closed_all_files(method: str, tmp_path: Path) -> None:
    """And with them the pipe to multiprocessing's tracker, whose number then is another file's."""
    program, said = tmp_path / "program.py", tmp_path / "said"
    program.write_text(DAEMON)
    ran(str(program), method, str(said))
    assert said.read_text() == "3\n"


NO_ROOM = """
import resource, time
from pickle import PickleBuffer
from unirun import Run, RuntimeConfig

class Memory:
    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Memory, (PickleBuffer(self.data),)

def size(*values):
    return sum(len(value.data) for value in values)

if __name__ == "__main__":
    values = [Memory(bytearray(4 << 20)) for _ in range(60)]  # more than there are blocks for
    with Run(flavor="processes", max_workers=1, config=RuntimeConfig(start_method="fork")) as executor:
        executor.submit(abs, -1).result()
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
        futures = [executor.submit(time.sleep, 0.2), executor.submit(size, *values), executor.submit(abs, -3)]
        print([future.result(30) for future in futures])
"""


@LIMITED
def test_buffers_of_which_there_is_no_room_for_a_copy(tmp_path: Path) -> None:
    """They go through the pipe as they are."""
    program = tmp_path / "program.py"
    program.write_text(NO_ROOM)
    done = ran(str(program))
    assert (done.stdout, done.stderr) == (f"[None, {60 * (4 << 20)}, 3]\n", "")

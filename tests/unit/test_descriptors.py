"""A program that has used up its descriptors between opening a pool and its first task."""

import contextlib
import errno
import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.conformance.quiet import await_quiet
from tests.lower import lower
from unirun.backends.repairs import undo_start
from unirun.compat.concurrent.futures import ProcessPoolExecutor

ROOT = Path(__file__).parents[2]
PROGRAM = textwrap.dedent(
    """
    import os, resource, sys
    from unirun import Run
    from unirun.compat.concurrent.futures import ProcessPoolExecutor

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    pool = ProcessPoolExecutor(2) if sys.argv[1] == "drop-in" else Run(flavor="processes", max_workers=2).__enter__()
    kept = []
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    print(pool.submit(abs, -3).result(20), pool.decision.backend)
    for descriptor in kept:
        os.close(descriptor)
    pool.shutdown()
    """
)


@FORKING
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="other systems have other limits")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize(("which", "ladder"), [("drop-in", None), ("drop-in", "pipes,threads,inline"), ("scope", None)])
def test_threads_serve_when_no_descriptor_is_left(which: str, ladder: str | None, method: str) -> None:
    """What they are made of cannot be imported any more, and was before; a pool over pipes is refused.

    The stdlib's pool gives back those that it took. What interpreters are made of can be imported then.
    """
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, which],
        cwd=ROOT,
        env=os.environ | {"UNIRUN_START_METHOD": method} | ({"UNIRUN_LADDER": ladder} if ladder else {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    serves = lower(method) if (which, ladder) == ("drop-in", None) else "threads"
    assert run.stdout == f"3 {serves}\n", run.stderr


WRAPPED = textwrap.dedent(
    """
    import gc, os, sys
    from unirun import Run
    from unirun.compat.concurrent.futures import ProcessPoolExecutor

    def fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def use():
        pool = ProcessPoolExecutor(2) if sys.argv[1] == "drop-in" else Run(flavor="processes", max_workers=2)
        with pool as executor:
            print(executor.submit(abs, -3).result(20), executor.decision.backend)
        for _ in range(3):
            gc.collect()  # PyPy closes then what is held by nobody
        return len(os.listdir("/proc/self/fd"))

    os.fork = fork
    first = use()
    print(use() - first, "more")
    """
)


@FORKING
def test_an_error_that_is_raised_again_closes_nothing_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mock raises it: it has the frames of earlier starts too, whose numbers are other files' by then."""
    error = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def fork() -> int:
        raise error

    monkeypatch.setattr(os, "fork", fork)
    context: Any = multiprocessing.get_context("fork")
    files: list[int] = []
    for _ in range(3):
        with pytest.raises(BlockingIOError) as raised:
            context.Process(target=abs, args=(3,)).start()
        undo_start(raised.value)
        files += [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
        assert all(map(os.fstat, files))
    for each in files:
        os.close(each)


@FORKING
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists what a process has open")
@pytest.mark.parametrize("which", ["drop-in", "scope"])
def test_a_fork_that_is_refused_within_a_function_of_another_library(which: str) -> None:
    """As gevent's, which exchanges `os.fork`: what was opened for the fork is closed."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRAPPED, which],
        cwd=ROOT,
        env=os.environ | {"UNIRUN_START_METHOD": "fork"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout == "3 threads\n3 threads\n0 more\n", run.stderr


@FORKING
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists what a process has open")
@pytest.mark.skipif(
    sys.implementation.name == "pypy",
    reason="the stdlib's own pools keep their pipes at times on PyPy: 2 of 240 did",
)
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_pool_that_has_ended_holds_no_descriptor(method: str) -> None:
    """Also where nobody has waited for its end, and somebody holds it."""

    def ended() -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context(method))
        assert pool.submit(abs, -3).result(20) == 3
        pool.shutdown(wait=False)
        return pool

    def held() -> list[str]:
        gc.collect()
        names = []
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # it was that of the folder itself
                names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return sorted(names)

    before = set(threading.enumerate())
    kept = [ended()]  # and the fork server, and the resource tracker
    await_quiet(before)
    one = held()
    kept += [ended() for _ in range(5)]
    await_quiet(before)
    end = time.monotonic() + 10
    while len(held()) > len(one):
        assert time.monotonic() < end, str(Counter(held()) - Counter(one))
        time.sleep(0.05)


def ran(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


HELD = """
import multiprocessing, os, resource, sys, time
from multiprocessing import forkserver
from unirun import configure
from unirun.compat.concurrent.futures import ProcessPoolExecutor

def hold(gate):
    open(gate + ".held", "w").close()
    while not os.path.exists(gate):
        time.sleep(0.001)
    return "done"

if __name__ == "__main__":
    gate, room = sys.argv[1], int(sys.argv[2])
    configure(ladder=(sys.argv[3], "threads"))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as pool:
        first = pool.submit(hold, gate)
        while not os.path.exists(gate + ".held"):
            time.sleep(0.001)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, hard))
        second = pool.submit(abs, -3)
        while pool.decision.short is None:
            time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        open(gate, "w").close()
        print(first.result(20), second.result(20), "at start" in str(pool.decision.short))
        assert os.waitpid(forkserver._forkserver._forkserver_pid, os.WNOHANG) == (0, 0)
"""


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="there is no fork server here")
@pytest.mark.parametrize(("rung", "room"), [("processes", n) for n in range(6)] + [("pipes", n) for n in range(10)])
def test_a_second_worker_for_which_there_are_no_descriptors(rung: str, room: int, tmp_path: Path) -> None:
    """Costs neither the first one, nor the task that this runs, nor the fork server, however many there are."""
    program = tmp_path / "program.py"
    program.write_text(HELD)
    run = ran(program, str(tmp_path / "gate"), str(room), rung)
    assert (run.stdout, run.stderr) == ("done 3 True\n", "")


PASSING = """
import os, resource, threading
import unirun
from unirun import configure, leases
leases.RETRY_SECONDS = 0

def apart():
    return unirun.submit(os.getpid).result(20) != os.getpid()

if __name__ == "__main__":
    asked = {"force_process": True, "cpu_bound": True, "max_workers": 2, "isolation": "share", "downgrade": "silent"}
    for ladder in ("threads",), None:  # what is imported for them
        configure(ladder=ladder, **asked)
        assert apart() == (ladder is None)
    unirun.reset()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    gate = threading.Event()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    print(apart(), apart())
    held = unirun.submit(gate.wait, 20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(apart(), held.done())
    threading.Timer(0.1, gate.set).start()
    unirun.reset()
    print(held.done(), leases.cached())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no limits as on Unix here")
def test_a_cached_pool_that_came_down_in_a_bad_moment(tmp_path: Path) -> None:
    """Is tried anew after a while, also if it is in use; and `reset` waits for that use."""
    program = tmp_path / "program.py"
    program.write_text(PASSING)
    run = ran(program)
    assert (run.stdout, run.stderr) == ("False False\nTrue False\nTrue 0\n", "")


DENIED = """
import os, resource
import unirun
from unirun import DowngradeError, Run, configure, trace
from unirun.compat.concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    configure(ladder=("processes", "threads"), force_process=True, downgrade="error", max_workers=1)
    with ProcessPoolExecutor(1) as pool:
        pool.submit(int).result(20)
    unirun.submit(int).result(20)
    unirun.reset()
    heard = []
    trace.add_listener(heard.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    for ask in (lambda: ProcessPoolExecutor(1), Run(flavor="processes").__enter__, lambda: unirun.submit(int)):
        try:
            ask()
        except DowngradeError as error:
            heard.append(error.decision)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print([one == other for one, other in zip(heard[::2], heard[1::2])], {each.backend for each in heard})
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no limits as on Unix here")
def test_a_pool_that_could_not_be_constructed_is_told_of(tmp_path: Path) -> None:
    """Also where its constructor raises, as downgrades are errors: once for each that was asked for."""
    program = tmp_path / "program.py"
    program.write_text(DENIED)
    run = ran(program)
    assert (run.stdout, run.stderr) == ("[True, True, True] {None}\n", "")

"""Ctrl-C while a pool starts, at the moments that leave most behind: the program hears of it, and ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIPES = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no worker processes over pipes here")

BEGIN = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have had ignored
from unirun import Run, RuntimeConfig
from unirun.compat.concurrent import futures

def square(number):
    return number * number

def attempt(scope):
    try:
        with scope as executor:
            print(executor.submit(square, 2).result())
    except (KeyboardInterrupt, KeyError) as error:
        kept.append(error)  # as a program that ends by it keeps it, and with its traceback all that is half made
        print("interrupted", flush=True)

kept = []
"""

#: Then nobody can wait for a child.
IGNORED = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
#: What a handler raises need not be Ctrl-C.
DEADLINE = """
def late(signum, frame):
    raise KeyError("late")

signal.signal(signal.SIGINT, late)
"""
IN_A_FORK = """
import multiprocessing.popen_fork as popen_fork

class util:  # what `_launch` calls next after the fork, and after it has closed the worker's ends
    def __getattr__(self, name):
        return getattr(sys.modules["multiprocessing.util"], name)

    def Finalize(self, *arguments, **more):
        global starts
        starts += 1
        if starts == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGINT)  # the thread hears it: this one has it blocked
            while True:
                pass
        return sys.modules["multiprocessing.util"].Finalize(*arguments, **more)

if __name__ == "__main__":
    starts = 0
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    popen_fork.util = util()
    config = RuntimeConfig(start_method="fork", ladder=("pipes", "threads"))
    attempt(Run(flavor="processes", max_workers=2, config=config))
    try:
        print(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        print("no child")
"""

TWICE = """
from multiprocessing import connection
from unirun.backends.pipes import handle

if __name__ == "__main__":
    wait, kill, me = connection.wait, handle.Handle.kill, os.getpid()

    def first(*arguments, **more):
        if os.getpid() != me:
            return wait(*arguments, **more)
        connection.wait = wait
        signal.raise_signal(signal.SIGINT)

    def second(self):
        handle.Handle.kill = kill
        signal.raise_signal(signal.SIGINT)

    connection.wait, handle.Handle.kill = first, second
    attempt(Run(flavor="processes", max_workers=2, config=RuntimeConfig(start_method=sys.argv[1])))
"""

IN_A_THREAD = """
start = threading.Thread.start

def start_and_interrupt(self):
    start(self)
    if self.name.startswith("ThreadPoolExecutor"):
        threading.Thread.start = start
        signal.raise_signal(signal.SIGINT)

threading.Thread.start = start_and_interrupt
os.environ["UNIRUN_LADDER"], os.environ["UNIRUN_DOWNGRADE"] = "threads", "silent"
attempt(futures.ProcessPoolExecutor(2) if sys.argv[1] == "drop-in" else Run(flavor=sys.argv[1], max_workers=2))
"""


def run(tmp_path: Path, code: str, word: str) -> list[str]:
    """Return what a program prints; it comes to its end."""
    program = tmp_path / "program.py"
    program.write_text(BEGIN + code)
    done = subprocess.run(
        [sys.executable, str(program), word],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split("\n")


@PIPES
@pytest.mark.parametrize("worker", ["1", "2"])
@pytest.mark.parametrize("first", ["", IGNORED, DEADLINE])
def test_just_after_a_fork(first: str, worker: str, tmp_path: Path) -> None:
    """It is no refusal: nothing serves in the place of that pool. And the worker is known to nobody, but ended."""
    assert run(tmp_path, first + IN_A_FORK, worker) == ["interrupted", "no child", ""]


@PIPES
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_second_one_while_a_start_is_given_up(method: str, tmp_path: Path) -> None:
    """At its exit multiprocessing waits for workers, which wait for tasks."""
    assert run(tmp_path, TWICE, method) == ["interrupted", ""]


@pytest.mark.parametrize("which", ["drop-in", "processes", "threads"])
def test_while_a_thread_starts(which: str, tmp_path: Path) -> None:
    """Of which nobody knows yet, but for which the exit waits."""
    assert run(tmp_path, IN_A_THREAD, which) == ["interrupted", ""]

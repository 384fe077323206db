"""Each host refuses what it says and nothing else."""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hosts.catalog import HOSTS
from tests.hosts.fixtures import OnHost

ATTEMPTS = """
import _multiprocessing, errno, json, os, shutil, subprocess, threading
from multiprocessing.util import spawnv_passfds

true = shutil.which("true")

def ended(pid):
    assert os.waitpid(pid, 0)[1] == 0

def fork():
    ended(os.fork() or os._exit(0))

def system():
    if os.system("true"):
        raise RuntimeError

def thread():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()

attempts = {
    "semaphore": lambda: _multiprocessing.SemLock(1, 1, 1, f"/refuse-{os.getpid()}", True),
    "semaphore limit": lambda: os.sysconf("SC_SEM_NSEMS_MAX"),
    "other limit": lambda: os.sysconf("SC_PAGE_SIZE"),
    "pipe": lambda: [os.close(end) for end in os.pipe()],
    "first fork": fork,
    "second fork": fork,
    "subprocess": lambda: subprocess.run(["true"], check=True),
    "spawn": lambda: ended(spawnv_passfds(os.fsencode(true), [b"true"], [])),
    "system": system,
    "first thread": thread,
    "second thread": thread,
}
if hasattr(os, "posix_spawn"):
    attempts["posix_spawn"] = lambda: ended(os.posix_spawn(true, ["true"], {}))
answers = {}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError as error:
        answers[name] = errno.errorcode[error.errno]
    except RuntimeError as error:
        answers[name] = type(error).__name__
    else:
        answers[name] = "fine"
print(json.dumps(answers))
"""

NO_THIRD_PROCESS = {
    "subprocess": "EAGAIN",
    "spawn": "EAGAIN",
    "posix_spawn": "EAGAIN",
    "system": "RuntimeError",
}
NO_SECOND_PROCESS = {"second fork": "EAGAIN"} | NO_THIRD_PROCESS
NO_PROCESSES = {"first fork": "EAGAIN"} | NO_SECOND_PROCESS
NO_SECOND_THREAD = {"second thread": "RuntimeError"}
NO_THREADS = {"first thread": "RuntimeError"} | NO_SECOND_THREAD

REFUSED: dict[str, dict[str, str]] = {
    "healthy": {},
    "sem-enosys": {"semaphore": "ENOSYS"},
    "sem-enoent": {"semaphore": "ENOENT"},
    "sem-eacces": {"semaphore": "EACCES"},
    "sem-enospc": {"semaphore": "ENOSPC"},
    "shm-readonly": {"semaphore": "EROFS"},
    "sysconf-eperm": {"semaphore limit": "EPERM"},
    "fork-refused": NO_PROCESSES,
    "fork-refused-second": NO_SECOND_PROCESS,
    "fork-refused-third": NO_THIRD_PROCESS,
    "threads-refused": NO_THREADS,
    "threads-refused-second": NO_SECOND_THREAD,
    "nothing": {"semaphore": "ENOSYS"} | NO_PROCESSES | NO_THREADS,
    "nproc": NO_PROCESSES | NO_THREADS,
    "nproc-few": {},
}


def python(program: str) -> list[str]:
    """Return the command that runs a program with the interpreter under test."""
    return [sys.executable, "-c", program]


@pytest.mark.parametrize("name", HOSTS)
def test_refuses_what_it_says_and_nothing_else(on_host: OnHost, name: str) -> None:
    """Every service is tried on every host."""
    outcome = on_host(name, python(ATTEMPTS))
    assert outcome.returncode == 0, outcome.stderr
    answers = json.loads(outcome.stdout)
    assert answers == {service: REFUSED[name].get(service, "fine") for service in answers}
    assert outcome.left_behind == ()


@pytest.mark.parametrize("name", HOSTS)
def test_says_which_host_it_stands_for(name: str) -> None:
    """The description is one sentence."""
    assert HOSTS[name].description.endswith(".")
    assert ". " not in HOSTS[name].description


def test_a_forked_child_counts_on_from_its_parent(on_host: OnHost) -> None:
    """The parent's first fork is allowed; the child's own first is then the second."""
    program = "import os\nif os.fork() == 0: os.fork()\nelse: print(os.wait()[1])"
    outcome = on_host("fork-refused-second", python(program))
    assert outcome.stdout == "256\n"
    assert "BlockingIOError" in outcome.stderr


def test_an_executed_program_counts_from_zero(on_host: OnHost) -> None:
    """A worker that is spawned rather than forked has its own first fork."""
    again = "import os; os.fork() or os._exit(0); print(os.wait()[1])"
    argv = python(again)
    program = f"import os; os.fork() or os._exit(0); os.execv({argv[0]!r}, {argv!r})"
    outcome = on_host("fork-refused-second", python(program))
    assert outcome.stdout == "0\n", outcome.stderr


def test_the_machine_keeps_its_shared_memory(on_host: OnHost) -> None:
    """The read-only /dev/shm is seen by the program alone, also while it runs."""
    program = "import sys; print('LAST LINE', flush=True); sys.stdin.read(); import time; time.sleep(0.5)"
    mine = Path(f"/dev/shm/unirun-hosts-{os.getpid()}")
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(on_host, "shm-readonly", python(program))
        while not run.done():
            mine.touch(exist_ok=False)
            mine.unlink()
            time.sleep(0.01)
        assert run.result().returncode == 0


def test_the_unprivileged_user_writes_where_the_test_says(on_host: OnHost, tmp_path: Path) -> None:
    """What the user at the limit may not do is to start something, not to report it."""
    target = tmp_path / "report"
    program = f"import os, pathlib; pathlib.Path({str(target)!r}).write_text(str(os.geteuid()))"
    assert on_host("nproc", python(program)).returncode == 0
    assert target.read_text() != "0"


@pytest.mark.parametrize(
    "word", ["sem_opn=ENOSYS", "fork=EAGAIN@0", "fork=EAGAIN@", "fork=EAGAIN!", "fork=EWHAT", "fork"]
)
def test_the_shim_refuses_what_it_cannot_read(on_host: OnHost, word: str) -> None:
    """A typing error must not make a healthy host."""
    argv = ["env", f"REFUSE=sem_open=ENOSYS {word}", *python("pass")]
    outcome = on_host("sem-enosys", argv)
    assert outcome.returncode == 127
    assert word in outcome.stderr

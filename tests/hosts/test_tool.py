"""The shim is built wherever it can be; the runner sees how a program ends and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hosts import runner, shim
from tests.hosts.catalog import HOSTS
from tests.hosts.fixtures import OnHost

ROOT = Path(__file__).parents[2]


def python(program: str) -> list[str]:
    """Return the command that runs a program with the interpreter under test."""
    return [sys.executable, "-c", program]


def test_many_processes_may_build_the_shim_at_once(on_host: OnHost, tmp_path: Path) -> None:
    """As pytest-xdist workers do; one file comes of it."""
    on_host("sem-enosys", ["true"])
    program = "from tests.hosts.shim import build_shim; print(build_shim())"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    argv = python(program)
    builds = [subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    paths = {build.communicate()[0].strip() for build in builds}
    assert [build.returncode for build in builds] == [0] * 4
    assert list(tmp_path.glob("*/*")) == [Path(paths.pop())]
    assert not paths


def test_without_a_compiler_the_host_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason is what a skipped test shows."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(shim.CannotBuildError, match="no C compiler"):
        shim.build_shim()
    reason = subprocess.run(
        [sys.executable, "-m", "tests.hosts", "sem-enosys", "--", sys.executable],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (reason.returncode, "no C compiler" in reason.stderr) == (2, True)


ORPHAN = """
import os, subprocess, sys
if os.fork() == 0:
    orphan = subprocess.Popen(["sleep", sys.argv[1]], env={}, start_new_session=True)
    print(orphan.pid, flush=True)
    os._exit(0)
os.wait()
"""


SLEEPER = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()}\\n")
time.sleep(64)
"""


def test_finds_and_kills_an_orphan(on_host: OnHost) -> None:
    """Neither a session of its own nor an empty environment hides it."""
    outcome = on_host("healthy", [*python(ORPHAN), "61"])
    assert outcome.returncode == 0
    assert outcome.left_behind == ("sleep 61",)
    assert outcome.seconds < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(outcome.stdout), 0)


def test_an_orphan_that_ends_soon_is_not_left_behind(on_host: OnHost) -> None:
    """As a resource tracker, which ends when it sees that its program has ended."""
    assert on_host("healthy", [*python(ORPHAN), "0.2"]).left_behind == ()


def test_a_run_that_takes_too_long_fails_with_what_it_printed(on_host: OnHost) -> None:
    """Nothing of it stays alive."""
    program = f"{ORPHAN}\nprint('printed before', flush=True)\nimport time; time.sleep(62)"
    with pytest.raises(pytest.fail.Exception, match="printed before") as failure:
        on_host("healthy", [*python(program), "63"], timeout=2)
    message = str(failure.value)
    assert "sleep 63" in message
    orphan = next(int(line) for line in message.splitlines() if line.isdecimal())
    with pytest.raises(ProcessLookupError):
        os.kill(orphan, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_runner_ends_the_command_first(tmp_path: Path, number: signal.Signals) -> None:
    """As on a Ctrl-C, or when pytest-timeout ends the test."""
    pid = tmp_path / "pid"
    command = [*python(SLEEPER), str(pid)]
    request = {"argv": command, "env": dict(os.environ), "cwd": None, "stdin": None, "timeout": 60}
    argv = [sys.executable, runner.__file__]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None
        with process.stdin as stdin:
            json.dump(request, stdin)
        while not pid.exists() or not pid.read_text().endswith("\n"):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_measures_how_long_the_exit_takes(on_host: OnHost) -> None:
    """From the last line to the end, whatever follows that line on stdout."""
    program = "import time; print('first\\nLAST LINE of it', flush=True); time.sleep(1); print('more')"
    exit_seconds = on_host("healthy", python(program)).exit_seconds
    assert exit_seconds is not None
    # The runner reads the line late on a busy machine, hence the wide bounds.
    assert 0.5 < exit_seconds < 10
    assert on_host("healthy", python("print('no LAST LINE')")).exit_seconds is None


def test_passes_on_input_folder_environment_and_status(on_host: OnHost, tmp_path: Path) -> None:
    """The program reads its input through a pipe, more than fits into one, and dies of its own signal."""
    program = (
        "import os, sys; print('x' * 200_000); text = sys.stdin.read()\n"
        "print(len(text), os.getcwd(), os.environ['WORD'], flush=True); os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "WORD": "given"}
    outcome = on_host("sem-enosys", python(program), stdin="é" * 100_000, env=env, cwd=tmp_path)
    assert outcome.stdout.splitlines()[1] == f"100000 {tmp_path} given"
    assert outcome.returncode == -signal.SIGKILL
    assert on_host("healthy", python("import sys; print(repr(sys.stdin.read()))")).stdout == "''\n"


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line of the tool."""
    argv = [sys.executable, "-m", "tests.hosts", *arguments]
    return subprocess.run(argv, cwd=ROOT, input="input", capture_output=True, text=True, check=False)


def test_command_line_runs_a_command_as_if_it_were_not_there() -> None:
    """Same stdin, stdout and stderr, and the command's status."""
    done = tool("healthy", "--", "sh", "-c", "cat; echo problem >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "input", "problem\n")
    assert tool("healthy", "--", "no-such-command").returncode == 127


def test_command_line_lists_the_hosts() -> None:
    """Each with its description, and whether it can be made here."""
    done = tool()
    assert done.returncode == 0
    for host in HOSTS.values():
        assert host.name in done.stdout
        assert host.description in done.stdout


def test_command_line_names_the_hosts_that_there_are() -> None:
    """The answer to a bad name; a line without a command gets the usage."""
    done = tool("healty", "--", "true")
    assert done.returncode == 2
    assert "'healty'" in done.stderr
    assert all(name in done.stderr for name in HOSTS)
    assert "NAME -- COMMAND" in tool("healthy", "--").stderr

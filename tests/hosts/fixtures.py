"""The fixture `on_host`: a test asks for a program to be run on a host, and gets what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pytest

from tests.hosts import runner
from tests.hosts.catalog import find

#: Seconds beyond the timeout of a run before its runner, which ends runs by itself, counts as stuck.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        returncode: the exit status, or minus the signal.
        stdout: what the program and all its processes wrote there.
        stderr: likewise.
        seconds: from the start of the command to its end.
        exit_seconds: from the moment at which a line that begins with LAST LINE came out on stdout (the
            first, if there are several) to the end; None without one. stdout is a pipe, so print that line
            with flush=True.
        left_behind: the command lines of the processes that were still alive a second after the end; they
            were killed.
    """

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    exit_seconds: float | None
    left_behind: tuple[str, ...]


class OnHost(Protocol):
    """The type of the fixture `on_host`."""

    def __call__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Outcome:
        """Run a command on a host of the catalog.

        Args:
            name: of the host, as in tests.hosts.catalog.
            argv: the command.
            timeout: seconds; a longer run is killed with all its processes and fails the test.
            stdin: the text that the program can read there, through a pipe; None for /dev/null.
            env: the whole environment, to which the host adds its own; None for that of the tests.
            cwd: where the command starts; None for the folder of the tests.
        """


def _on_host(
    name: str,
    argv: Sequence[str],
    *,
    timeout: float = 60,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Outcome:
    host = find(name)
    reason = host.unavailable()
    if reason is not None:
        pytest.skip(f"host {name!r} cannot be made here: {reason}")
    request: runner.Request = {
        "argv": host.command(argv),
        "env": host.environment(os.environ if env is None else env),
        "cwd": None if cwd is None else os.fspath(cwd),
        "stdin": stdin,
        "timeout": timeout,
    }
    answer = _ask(request)
    if "unavailable" in answer:
        pytest.skip(answer["unavailable"])
    if answer["timed_out"]:
        alive = "\n".join(answer["left_behind"])
        printed = f"stdout so far:\n{answer['stdout']}\nstderr so far:\n{answer['stderr']}"
        pytest.fail(f"still running on host {name!r} after {timeout} s; killed:\n{alive}\n{printed}")
    return Outcome(
        returncode=answer["returncode"],
        stdout=answer["stdout"],
        stderr=answer["stderr"],
        seconds=answer["seconds"],
        exit_seconds=answer["exit_seconds"],
        left_behind=tuple(answer["left_behind"]),
    )


def _ask(request: runner.Request) -> runner.Answer:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", runner.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(json.dumps(request), timeout=request["timeout"] + PATIENCE)
        except BaseException:
            # A Ctrl-C or a test's own timeout. Not kill(): the runner has to end the command first.
            process.terminate()
            raise
    if process.returncode:
        pytest.fail(f"the runner could not run {request['argv']}:\n{stderr}")
    answer: runner.Answer = json.loads(stdout)
    return answer


@pytest.fixture
def on_host() -> OnHost:
    """Return the callable that runs a command on a host; it skips the test where that host cannot be made."""
    return _on_host

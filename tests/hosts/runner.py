"""Runs one command and finds every process it leaves behind; a program of its own, as it must adopt them.

Guarantees: when it ends, be it by itself, by SIGTERM, by Ctrl-C or as its parent dies, no process of the
command is alive.

Does not promise to see processes below another child subreaper; no host of the catalog is one.

It reads a Request as JSON on stdin and writes an Answer as JSON on stdout. It is started with -I -S, so it
may import the standard library only.
"""

# Why a child subreaper: an orphaned process becomes a child of its nearest living subreaper the moment its
# parent ends, whatever it did to its environment, session, process group or user; and that there is none left
# is an exact answer of waitpid (ECHILD). A variable looked up in /proc/*/environ misses programs started with
# an environment of their own, and cannot be read for another user. The test process itself must not be the
# subreaper: pytest and its plugins do not expect children that they never started.

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Final, NotRequired, TypedDict

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36

#: Seconds that processes have to follow the command into its end; a resource tracker needs some milliseconds.
GRACE: Final = 1.0
#: Seconds between looks at whether the command has ended, hence also the precision of the times measured.
TICK: Final = 0.005

LAST_LINE: Final = re.compile(rb"^LAST LINE", re.MULTILINE)


class Request(TypedDict):
    """What to run; `stdin` is None for an empty one."""

    argv: list[str]
    env: dict[str, str]
    cwd: str | None
    stdin: str | None
    timeout: float


class Answer(TypedDict):
    """What came of it; only `unavailable` is there when this machine has no child subreapers."""

    unavailable: NotRequired[str]
    timed_out: bool
    returncode: int
    stdout: str
    stderr: str
    seconds: float
    exit_seconds: float | None
    left_behind: list[str]


class Watch:
    """One run of a command: its output, its status and its descendants."""

    def __init__(self, request: Request) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.last_line: float | None = None
        self.status: int | None = None
        self.left: dict[int, str] = {}
        self.selector = selectors.DefaultSelector()
        self.started = self.ended = time.monotonic()
        self.deadline = self.started + request["timeout"]
        # A handler of Python's, as the command would inherit an ignored signal, but not this one.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        self.process = subprocess.Popen(
            request["argv"],
            env=request["env"],
            cwd=request["cwd"],
            stdin=subprocess.DEVNULL if request["stdin"] is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A Ctrl-C in the terminal is for pytest and for this program, which then ends the command.
            start_new_session=True,
        )
        self.selector.register(_present(self.process.stdout), selectors.EVENT_READ, self.stdout)
        self.selector.register(_present(self.process.stderr), selectors.EVENT_READ, self.stderr)
        if request["stdin"] is not None:
            # A thread, because a program may write much before it reads anything.
            threading.Thread(target=self._feed, args=(request["stdin"],), daemon=True).start()

    def _stop(self, *_: object) -> None:
        self.deadline = 0.0

    def _feed(self, text: str) -> None:
        with contextlib.suppress(OSError), _present(self.process.stdin) as stdin:
            stdin.write(text.encode("utf-8", "surrogateescape"))

    def read(self) -> None:
        """Take in what has been written, waiting for it up to TICK."""
        for key, _ in self.selector.select(TICK):
            data = os.read(key.fd, 1 << 16)
            if not data:
                self.selector.unregister(key.fileobj)
            key.data.extend(data)
            if self.last_line is None and key.data is self.stdout and LAST_LINE.search(self.stdout):
                self.last_line = time.monotonic()

    def reap(self) -> bool:
        """Take the status of all that have ended; return whether any descendant is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.process.pid:
                self.ended = time.monotonic()
                # Popen must be told: the status is gone, and it would wait for it.
                self.status = self.process.returncode = os.waitstatus_to_exitcode(status)

    def wait(self) -> None:
        """Wait for the command, then GRACE for all that it started."""
        while self.reap() and self.status is None and time.monotonic() < self.deadline:
            self.read()
        while self.status is not None and self.reap() and time.monotonic() - self.ended < GRACE:
            self.read()

    def end(self) -> None:
        """Kill whatever is left, noting its command line, and take in the last of the output."""
        while self.reap():
            for pid, line in _descendants().items():
                self.left.setdefault(pid, line)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.read()
        limit = time.monotonic() + GRACE
        while self.selector.get_map() and time.monotonic() < limit:
            self.read()


def _present(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _descendants() -> dict[int, str]:
    """Return pid and command line of the living descendants of this process that one look can show."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", errors="replace") as file:
            name, _, rest = file.read().rpartition(")")
            state, parent = rest.split()[:2]
            parents[int(entry)] = int(parent)
            if state not in "ZX":
                names[int(entry)] = name.partition("(")[2]
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: _command_line(pid) or f"[{names[pid]}]" for pid in found & names.keys() - {os.getpid()}}


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", errors="backslashreplace") as file:
        return file.read().replace("\0", " ").strip()
    return ""


def _adopt() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_CHILD_SUBREAPER, 1), (PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    _descendants()


def _run(request: Request) -> Answer:
    watch = Watch(request)
    watch.wait()
    timed_out = watch.status is None
    watch.end()
    last_line = watch.last_line
    return {
        "timed_out": timed_out,
        "returncode": 0 if watch.status is None else watch.status,
        "stdout": watch.stdout.decode("utf-8", "backslashreplace"),
        "stderr": watch.stderr.decode("utf-8", "backslashreplace"),
        "seconds": watch.ended - watch.started,
        "exit_seconds": None if last_line is None or timed_out else max(0.0, watch.ended - last_line),
        "left_behind": list(watch.left.values()),
    }


def main() -> None:
    """Answer the one request."""
    request: Request = json.load(sys.stdin)
    try:
        _adopt()
    except (OSError, ImportError, AttributeError) as error:
        json.dump({"unavailable": f"no child subreaper (prctl, /proc) on this machine: {error}"}, sys.stdout)
    else:
        json.dump(_run(request), sys.stdout)


if __name__ == "__main__":
    main()

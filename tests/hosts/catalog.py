"""The hosts by name: what each refuses, how it is made, and whether it can be made here."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.hosts.shim import CannotBuildError, build_shim


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host that refuses something, made out of this machine.

    Attributes:
        name: what tests call it.
        description: one sentence on the real host that it stands for.
        refuse: what the shim is told to refuse (shim.c has the grammar); empty to preload nothing.
        wrap: puts the programs before a command that make the kernel refuse.
        proof: a Python program that succeeds only where the kernel refuses; every `wrap` needs one.
    """

    name: str
    description: str
    refuse: str = ""
    wrap: Callable[[Sequence[str]], list[str]] = list
    proof: str = ""

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` on this host."""
        return self.wrap(argv)

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return `env` with what this host adds to it.

        Raises:
            CannotBuildError: the host needs the shim, which cannot be compiled here.
        """
        return self._preloading(env, self.refuse) if self.refuse else dict(env)

    def unavailable(self) -> str | None:
        """Return why this host cannot be made here, or None when it can; tried once per process."""
        return _why_unavailable(self)

    def _preloading(self, env: Mapping[str, str], refuse: str) -> dict[str, str]:
        libraries = [str(build_shim()), *filter(None, [env.get("LD_PRELOAD")])]
        return {**env, "LD_PRELOAD": ":".join(libraries), "REFUSE": refuse}


@functools.cache
def _why_unavailable(host: Host) -> str | None:
    if not hasattr(os, "fork"):
        return "no os.fork: the hosts are made with the means of a Unix"
    if not host.refuse and not host.proof:
        return None
    command = host.command([sys.executable, "-I", "-S", "-c", host.proof])
    try:
        # The shim ends a program whose REFUSE it cannot read. That it does so shows that this interpreter
        # loads it, and leaves what it refuses to the tests, which fail where a probe would only skip.
        env = host._preloading(os.environ, "?") if host.refuse else dict(os.environ)
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, CannotBuildError, subprocess.TimeoutExpired) as error:
        return str(error)
    if host.refuse:
        loaded = done.returncode == 127 and done.stderr.startswith("REFUSE:")
        return None if loaded else f"LD_PRELOAD has no effect on {sys.executable}"
    if done.returncode == 0:
        return None
    return f"{command[0]}: exit status {done.returncode}: {done.stderr.strip()}"


def _with_readonly_shm(argv: Sequence[str]) -> list[str]:
    # Whoever is not root needs a user namespace to be allowed a mount namespace.
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = 'mount -t tmpfs -o ro refused /dev/shm && exec "$@"'
    return ["unshare", "--mount", *user, "--propagation", "private", "sh", "-c", script, "sh", *argv]


def _with_processes(count: int, argv: Sequence[str]) -> list[str]:
    if os.geteuid() != 0:
        return ["prlimit", f"--nproc={count}", *argv]
    # The limit counts every process of the user and spares root, so each run needs a user of its own: the pid
    # gives one, as it stays that of the program. That user keeps one right, to read and write everywhere, for
    # interpreters and test folders often lie below a folder of root's.
    rights = "-all,+dac_override"
    user = "$((10000 + $$ % 50000))"
    become = f"setpriv --reuid={user} --regid={user} --clear-groups"
    keep = f"--inh-caps={rights} --ambient-caps={rights} --bounding-set={rights}"
    return ["sh", "-c", f'exec prlimit --nproc={count} {become} {keep} -- "$@"', "sh", *argv]


_PROOF_OF_READONLY_SHM: Final = """
import errno, os
try:
    os.open(f"/dev/shm/refused-{os.getpid()}", os.O_CREAT | os.O_EXCL)
except OSError as error:
    raise SystemExit(0 if error.errno == errno.EROFS else error)
raise SystemExit("/dev/shm can still be written to")
"""

_PROOF_OF_ONE_PROCESS: Final = """
import os
try:
    child = os.fork()
except BlockingIOError:
    raise SystemExit
if child:
    os.waitpid(child, 0)
    raise SystemExit("the limit on processes is not enforced")
"""

_PROOF_OF_FOUR_PROCESSES: Final = """
import os, signal
children = []
try:
    try:
        for _ in range(4):
            children.append(os.fork() or signal.pause())
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
except BlockingIOError:
    raise SystemExit(len(children) != 3)
raise SystemExit("the limit on processes is not enforced")
"""

HOSTS: Final[Mapping[str, Host]] = {
    host.name: host
    for host in (
        Host(name="healthy", description="A laptop or server that refuses nothing: the control."),
        Host(
            name="sem-enosys",
            description="AWS Lambda and SGX enclaves: the system has no named semaphores.",
            refuse="sem_open=ENOSYS",
        ),
        Host(
            name="sem-enoent",
            description="A container or chroot without /dev/shm.",
            refuse="sem_open=ENOENT",
        ),
        Host(
            name="sem-eacces",
            description="A snap or a sandbox that denies access to /dev/shm.",
            refuse="sem_open=EACCES",
        ),
        Host(
            name="sem-enospc",
            description="A machine on which other programs have used up the semaphores or filled /dev/shm.",
            refuse="sem_open=ENOSPC",
        ),
        Host(
            name="shm-readonly",
            description="A container whose file systems are all mounted read-only, /dev/shm included.",
            wrap=_with_readonly_shm,
            proof=_PROOF_OF_READONLY_SHM,
        ),
        Host(
            name="sysconf-eperm",
            description="A macOS sandbox that denies asking for the semaphore limit, not the semaphores.",
            refuse="sysconf_sem=EPERM",
        ),
        Host(
            name="fork-refused",
            description="A container at its pids.max before the program could start anything.",
            refuse="fork=EAGAIN",
        ),
        Host(
            name="fork-refused-second",
            description="A container near its pids.max: a pool starts in part, one process per program.",
            refuse="fork=EAGAIN@2",
        ),
        Host(
            name="fork-refused-third",
            description="The same with room for two, so that spawn and forkserver get to their first worker.",
            refuse="fork=EAGAIN@3",
        ),
        Host(
            name="threads-refused",
            description="An old Docker under a newer C library: processes start, threads do not.",
            refuse="pthread_create=EAGAIN",
        ),
        Host(
            name="threads-refused-second",
            description="A container near its pids.max: each program gets one thread and no more.",
            refuse="pthread_create=EAGAIN@2",
        ),
        Host(
            name="nothing",
            description="Pyodide and the strictest sandboxes: no semaphores, no processes and no threads.",
            refuse="sem_open=ENOSYS fork=EAGAIN pthread_create=EAGAIN",
        ),
        Host(
            name="nproc",
            description="A user at the limit (ulimit -u): the kernel refuses processes and threads alike.",
            wrap=partial(_with_processes, 1),
            proof=_PROOF_OF_ONE_PROCESS,
        ),
        Host(
            name="nproc-few",
            description="A container with a small pids.max: a program gets three processes and threads beside its own.",
            wrap=partial(_with_processes, 4),
            proof=_PROOF_OF_FOUR_PROCESSES,
        ),
    )
}


def find(name: str) -> Host:
    """Return the host of that name.

    Raises:
        LookupError: there is no such host; the message lists those that there are.
    """
    try:
        return HOSTS[name]
    except KeyError:
        raise LookupError(f"no host {name!r}; there are: {', '.join(HOSTS)}") from None

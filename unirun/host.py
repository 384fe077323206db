"""Host facts: what this interpreter and machine can do, as one value that decisions may use.

Guarantees:
    A probe starts no process and no thread and leaves nothing behind. What cannot change while the interpreter lives
    is probed once and kept until ``forget``; what can change is read anew for each decision, the cgroup's quota once a
    second at most.

Does not promise:
    That a pool starts. Whether ``fork`` is refused shows only when something is forked.
"""

from __future__ import annotations

import _thread
import importlib
import os
import sys

from unirun import clock, semaphore
from unirun.refusal import failure, lasting
from unirun.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from unirun.refusal import Failure

__all__ = ["Host", "forget", "in_subinterpreter", "probe", "remember"]


class Host(Value):
    """The facts of this interpreter and machine.

    Attributes:
        implementation: ``"cpython"``, ``"pypy"`` …
        version: The Python version, such as ``"3.13.0"``.
        platform: ``sys.platform``.
        gil: Whether a global interpreter lock is on.
        usable_cpus: CPUs that this process may really use: the smaller of its affinity and its cgroup quota,
            rounded up. ``None`` where it was not looked for.
        start_methods: The start methods that this platform has, its default first.
        default_start_method: The one that a pool uses when nobody chooses.
        no_processes: Why no process pool can be constructed here, or ``None``.
        daemonic: This process may not have children: it is a daemonic ``multiprocessing`` process.
        bootstrapping: This process is a worker that is still importing its main module.
        subinterpreter: This is not the main interpreter.
        interpreters: This Python has sub-interpreters for programs, and multiprocessing, which prepares workers.
            ``False`` where it was not looked for.
        main: Whether workers that do not fork can find what ``__main__`` defines: ``"importable"``, ``"missing"`` (it
            names a file that does not exist, so such workers cannot even start) or ``"interactive"`` (it has no file,
            or is a package's, which workers do not import). ``"unready"``: it is a frozen program's, which was started
            to be a worker and has not become one. ``"importable"`` where it was not looked for.
        executable: Whether workers that do not fork can be started: the program that they run is there, or a fork
            server that runs needs it no more. ``True`` where it was not looked for.
    """

    implementation: str
    version: str
    platform: str
    gil: bool
    usable_cpus: int | None
    start_methods: tuple[str, ...]
    default_start_method: str | None
    no_processes: Failure | None
    daemonic: bool
    bootstrapping: bool
    subinterpreter: bool
    interpreters: bool
    main: str
    executable: bool


class _Kept:
    """What was found once, by the process that found it: a forked child looks for itself."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.quota: int | None = None
        #: When it was looked for; ``None``: not yet.
        self.looked: float | None = None
        #: The next two were found.
        self.processes = False
        self.start_methods: tuple[str, ...] = ()
        self.no_processes: Failure | None = None


_kept: _Kept | None = None


#: The system's own: a program's tests replace ``os.path.exists`` and ``os.stat``, perhaps while this module is loaded.
_stat: Any = sys.modules["nt" if "nt" in sys.modules else "posix"].stat


def probe(*, processes: bool = True, cpus: bool = True) -> Host:
    """Return the facts as of now.

    Nothing is looked for that the request does not need: a drop-in's constructor runs in programs whose tests replace
    ``open`` and count its calls.

    Args:
        processes: Whether worker processes are an option. Where they are not, what concerns only them is left out, and
            with it the import of multiprocessing, which takes longer than that of all of unirun.
        cpus: Whether the number of usable CPUs matters.
    """
    kept = _lasting_facts(processes)
    daemonic, bootstrapping, method = _process_state(processes)
    main = _main_module() if processes else "importable"
    return Host(
        implementation=sys.implementation.name,
        version=".".join(map(str, sys.version_info[:3])),
        platform=sys.platform,
        gil=getattr(sys, "_is_gil_enabled", lambda: True)(),
        usable_cpus=usable_cpus() if cpus else None,
        start_methods=kept.start_methods,
        default_start_method=method or (kept.start_methods[0] if kept.start_methods else None),
        no_processes=kept.no_processes,
        daemonic=daemonic,
        bootstrapping=bootstrapping or main == "unready",
        subinterpreter=processes and in_subinterpreter(),
        interpreters=bool(kept.start_methods) and sys.implementation.name == "cpython" and sys.version_info >= (3, 14),
        main=main,
        executable=not processes or _can_execute(),
    )


def remember(refused: Failure) -> None:
    """Keep a refusal of process pools that cannot change while the interpreter lives, until ``forget``."""
    _lasting_facts(True).no_processes = refused


def forget() -> None:
    """Forget what was probed and remembered; the next ``probe`` looks again."""
    global _kept
    _kept = None


def _lasting_facts(processes: bool) -> _Kept:
    # Without a lock: two threads may both probe, which costs a little and finds the same.
    global _kept
    kept = _kept
    if kept is None or kept.pid != os.getpid():
        _kept = kept = _Kept()
    if processes and not kept.processes:
        kept.start_methods, kept.no_processes = _start_methods(), _probe_semaphore()
        kept.processes = True
    return kept


def _start_methods() -> tuple[str, ...]:
    try:
        import multiprocessing
    except ImportError:
        return ()
    return tuple(multiprocessing.get_all_start_methods())


def _probe_semaphore() -> Failure | None:
    """Say why no semaphore can be made here, where that is for good.

    The stdlib's queues need three of them, and they are all that most refusing hosts refuse.
    """
    try:
        importlib.import_module("multiprocessing.synchronize")  # it says best what is missing
    except ImportError as error:
        return failure("processes", "import", error)
    refused = semaphore.refusal()
    return failure("processes", "construct", refused) if refused is not None and lasting(refused) else None


def _process_state(processes: bool) -> tuple[bool, bool, str | None]:
    """Return whether this process is daemonic, whether it is bootstrapping, and the start method already fixed."""
    if not processes and "multiprocessing.process" not in sys.modules:
        return False, False, None  # it was not started by multiprocessing, which would be there
    try:
        import multiprocessing
        from multiprocessing import process
    except ImportError:
        return False, False, None
    current = process.current_process()
    # The assertion that forbids children to daemonic processes is compiled away by -O.
    return (
        current.daemon and __debug__,
        getattr(current, "_inheriting", False),
        multiprocessing.get_start_method(allow_none=True),
    )


def _is_new_worker(argv: list[str]) -> bool:
    """Tell whether a frozen program was started to be a worker, or one of their helpers, and has not become one yet.

    It does in ``multiprocessing.freeze_support``, after which it has the arguments of its parent.
    """
    return "--multiprocessing-fork" in argv[1:2] or any("from multiprocessing." in each for each in argv[1:])


def in_subinterpreter() -> bool:
    """Tell whether this is not the main interpreter of its process."""
    if hasattr(_thread, "_is_main_interpreter"):  # from 3.12 on, and needs no import
        return not _thread._is_main_interpreter()
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]
    except ImportError:  # PyPy has none
        return False
    return bool(interpreters.get_current() != interpreters.get_main())


def _main_module() -> str:
    """Tell what `multiprocessing.spawn` will make of `__main__`, in the parent and in the worker."""
    main = sys.modules.get("__main__")
    if main is None:
        return "missing"
    if getattr(sys, "frozen", False):
        return "unready" if _is_new_worker(sys.argv) else "importable"  # a worker is the same program, and has it
    if hasattr(main, "__compiled__"):  # by Nuitka, which starts workers so that they have it
        return "importable"
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        # A package's __main__ runs its "main only" code unconditionally: workers leave it alone.
        return "interactive" if name == "__main__" or name.endswith(".__main__") else "importable"
    path = getattr(main, "__file__", None)
    if path is None:
        return "interactive"
    try:
        from multiprocessing.process import ORIGINAL_DIR  # type: ignore[attr-defined]
    except ImportError:
        ORIGINAL_DIR = None  # noqa: N806 - the stdlib's name
    return "importable" if _exists(os.path.join(ORIGINAL_DIR or "", path)) else "missing"


def _can_execute() -> bool:
    """Tell whether an interpreter can be started: one that is embedded in a program may not know its own file."""
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    if getattr(server, "_forkserver_pid", None) is not None:
        return True
    executable: str | bytes | None = sys.executable
    if sys.modules.get("multiprocessing.spawn") is not None:  # another one, after `multiprocessing.set_executable`
        from multiprocessing import spawn  # waits where another thread is importing it

        executable = spawn.get_executable()
    return executable is not None and _exists(executable)


def _exists(path: str | bytes) -> bool:
    try:
        _stat(path)
    except (OSError, ValueError):  # the latter where it cannot be a path
        return False
    return True


def usable_cpus() -> int:
    """Return how many CPUs this process may really use, at least 1.

    The affinity mask (``-X cpu_count`` included, where Python has it), or the cgroup's CPU quota, rounded up, if that
    is smaller. ``os.cpu_count`` counts the machine's cores, which in a container are somebody else's.
    """
    if hasattr(os, "process_cpu_count"):
        count = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    kept, now = _lasting_facts(False), clock.now()
    if kept.looked is None or now - kept.looked >= _QUOTA_SECONDS:
        kept.quota, kept.looked = cpu_quota(), now
    quota = kept.quota
    return max(1, min(count or 1, quota if quota is not None else count or 1))


#: Seconds for which the quota is not looked for again: to read its files takes some 0.1 ms.
_QUOTA_SECONDS: Final = 1.0
_CGROUP_ROOT: Final = "/sys/fs/cgroup"
_OWN_CGROUPS: Final = "/proc/self/cgroup"


def cpu_quota(root: str = _CGROUP_ROOT, own: str = _OWN_CGROUPS) -> int | None:
    """Return the CPUs that this process's cgroup grants, rounded up, or ``None`` where it sets no limit.

    Reads ``cpu.max`` (version 2) and ``cpu.cfs_quota_us`` with ``cpu.cfs_period_us`` (version 1) of the process's
    own group and of all groups above it; the smallest grant holds. See the kernel's documentation,
    ``admin-guide/cgroup-v2.rst`` and ``scheduler/sched-bwc.rst``.
    """
    try:
        with open(own, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    grants: list[int] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            tops = [root, os.path.join(root, "unified")]
        elif "cpu" in controllers.split(","):
            tops = [os.path.join(root, controllers), os.path.join(root, "cpu")]
        else:
            continue
        for top in tops:
            # In a container the path may name a group outside the mounted tree: its parents are then tried alone.
            parts = [part for part in group.split("/") if part not in ("", ".")]
            for depth in range(len(parts) + 1):
                grants += _grant(os.path.join(top, *parts[:depth]))
    return min(grants, default=None)


def _grant(folder: str) -> list[int]:
    """Return the grant that one cgroup folder states, in a list, or an empty one."""
    try:
        try:
            quota, period = _read(folder, "cpu.max").split()
        except FileNotFoundError:
            quota, period = _read(folder, "cpu.cfs_quota_us"), _read(folder, "cpu.cfs_period_us")
        if quota in ("max", "-1"):
            return []
        return [max(1, -(-int(quota) // int(period)))]
    except (OSError, ValueError, ZeroDivisionError):
        return []  # no such file at this level, or a kernel that writes something else


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), encoding="ascii") as file:
        return file.read().strip()

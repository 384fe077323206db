"""Deciding: from a request, the settings and the host facts to the rungs to try. The same three, the same plan.

No clock, environment, import or probing in here: everything that touches the host sits in the probe and the backends.
"""

from __future__ import annotations

import errno

from unirun.config import FLAVORS, OWN_LADDER, check_choice
from unirun.errors import ConfigError
from unirun.refusal import Failure
from unirun.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from unirun.config import RuntimeConfig
    from unirun.host import Host

__all__ = ["LADDERS", "Plan", "Request", "decide"]

#: The backends that may serve a flavor, best first. A drop-in hands out the very pool that the stdlib would have, as
#: long as that one starts; everybody else gets the better one. Who asks for processes is served by interpreters where
#: this Python has them: see ``_ladder``.
LADDERS: Final[dict[str, tuple[str, ...]]] = {
    "processes": ("pipes", "processes", "interpreters", "threads", "inline"),
    "interpreters": ("interpreters", "pipes", "processes", "threads", "inline"),
    "threads": ("threads", "inline"),
    "none": ("inline",),
}

#: What a ladder of the user's own may use for a flavor. Threads share memory and inline runs at the call; a request
#: for either would get other results from processes.
_MAY_SERVE: Final[dict[str, frozenset[str]]] = {
    "processes": frozenset({"processes", "pipes", "interpreters", "threads", "inline"}),
    "interpreters": frozenset({"processes", "pipes", "interpreters", "threads", "inline"}),
    "threads": frozenset({"threads", "inline"}),
    "none": frozenset({"inline"}),
}

#: A process pool there waits for all its workers in one call, which takes 64 handles; the stdlib refuses more than
#: this.
_MOST_ON_WINDOWS: Final = 61


class Request(Value):
    """What a caller asks for.

    Attributes:
        flavor: One of ``FLAVORS``.
        origin: Who asks, as the user wrote it: ``"Run"``, ``"to_process"``, ``"ProcessPoolExecutor"`` …
        dropin: The caller expects the stdlib's pool and its defaults.
        max_workers: The number of workers in the call, or ``None``.
        start_method: The start method that the call fixes (by a context), or ``None``.
        name: The user's name for it, or ``None``.
    """

    flavor: str
    origin: str
    dropin: bool = False
    max_workers: int | None = None
    start_method: str | None = None
    name: str | None = None


class Plan(Value):
    """What to try, in which order, and why.

    Attributes:
        flavor: What the request's flavor resolved to.
        ladder: The rungs that may serve it, best first.
        rungs: Those of them that the host facts do not exclude. May be empty for a ladder of the user's own.
        rejected: One ``Failure`` for each excluded rung.
        workers: The number of workers, or ``None`` for the stdlib's own default.
        start_method: The start method of worker processes, ``None`` where there are none.
        reason: Why this flavor and this ladder, in words.
    """

    flavor: str
    ladder: tuple[str, ...]
    rungs: tuple[str, ...]
    rejected: tuple[Failure, ...]
    workers: int | None
    start_method: str | None
    reason: str


def decide(request: Request, config: RuntimeConfig, host: Host) -> Plan:
    """Return the plan for a request.

    Args:
        request: What is asked for.
        config: The settings in force, as ``resolve`` returns them.
        host: The facts, as ``probe`` returns them.

    Raises:
        ConfigError: The flavor does not exist, or this platform does not have the start method asked for.
    """
    if request.flavor not in FLAVORS:
        check_choice("flavor", request.flavor, FLAVORS)
    flavor, reason = _flavor(request.flavor, config, host)
    method = request.start_method or config.start_method or host.default_start_method
    ladder = _ladder(flavor, method, request, config, host)
    if config.ladder is not None:
        own = tuple(rung for rung in config.ladder if rung in _MAY_SERVE[flavor])
        if own:
            ladder, reason = own, f"{reason}; {OWN_LADDER}"
        else:
            reason = f"{reason}; the user's own ladder has nothing that may serve it"
    if request.start_method is None and config.start_method and host.start_methods:
        check_choice("start_method", config.start_method, host.start_methods)
    rejected = tuple(why for rung in ladder if (why := _exclusion(rung, method, config, host)) is not None)
    excluded = {why.backend for why in rejected}
    workers = request.max_workers or config.max_workers
    if workers is None and not request.dropin:
        cpus = host.usable_cpus or 1  # it was looked for where it matters
        workers = min(cpus, _MOST_ON_WINDOWS) if host.platform == "win32" else cpus
    return Plan(
        flavor=flavor,
        ladder=ladder,
        rungs=tuple(rung for rung in ladder if rung not in excluded),
        rejected=rejected,
        workers=workers,
        start_method=method,
        reason=reason,
    )


def _flavor(asked: str, config: RuntimeConfig, host: Host) -> tuple[str, str]:
    """Resolve ``auto``: force flags, then hints and the GIL, else threads."""
    if asked != "auto":
        return asked, f"{asked} asked for"
    if (config.force_process and config.force_threads) or (config.cpu_bound and config.io_bound):
        raise ConfigError("config", config, "it contradicts itself")
    if config.force_process:
        return "processes", "auto: processes forced"
    if config.force_threads:
        return "threads", "auto: threads forced"
    if config.cpu_bound:
        if host.gil:
            return "processes", "auto: CPU-bound, and there is a GIL"
        return "threads", "auto: CPU-bound, and there is no GIL"
    if config.io_bound:
        return "threads", "auto: I/O-bound"
    return "threads", "auto: no hint"


def _ladder(flavor: str, method: str | None, request: Request, config: RuntimeConfig, host: Host) -> tuple[str, ...]:
    """Return the backends for a flavor. The stdlib's pool is first for a drop-in, unless something is asked of it that
    only the pool over pipes can do.
    """
    ladder = LADDERS[flavor]
    # Who asks for interpreters is told why there are none; who asks for processes is not to wonder. Forked workers have
    # the program's state, as threads do, and interpreters do not.
    if flavor == "processes" and (not host.interpreters or method == "fork" or config.isolation == "share"):
        ladder = tuple(rung for rung in ladder if rung != "interpreters")
    if not request.dropin or config.task_timeout is not None or config.on_crash is not None or config.worker_logs:
        return ladder
    swapped = {"pipes": "processes", "processes": "pipes"}
    return tuple(swapped.get(rung, rung) for rung in ladder)


def _exclusion(rung: str, method: str | None, config: RuntimeConfig, host: Host) -> Failure | None:
    """Return why the settings and the host facts exclude a rung, or ``None``."""
    if rung == "interpreters":
        return _no_interpreters(config, host)
    if rung not in ("processes", "pipes"):
        return None  # only a try can tell
    if rung == "pipes" and not host.start_methods:
        return Failure(
            backend=rung,
            stage="import",
            error="ModuleNotFoundError",
            errno=None,
            message="this Python has no multiprocessing",
        )
    if rung == "pipes" and host.platform in ("win32", "emscripten", "wasi"):
        return Failure(
            backend=rung,
            stage="import",
            error="ModuleNotFoundError",
            errno=None,
            message="this platform has no processes as on Unix",
        )
    if rung == "processes" and host.no_processes is not None:
        return host.no_processes
    if rung == "processes" and host.daemonic:
        return Failure(
            backend=rung,
            stage="start",
            error="AssertionError",
            errno=None,
            message="daemonic processes are not allowed to have children",
        )
    if host.subinterpreter and method == "fork":
        return Failure(
            backend=rung,
            stage="start",
            error="RuntimeError",
            errno=None,
            message="fork not supported for subinterpreters",
        )
    if host.main == "unready":
        return Failure(
            backend=rung,
            stage="bootstrap",
            error="RuntimeError",
            errno=None,
            message="this process was started to be a worker: call multiprocessing.freeze_support() first of all",
        )
    if not host.executable and method != "fork":
        return Failure(
            backend=rung,
            stage="start",
            error="FileNotFoundError",
            errno=errno.ENOENT,
            message=(
                f"a worker started by {method!r} runs sys.executable, which is no file here: "
                "name the interpreter's with multiprocessing.set_executable()"
            ),
        )
    if host.main == "missing" and method != "fork":
        return Failure(
            backend=rung,
            stage="bootstrap",
            error="FileNotFoundError",
            errno=errno.ENOENT,
            message=f"a worker started by {method!r} cannot import the main module: its file does not exist",
        )
    return None


def _no_interpreters(config: RuntimeConfig, host: Host) -> Failure | None:
    """Return what excludes interpreters, or ``None``."""
    refused = Failure(backend="interpreters", stage="bootstrap", error="RuntimeError", errno=None, message="")
    if not host.interpreters:
        message = "they come with CPython 3.14, and need multiprocessing to prepare workers"
        return refused.replace(stage="import", error="ModuleNotFoundError", message=message)
    if config.isolation == "share":
        message = "interpreters cannot share objects, as isolation='share' asks for"
        return refused.replace(stage="construct", error="NotImplementedError", message=message)
    if host.bootstrapping:
        return refused.replace(message="this is a worker that is still starting")
    if host.main == "missing":
        message = "an interpreter cannot import the main module: its file does not exist"
        return refused.replace(error="FileNotFoundError", errno=errno.ENOENT, message=message)
    return None

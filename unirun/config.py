"""Settings: RuntimeConfig, the environment variables that mean the same, and their precedence.

This is the only module that says what ``UNIRUN_*`` variables mean, and it reads them when a setting is needed, not at
import. The hook, which comes before it, reads its two switches by itself.
Precedence, highest first: an argument of the call, the ``RuntimeConfig`` given, the one set by ``configure``,
the environment, the default.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache

from unirun.caller import caller
from unirun.errors import ConfigError
from unirun.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final, Literal

    Flavor = Literal["auto", "processes", "threads", "interpreters", "none"]
    CompatMode = Literal["managed", "passthrough"]

__all__ = [
    "RuntimeConfig",
    "autopatch_enabled",
    "autopatch_exclude",
    "compat_mode",
    "configure",
    "resolve",
    "variables",
]

#: What a caller may ask for.
FLAVORS: Final = ("auto", "processes", "threads", "interpreters", "none")
#: What the ``reason`` of a decision says of a ladder that is set.
OWN_LADDER: Final = "the ladder is the user's own"
#: What a ladder is made of.
BACKENDS: Final = ("processes", "pipes", "interpreters", "threads", "inline")
_RUNGS: Final = "one or more of " + ", ".join(map(repr, BACKENDS)) + ", each once, best first"
START_METHODS: Final = ("fork", "spawn", "forkserver")

_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


class RuntimeConfig(Value):
    """How unirun chooses and runs a backend. Every field left at ``None`` falls to the next source.

    Args:
        cpu_bound: The work is CPU-bound. ``flavor="auto"`` then means processes where there is a GIL and threads where
            there is none. Environment: ``UNIRUN_CPU_BOUND``.
        io_bound: The work waits for I/O. ``flavor="auto"`` then means threads. Environment: ``UNIRUN_IO_BOUND``.
        force_process: ``flavor="auto"`` means processes. Environment: ``UNIRUN_FORCE_PROCESS``.
        force_threads: ``flavor="auto"`` means threads. Environment: ``UNIRUN_FORCE_THREADS``.
        max_workers: Workers of a pool that is not given a number. Default: the CPUs that this process may really use
            (affinity and cgroup quota) for ``Run``, the stdlib's own default for the compat classes. Environment:
            ``UNIRUN_MAX_WORKERS``.
        start_method: ``"fork"``, ``"spawn"`` or ``"forkserver"`` for worker processes. Default: the running Python's.
            Environment: ``UNIRUN_START_METHOD``.
        downgrade: What to do when a lower rung has to serve: ``"warn"`` (default), ``"silent"`` or ``"error"``.
            Environment: ``UNIRUN_DOWNGRADE``.
        ladder: Backends to try instead of the flavor's own, best first. Environment: ``UNIRUN_LADDER``, separated
            by commas.
        trace: Where each decision is written: ``"stderr"`` (one readable line) or the path of a file to which JSON
            lines are appended; kept as a string. Environment: ``UNIRUN_TRACE``.
        isolation: ``"copy"`` (default): where a request for processes ends in threads or inline, arguments and results
            are copied by pickling, as processes would. ``"share"``: they are passed as they are, and no interpreters
            serve, which cannot share.
        on_crash: What a task that ends its worker costs in the ``pipes`` backend. ``"replace"`` (default): itself; it
            fails with ``BrokenProcessPool``, and the worker is replaced. ``"raise"``: the pool, as in the stdlib.
        task_timeout: Seconds that a task may run in the ``pipes`` backend; its worker is then killed and replaced, and
            the task fails with ``TimeoutError``. Default: no limit.
        reuse: Whether ``Run`` may use the worker processes of an earlier scope, where nothing that new ones would see
            has changed. Default: with ``spawn`` and ``forkserver``; not with ``fork``, as a forked worker holds the
            program's globals as they were at its birth. Environment: ``UNIRUN_REUSE``.
        worker_logs: Log records of the ``pipes`` backend's workers are handled in this process, by its own handlers,
            from the lowest level on that is set here when the pool is opened. Default: workers log for themselves.

    Raises:
        ConfigError: A value is not one of those accepted, or two settings contradict each other.
    """

    cpu_bound: bool | None = None
    io_bound: bool | None = None
    force_process: bool | None = None
    force_threads: bool | None = None
    max_workers: int | None = None
    start_method: Literal["fork", "spawn", "forkserver"] | None = None
    downgrade: Literal["warn", "silent", "error"] | None = None
    ladder: tuple[str, ...] | None = None
    trace: str | None = None
    isolation: Literal["copy", "share"] | None = None
    on_crash: Literal["replace", "raise"] | None = None
    task_timeout: float | None = None
    worker_logs: bool | None = None
    reuse: bool | None = None

    def __post_init__(self) -> None:
        for name in ("cpu_bound", "io_bound", "force_process", "force_threads", "worker_logs", "reuse"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise ConfigError(name, value, "use True, False or None")
        check_pairs(self.force_process, self.force_threads, "force_process", "force_threads")
        check_pairs(self.cpu_bound, self.io_bound, "cpu_bound", "io_bound")
        if self.max_workers is not None:
            check_workers("max_workers", self.max_workers)
        check_choice("start_method", self.start_method, START_METHODS)
        check_choice("downgrade", self.downgrade, ("warn", "silent", "error"))
        check_choice("isolation", self.isolation, ("copy", "share"))
        check_choice("on_crash", self.on_crash, ("replace", "raise"))
        if self.task_timeout is not None:
            check_seconds("task_timeout", self.task_timeout)
        if self.ladder is not None:
            # A list is what people write; a frozen value holds a tuple.
            object.__setattr__(self, "ladder", check_ladder("ladder", self.ladder))
        if self.trace is not None:
            object.__setattr__(self, "trace", check_trace("trace", self.trace))


def check_pairs(first: bool | None, second: bool | None, first_name: str, second_name: str) -> None:
    """Raise ``ConfigError`` if two settings that exclude each other are both on."""
    if first and second:
        given, other = (os.environ.get(name, value) for name, value in ((first_name, first), (second_name, second)))
        raise ConfigError(first_name, given, f"it contradicts {second_name}={other!r}; set one of the two")


def check_choice(name: str, value: object, accepted: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` unless ``value`` is ``None`` or one of ``accepted``."""
    if value is not None and value not in accepted:
        raise ConfigError(name, value, "use " + ", ".join(map(repr, accepted)))


def check_workers(name: str, value: object) -> int:
    """Return ``value`` if it is a number of workers, else raise ``ConfigError``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(name, value, "use a whole number of workers, at least 1")
    return value


def check_seconds(name: str, value: object) -> None:
    """Raise ``ConfigError`` unless ``value`` is a number of seconds above 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:  # type: ignore[operator]
        raise ConfigError(name, value, "use a finite number of seconds above 0, or None for no limit")


def check_ladder(name: str, value: object) -> tuple[str, ...]:
    """Return ``value`` as a tuple of backend names, or raise ``ConfigError``."""
    if not isinstance(value, (tuple, list)) or not _is_ladder(value):
        raise ConfigError(name, value, f"use a tuple of {_RUNGS}")
    return tuple(value)


def _is_ladder(rungs: Sequence[object]) -> bool:
    return bool(rungs) and all(rung in BACKENDS and rungs.count(rung) == 1 for rung in rungs)


def check_trace(name: str, value: object) -> str:
    """Return ``value`` as a string if it says where decisions can be written, else raise ``ConfigError``.

    Somebody who sets a switch, or another stream, wants no file of that name.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or path.lower() in ("", "stdout", *_TRUE, *_FALSE):
        raise ConfigError(name, value, 'use "stderr" or the path of a file')
    return "stderr" if path.lower() == "stderr" else path


_DEFAULTS: Final = RuntimeConfig(
    cpu_bound=False,
    io_bound=False,
    force_process=False,
    force_threads=False,
    downgrade="warn",
    isolation="copy",
    worker_logs=False,
)
_configured = RuntimeConfig()


def configure(config: RuntimeConfig | None = None, /, **changes: Any) -> RuntimeConfig:
    """Set the configuration used by every later request that is not given one, in the whole process.

    Args:
        config: The new configuration. Without it and without ``changes`` the defaults come back.
        **changes: Fields of ``RuntimeConfig`` to set, on top of ``config``, or of nothing.

    Returns:
        The configuration that was in force before, so that it can be set again.

    Raises:
        ConfigError: A value is not accepted.
        TypeError: A field does not exist, or ``config`` is not a ``RuntimeConfig``.
    """
    global _configured
    if config is not None and not isinstance(config, RuntimeConfig):
        raise TypeError(f"configure() takes a RuntimeConfig, not {config!r}")
    before = _configured
    _configured = (config or RuntimeConfig()).replace(**changes)
    return before


def resolve(config: RuntimeConfig | None = None, *, max_workers: int | None = None) -> RuntimeConfig:
    """Return the settings in force now: arguments over ``config`` over ``configure`` over environment over default.

    Args:
        config: The configuration given with the request.
        max_workers: The number of workers given with the request.

    Raises:
        ConfigError: A value in the environment is not accepted; names the variable.
        TypeError: ``config`` is not a ``RuntimeConfig``.
    """
    if config is not None and not isinstance(config, RuntimeConfig):
        raise TypeError(f"config must be a RuntimeConfig, not {config!r}")
    return _merge(config or _NOTHING, _configured, tuple(variables().items()), max_workers)


@lru_cache(maxsize=64)
def _merge(
    config: RuntimeConfig, configured: RuntimeConfig, variables: tuple[tuple[str, str], ...], max_workers: int | None
) -> RuntimeConfig:
    """Merge the sources. Remembered, as each task of a cached pool asks; ``variables`` tells a changed environment."""
    sources = (config, configured, _environment(), _DEFAULTS)
    merged: dict[str, Any] = {}
    for source in reversed(sources):
        # Not those that a subclass has added: they mean something to the program only.
        merged.update(
            (name, value) for name in RuntimeConfig._annotations if (value := getattr(source, name)) is not None
        )
    for pair in (("force_process", "force_threads"), ("cpu_bound", "io_bound")):
        # The two are one setting: the first source that turns either on decides about both.
        decided = next((s for s in sources if any(getattr(s, name) for name in pair)), _DEFAULTS)
        for name in pair:
            merged[name] = bool(getattr(decided, name)) and merged[name]
    if max_workers is not None:
        merged["max_workers"] = max_workers
    return RuntimeConfig(**merged)


def compat_mode() -> CompatMode:
    """Return what the compat module hands out: ``UNIRUN_COMPAT_MODE``, by default ``"managed"``.

    Raises:
        ConfigError: The variable has another value.
    """
    text = os.environ.get("UNIRUN_COMPAT_MODE", "").strip()
    match text.lower():
        case "" | "managed":
            return "managed"
        case "passthrough":
            return "passthrough"
    raise ConfigError("UNIRUN_COMPAT_MODE", text, "use 'managed', 'passthrough'")


def autopatch_enabled() -> bool:
    """Return whether an installed hook may act: ``UNIRUN_AUTOPATCH``, by default true.

    Raises:
        ConfigError: The variable is not a truth value.
    """
    return _flag("UNIRUN_AUTOPATCH") is not False


def autopatch_exclude() -> tuple[str, ...]:
    """Return the modules whose pools are to stay the stdlib's: ``UNIRUN_AUTOPATCH_EXCLUDE``, separated by commas.

    Raises:
        ConfigError: The variable names something that cannot be a module.
    """
    text = os.environ.get("UNIRUN_AUTOPATCH_EXCLUDE", "").strip()
    modules = tuple(name.strip() for name in text.split(",") if name.strip())
    if not all(part.isidentifier() for name in modules for part in name.split(".")):
        accepted = 'use the names of modules or packages, separated by commas, such as "joblib,distributed"'
        raise ConfigError("UNIRUN_AUTOPATCH_EXCLUDE", text, accepted)
    return modules


_FIELD_OF: Final = {
    "UNIRUN_CPU_BOUND": "cpu_bound",
    "UNIRUN_IO_BOUND": "io_bound",
    "UNIRUN_FORCE_PROCESS": "force_process",
    "UNIRUN_FORCE_THREADS": "force_threads",
    "UNIRUN_MAX_WORKERS": "max_workers",
    "UNIRUN_START_METHOD": "start_method",
    "UNIRUN_DOWNGRADE": "downgrade",
    "UNIRUN_LADDER": "ladder",
    "UNIRUN_TRACE": "trace",
    "UNIRUN_REUSE": "reuse",
}
#: Read elsewhere in this module, or by the hook's companion distribution.
_OTHER: Final = ("UNIRUN_COMPAT_MODE", "UNIRUN_AUTOPATCH", "UNIRUN_AUTOPATCH_EXCLUDE")
_suggested: set[str] = set()


def variables() -> dict[str, str]:
    """Return the variables of unirun's that are set and not empty, as they are in the environment."""
    names = [name for name in os.environ if name.startswith("UNIRUN_")]
    for name in sorted(names):
        if name not in _suggested and (why := _unknown(name)) is not None:
            _suggested.add(name)
            if (site := caller()) is not None:
                site.warn(RuntimeWarning(why))
    known = (*_FIELD_OF, *_OTHER) if names else ()
    return {name: value for name in known if (value := os.environ.get(name, "")).strip()}


def unknown_variables() -> list[str]:
    """Return what is wrong with each ``UNIRUN_*`` variable that nothing reads, in words."""
    return [why for name in sorted(os.environ) if name.startswith("UNIRUN_") and (why := _unknown(name)) is not None]


def _environment() -> RuntimeConfig:
    """Return what the environment says. An empty variable counts as unset."""
    check_pairs(
        _flag("UNIRUN_FORCE_PROCESS"), _flag("UNIRUN_FORCE_THREADS"), "UNIRUN_FORCE_PROCESS", "UNIRUN_FORCE_THREADS"
    )
    check_pairs(_flag("UNIRUN_CPU_BOUND"), _flag("UNIRUN_IO_BOUND"), "UNIRUN_CPU_BOUND", "UNIRUN_IO_BOUND")
    found: dict[str, Any] = {}
    for variable, field in _FIELD_OF.items():
        text = os.environ.get(variable, "").strip()
        if not text:
            continue
        word = text.lower()
        if field == "max_workers":
            found[field] = check_workers(variable, int(text) if text.isdecimal() and len(text) < 20 else text)
        elif field == "ladder":
            rungs = tuple(rung for each in word.split(",") if (rung := each.strip()))
            if not _is_ladder(rungs):
                raise ConfigError(variable, text, f"use {_RUNGS}, separated by commas")
            found[field] = rungs
        elif field == "start_method":
            # One that the platform does not have is a bad value, too. All systems but Windows have all of them.
            check_choice(variable, word, ("spawn",) if sys.platform == "win32" else START_METHODS)
            found[field] = word
        elif field == "downgrade":
            check_choice(variable, word, ("warn", "silent", "error"))
            found[field] = word
        elif field == "trace":
            found[field] = check_trace(variable, text)
        else:
            found[field] = _flag(variable)
    return RuntimeConfig(**found)


_NOTHING: Final = RuntimeConfig()


def _flag(variable: str) -> bool | None:
    """Return a truth value from the environment, ``None`` where it is unset or empty."""
    text = os.environ.get(variable, "").strip().lower()
    if not text:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ConfigError(variable, os.environ[variable], "use 1 or 0 (or true/false, yes/no, on/off)")


def _unknown(name: str) -> str | None:
    """Say of a variable that nothing reads it: a typing mistake is silent otherwise. ``None`` for the others."""
    known = (*_FIELD_OF, *_OTHER)
    if name in known:
        return None
    import difflib  # only where there is something to say

    field = name.removeprefix("UNIRUN_").lower()
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    advice = ""
    if name.upper() in known:
        advice = f"; did you mean {name.upper()}?"
    elif field in _NOTHING.as_dict():
        advice = f"; {field} has none, set RuntimeConfig({field}=...) or configure({field}=...)"
    elif near:
        advice = f"; did you mean {near[0]}?"
    return f"the environment variable {name} means nothing to unirun{advice}"

"""What this host can do, as one value: its facts, the settings in force, what each flavor gets, and what really starts.

Guarantees:
    Each decision is the library's own: an ``Opening`` takes it, as for any program, and nothing here repeats its rules.
    Nothing is started unless asked. What gives no answer is given up after ``PATIENCE``, where signals can do that.

Does not promise:
    That another process decides the same: a worker of somebody's pool may be forbidden what this process may do.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from unirun import __version__, host, trace
from unirun import config as settings
from unirun.autopatch.control import Status, status
from unirun.config import FLAVORS, RuntimeConfig
from unirun.errors import ConfigError, DowngradeError
from unirun.host import Host
from unirun.ladder import Request
from unirun.managed import ManagedExecutor
from unirun.opening import Opening
from unirun.pools import open_pool
from unirun.trace import DecisionTrace
from unirun.values import Value

__all__ = ["COMPAT", "Report", "Try", "examine"]

#: The drop-ins, and the flavor that each of them asks for.
COMPAT: Final = {"ProcessPoolExecutor": "processes", "ThreadPoolExecutor": "threads"}
#: Seconds for one try. Arbitrary: a worker takes 0.1 s to spawn, and a few seconds on a machine that is overloaded.
PATIENCE: Final = 20.0
#: Seconds for what must not be interrupted. Arbitrary: an import or a start takes some 0.1 s.
_GRACE: Final = 10.0
#: The flavor that asks for a backend; every other one serves `processes`.
_FLAVOR_OF: Final = {"threads": "threads", "inline": "none", "interpreters": "interpreters"}
_HAS_START_METHODS: Final = ("processes", "pipes")
#: Bytes of a try's standard error that are kept: the end of a traceback says what happened.
_KEPT: Final = 4000


class Try(Value):
    """One pool that was really opened, and given two tasks.

    Attributes:
        subject: A backend with its start method, if it has any; or what was asked for, as in ``Report.decisions``.
        alone: The backend was alone on the ladder; else the request was served as a program's would be.
        decision: What was decided for it.
        own_process: Whether the task ran in another process; ``None`` if it gave no result.
        first: Seconds from the request to the first result, or ``None``.
        again: Seconds from the second ``submit`` to its result, or ``None``.
        error: What went wrong and is no refusal, in words, or ``None``.
        gave_up: There was no answer in time. What was left behind may hang at the interpreter's exit.
        stderr: The end of what was written to standard error meanwhile.
    """

    subject: str
    alone: bool
    decision: DecisionTrace
    own_process: bool | None
    first: float | None
    again: float | None
    error: str | None
    gave_up: bool
    stderr: str

    @property
    def worked(self) -> bool:
        """Whether both results came and the pool could be closed."""
        return self.again is not None and self.error is None


class Report(Value):
    """All that the doctor knows.

    Attributes:
        facts: The host facts.
        config: The settings in force, defaults included.
        variables: The environment variables that change one of them, as unirun understood them.
        notes: What is odd about the variables, in words.
        decisions: What each flavor gets, and each compat class unless that is the stdlib's own. Settled where it was
            tried and started, else the best guess.
        tries: What was started, in this order; empty when nothing was to be.
        hook: Whether existing code gets the managed pools in this interpreter, and through what.
    """

    facts: Host
    config: RuntimeConfig
    variables: dict[str, str]
    notes: tuple[str, ...]
    decisions: dict[str, DecisionTrace]
    tries: tuple[Try, ...]
    hook: Status

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that ``json`` can write."""
        return {
            "unirun": __version__,
            "facts": self.facts.as_dict(),
            "settings": {"variables": self.variables, "in_force": self.config.as_dict(), "notes": self.notes},
            "decisions": {subject: decision.as_dict() for subject, decision in self.decisions.items()},
            "hook": self.hook.as_dict(),
            "tries": [{**t.as_dict(), "worked": t.worked} for t in self.tries],
        }


def examine(*, start: bool) -> Report:
    """Return a report on this host.

    Args:
        start: Also open each backend, and each flavor, and run tasks there.

    Raises:
        ConfigError: A setting is not accepted.
        BootstrapError: This process is a worker that is still importing its main module.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unknown variables, once in a process; all of them are in the notes
        config, managed = settings.resolve(), settings.compat_mode() == "managed"
        settings.autopatch_enabled()  # a bad value is to be reported with the others
        settings.autopatch_exclude()
    facts, notes = host.probe(), tuple(settings.unknown_variables())
    requests = {flavor: Request(flavor=flavor, origin="Run") for flavor in FLAVORS}
    if managed:
        requests |= {name: Request(flavor=flavor, origin=name, dropin=True) for name, flavor in COMPAT.items()}
    tries: list[Try] = []
    if start:
        with _stderr_aside() as news:
            tries = [_try(*each, news, alone=True) for each in _each_backend(facts)]
            tries += [_try(subject, request, config, news) for subject, request in requests.items()]
        decisions = {each.subject: each.decision for each in tries if not each.alone}
    else:
        decisions = {subject: _foresee(request, config) for subject, request in requests.items()}
    return Report(
        facts=facts,
        config=config,
        variables=settings.variables(),
        notes=notes,
        decisions=decisions,
        tries=tuple(tries),
        hook=status(),
    )


def _foresee(request: Request, config: RuntimeConfig) -> DecisionTrace:
    try:
        return Opening(request, config, site=None, target=None).decision
    except DowngradeError as error:
        return error.decision


def _each_backend(facts: Host) -> Iterator[tuple[str, Request, RuntimeConfig]]:
    """Yield each way of running a task: its name, a request that it may serve, and settings that allow nothing else."""
    for backend in settings.BACKENDS:
        if backend == "interpreters" and not facts.interpreters:
            continue  # there is nothing to try
        request = Request(flavor=_FLAVOR_OF.get(backend, "processes"), origin="doctor")
        methods: tuple[Any, ...] = facts.start_methods if backend in _HAS_START_METHODS else ()
        for method in methods or (None,):
            only = RuntimeConfig(ladder=(backend,), start_method=method, downgrade="error")
            yield backend if method is None else f"{backend} by {method}", request, settings.resolve(only)


def _try(subject: str, request: Request, config: RuntimeConfig, news: Callable[[], str], *, alone: bool = False) -> Try:
    """Open a pool as the library does for any program, run two tasks in it, and say how that went."""
    host.forget()  # what an earlier try left there would keep this one from looking for itself
    pool: ManagedExecutor | None = None
    refused = pid = first = again = error = None
    gave_up = False
    before = _children()  # an interrupted pool may not know all that it started
    begin = time.perf_counter()
    try:
        with _deadline():
            pool = open_pool(Opening(request, config, site=None, target=None))
            pid = pool.submit(os.getpid).result()
            first = time.perf_counter() - begin
            pool.submit(os.getpid).result()
            again = time.perf_counter() - begin - first
            pool.shutdown()
    except ConfigError:
        raise
    except DowngradeError as refusal:
        refused = refusal.decision
    except _TimeUpError:
        gave_up, error = True, f"no answer within {PATIENCE:g} seconds"
    except Exception as failed:
        error = f"{type(failed).__name__}: {failed}"
    if error is not None:
        for worker in _children() - before:
            worker.kill()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
    # The decision of an Opening that could not even be made is the last one.
    decision = refused or (trace.last_decision() if pool is None else pool.decision)
    assert decision is not None
    own = None if pid is None else pid != os.getpid()
    return Try(
        subject=subject, alone=alone, decision=decision, own_process=own, first=first, again=again, error=error,
        gave_up=gave_up, stderr=news(),
    )  # fmt: skip


class _TimeUpError(BaseException):
    """A try took too long. No ``Exception``, or the library would take it for an error of the host."""


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise ``_TimeUpError`` in the block after ``PATIENCE``, by a signal: a host may refuse a watching thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    last = time.monotonic() + PATIENCE + _GRACE

    def stop(_: int, frame: FrameType | None) -> None:
        if _is_starting(frame) and time.monotonic() < last:
            return  # it is asked again
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise _TimeUpError

    before = signal.signal(signal.SIGALRM, stop)
    begin, (due, again) = time.monotonic(), (0.0, 0.0)  # of a program's own timer that runs
    try:
        # More than once: of a process that was stopped meanwhile another thread may get the signal, and wakes nobody.
        due, again = signal.setitimer(signal.ITIMER_REAL, PATIENCE, 0.05)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if due:
            signal.setitimer(signal.ITIMER_REAL, max(due - (time.monotonic() - begin), 1e-6), again)


def _is_starting(frame: FrameType | None) -> bool:
    """Tell whether a stack is in the middle of an import, or of a step of the stdlib's that starts workers.

    An exception there would leave half of a module, or workers that no pool knows of. Both are short; what may take for
    ever is the wait for a worker's word, for a result or for the pool's end.
    """
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module in ("importlib._bootstrap", "unirun.host", "unirun.backends.pipes.handle"):
            return True
        of_pool = module in ("concurrent.futures.process", "concurrent.futures.thread")
        if of_pool and frame.f_code.co_name != "shutdown":
            return True
        frame = frame.f_back
    return False


def _children() -> set[Any]:
    try:
        from multiprocessing import active_children
    except ImportError:  # a Python without it
        return set()
    return set(active_children())


@contextmanager
def _stderr_aside() -> Iterator[Callable[[], str]]:
    """Send standard error, that of workers too, to a file; yield a function that returns what is new in it."""
    try:
        file, kept = tempfile.TemporaryFile(buffering=0), os.dup(2)  # noqa: SIM115 - closed below
    except (AttributeError, OSError):  # WASI has no `dup`; no place to write, or no standard error
        yield str
        return
    seen = 0

    def news() -> str:
        nonlocal seen
        file.seek(seen)  # the writers share this position; reading to the end puts it back where they go on
        text = file.read()
        seen += len(text)
        return text[-_KEPT:].decode(errors="backslashreplace").strip()

    os.dup2(file.fileno(), 2)
    try:
        yield news
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        file.close()

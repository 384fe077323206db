"""Climbing down one pool's ladder: which rung is next, what each refusal means, and who is told.

Kept apart from the pools themselves, which are the stdlib's classes: an ``Opening`` holds no executor and no task.
"""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import BrokenExecutor

from unirun import config as settings
from unirun import host, trace
from unirun.caller import caller
from unirun.errors import BootstrapError, DowngradeError
from unirun.ladder import Request, decide
from unirun.refusal import failure, lasting
from unirun.trace import PROCESSES, DecisionTrace, DowngradeWarning
from unirun.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

    from unirun.caller import Site
    from unirun.config import RuntimeConfig
    from unirun.ladder import Plan
    from unirun.refusal import Failure, Refused
    from unirun.trace import Listener

__all__ = ["Opening", "PoolSpec", "dropin"]


class PoolSpec(Value):
    """What the stdlib's constructors take besides the number of workers; and whether workers may be used again."""

    mp_context: Any = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    max_tasks_per_child: int | None = None
    thread_name_prefix: str = ""
    more: dict[str, Any] | None = None
    reusable: bool = False

    def start_method(self) -> str | None:
        """Return the start method that the arguments fix, or ``None``."""
        if self.mp_context is not None:
            return str(self.mp_context.get_start_method(allow_none=False))
        return None if self.max_tasks_per_child is None else "spawn"  # the stdlib's choice


class Opening:
    """One pool's way down its ladder.

    Args:
        request: What is asked for.
        config: The settings in force.
        site: The user's own line, or ``None`` where there is none on the stack.
        target: Where the decision is written, as in ``RuntimeConfig.trace``.
        listener: A listener for this decision alone.

    Raises:
        DowngradeError: The host facts exclude the first rung, and downgrades are errors; or they exclude all.
        BootstrapError: They exclude the first rung, and this process is a worker that is still starting.
    """

    def __init__(
        self,
        request: Request,
        config: RuntimeConfig,
        *,
        site: Site | None,
        target: str | None,
        listener: Listener | None = None,
    ) -> None:
        facts = host.probe(
            processes=request.flavor not in ("threads", "none"),
            cpus=not request.dropin and request.max_workers is None and config.max_workers is None,
        )
        self.config = config
        self.facts = facts
        #: As in the request.
        self.dropin: bool = request.dropin
        plan = decide(request, config, facts)
        self.plan: Plan = plan
        self.site: Site | None = site
        self._target = target
        self._listener = listener
        #: Held while a rung is opened, so that the first submits of several threads open it once.
        self.lock: AbstractContextManager[bool] = threading.RLock()
        self._left = list(plan.rungs)
        self._denied: Exception | None = None
        self._warned = False
        # What is still to be told, one entry at most. A list, whose `pop` only one thread can do.
        self._untold: list[DecisionTrace] = []
        self.decision: DecisionTrace = DecisionTrace(
            origin=request.origin,
            name=request.name,
            asked=request.flavor,
            flavor=plan.flavor,
            ladder=plan.ladder,
            refused=plan.rejected,
            backend=None,
            workers=plan.workers,
            start_method=None,
            short=None,
            reason=plan.reason,
            settled=False,
            where=None if site is None else str(site),
        )
        self._aim()
        if plan.rejected and plan.rejected[0].backend == plan.ladder[0]:
            try:
                self._check_allowed(None)
            finally:
                self.tell()

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        # For a program's class that says itself what its state is, and constructs the copy anew: it would get, by way
        # of the user's line, all globals of the program.
        return type(None), ()

    @property
    def rung(self) -> str:
        """The rung to try now.

        Raises:
            DowngradeError, BootstrapError: As ``refuse`` did.
        """
        if self._denied is not None:
            raise self._denied.with_traceback(None)
        return self._left[0]

    def refuse(self, refused: Refused) -> None:
        """Take note that the present rung cannot start; the next one becomes ``rung``.

        Raises:
            DowngradeError: Downgrades are errors, or no rung is left.
            BootstrapError: This process is a worker that is still starting: running its work here would run it once
                per worker.
        """
        rung = self._left.pop(0)
        why = failure(rung, refused.stage, refused.error)
        if rung == "processes" and refused.stage in ("import", "construct") and lasting(refused.error):
            host.remember(why)
        self.decision = self.decision.replace(refused=(*self.decision.refused, why, *self._twins(why, refused.error)))
        self._aim()
        self._check_allowed(refused.error)

    def _twins(self, why: Failure, error: BaseException) -> list[Failure]:
        """Take the rungs off the ladder that would fail in the same way, and return why.

        Workers of `processes` and `pipes` start alike. Those that ended before they were ready, or the fork server that
        was to start them, would do so again, and import the user's main module once more for it. So would interpreters,
        and what ended a worker there might end the program.
        """
        ended = (why.stage == "bootstrap" and isinstance(error, BrokenExecutor)) or (
            why.stage == "start" and isinstance(error, (ConnectionError, EOFError))
        )
        if not ended:
            return []
        twins = [rung for rung in self._left if rung in PROCESSES or rung == "interpreters"]
        self._left = [rung for rung in self._left if rung not in twins]
        message = f"its workers start as those of {why.backend} do"
        return [why.replace(backend=rung, message=message) for rung in twins]

    def settle(self, *, workers: int | None, short: Failure | None = None) -> None:
        """Say that the present rung has started: to the user, if it is a lower one; to all others, ``tell`` will.

        Raises:
            DowngradeWarning: The user's warning filters make it an error. Nothing was submitted to the rung yet, and
                the next ``settle`` warns again.
        """
        decision = self.decision.replace(workers=workers, short=short, settled=True)
        if decision.downgraded and self.config.downgrade == "warn" and not self._warned:
            warning = DowngradeWarning(decision)
            site = self.site or caller()
            if site is not None:
                site.warn(warning)
            else:  # a thread that only constructs the pool, and another thread of the stdlib's that submits
                warnings.warn(warning, stacklevel=1)
            self._warned = True
        self.decision = decision
        self._decided()

    def abandon(self) -> None:
        """Say what was decided for a pool that is shut down before it had a task."""
        if not self.decision.settled:
            self._decided()
            self.tell()

    def tell(self) -> None:
        """Tell the log, the trace and the listeners what was decided, if they do not know it yet.

        Not with ``lock`` held: a log handler may wait for another thread, which waits for this pool.
        """
        try:
            decision = self._untold.pop()
        except IndexError:
            return
        target, listener = self._target, self._listener
        # Only for warnings, and all is said: a pool must not keep the globals of a module, which may keep the pool.
        self.site = self._target = self._listener = None
        trace.publish(decision, target=target, listener=listener, quiet=self.dropin)

    def _decided(self) -> None:
        trace.remember(self.decision)
        self._untold.append(self.decision)

    def _aim(self) -> None:
        backend = self._left[0] if self._left else None
        method = self.plan.start_method if backend in PROCESSES else None
        workers = None if backend == "inline" else self.plan.workers
        self.decision = self.decision.replace(backend=backend, start_method=method, workers=workers)
        trace.remember(self.decision)

    def _check_allowed(self, cause: BaseException | None) -> None:
        allowed = self.config.downgrade != "error" or not self.decision.downgraded
        if self._left and allowed and not self.facts.bootstrapping:
            return
        self.decision = self.decision.replace(backend=None, workers=None, start_method=None, settled=True)
        if self.facts.bootstrapping:
            self._denied = BootstrapError("; ".join(map(str, self.decision.refused)))
        else:
            self._denied = DowngradeError(self.decision)
        self._decided()
        raise self._denied from cause


def dropin(flavor: str, origin: str, max_workers: int | None, spec: PoolSpec) -> Opening:
    """Decide for a constructor that stands in for the stdlib's, after the checks that it makes."""
    _check(max_workers, spec)
    request = Request(
        flavor=flavor, origin=origin, dropin=True, max_workers=max_workers, start_method=spec.start_method()
    )
    config = settings.resolve()
    return Opening(request, config, site=caller(), target=config.trace)


def _check(max_workers: int | None, spec: PoolSpec) -> None:
    """Refuse what the stdlib's constructors refuse, with their errors; on a lower rung they are never called."""
    if max_workers is not None and max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if spec.initializer is not None and not callable(spec.initializer):
        raise TypeError("initializer must be a callable")
    if spec.max_tasks_per_child is None:
        return
    if not isinstance(spec.max_tasks_per_child, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if spec.max_tasks_per_child <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    if spec.start_method() == "fork":
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
            "supply a different mp_context."
        )

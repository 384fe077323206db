"""What was decided and why: DecisionTrace, who gets to hear of it, and the warning that points home."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import contextmanager

from unirun.config import OWN_LADDER
from unirun.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from unirun.refusal import Failure

__all__ = [
    "DecisionTrace",
    "DowngradeWarning",
    "add_listener",
    "last_decision",
    "observe_decisions",
    "remove_listener",
]

LOGGER: Final = logging.getLogger("unirun")

#: The backends whose workers are processes.
PROCESSES: Final = frozenset({"processes", "pipes"})

Listener = Callable[["DecisionTrace"], object]


class DecisionTrace(Value, uncompared=("where",)):
    """One decision: what was asked, what was tried, what refused and with which error, what was chosen.

    The same request with the same settings on the same host gives an equal trace.

    Attributes:
        origin: Who asked: ``"Run"``, ``"to_process"``, ``"ProcessPoolExecutor"`` …
        name: The user's name for the scope, or ``None``.
        asked: The flavor asked for.
        flavor: What it resolved to.
        ladder: The rungs that may serve it, best first.
        refused: One ``Failure`` for each rung that could not serve: backend, stage, error.
        backend: The rung chosen; ``None`` when none could be, or none was allowed.
        workers: How many workers it runs with at most; ``None`` for inline, and for a drop-in that has not started.
        start_method: How worker processes are started; ``None`` where there are none.
        short: Why fewer workers than asked for were started, or ``None``.
        reason: Why this flavor and this ladder, in words.
        settled: The backend has started. Before the first task it is only the best guess.
        where: The user's own line, as ``file:line``. Not compared.
    """

    origin: str
    name: str | None
    asked: str
    flavor: str
    ladder: tuple[str, ...]
    refused: tuple[Failure, ...]
    backend: str | None
    workers: int | None
    start_method: str | None
    short: Failure | None
    reason: str
    settled: bool
    where: str | None = None

    @property
    def downgraded(self) -> bool:
        """Whether a lower rung serves than the ladder's first.

        Not between ``processes`` and ``pipes``: worker processes serve either way, and nothing changes for the user.
        """
        return self.backend not in (None, self.ladder[0]) and not {self.backend, self.ladder[0]} <= PROCESSES

    def render(self) -> str:
        """Return the decision as one readable line."""
        subject = f"{self.origin} {self.name!r}" if self.name else self.origin
        parts = [f"{subject} {self._outcome()}", self.reason, *map(str, self.refused)]
        if self.short is not None:
            parts.append(f"fewer workers than asked for started: {self.short.error}: {self.short.message}")
        if not self.settled:
            parts.append("nothing was started yet")
        if self.where:
            parts.append(self.where)
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as plain values that ``json`` can write."""
        return {**super().as_dict(), "downgraded": self.downgraded}

    def warning(self) -> str:
        """Return the text of the ``DowngradeWarning`` for this decision."""
        advice = (
            "UNIRUN_DOWNGRADE=error raises instead, UNIRUN_DOWNGRADE=silent says nothing; "
            "`python -m unirun doctor` says what can be done"
        )
        return f"{self.origin} {self._outcome()}: {self._refusals()}. {advice}"

    def refusal(self) -> str:
        """Return the text of the ``DowngradeError`` for this decision."""
        untried = [rung for rung in self.ladder if rung not in {f.backend for f in self.refused}]
        rest = f" {', '.join(untried)} not tried, because downgrades are errors (downgrade='error')." if untried else ""
        own = f" The ladder is your own: {', '.join(self.ladder)}." if OWN_LADDER in self.reason else ""
        return (
            f"{self.origin} cannot be served as asked: {self._refusals()}.{rest}{own} "
            "Run `python -m unirun doctor` to see what this host can do"
        )

    def _outcome(self) -> str:
        match self.backend:
            case None:
                return "runs nowhere"
            case "inline":
                return "runs inline, in the calling thread"
            case backend:
                counted = "1 worker" if self.workers == 1 else f"{self.workers} workers"
                how = f" by {self.start_method}" if self.start_method is not None else ""
                return f"runs in {backend}{how} ({counted})"

    def _refusals(self) -> str:
        return "; ".join(map(str, self.refused)) or "no rung is left"


class DowngradeWarning(RuntimeWarning):
    """A lower rung serves a request because a higher one cannot start on this host.

    Attributes:
        decision: The ``DecisionTrace`` that says what was tried.
    """

    def __init__(self, decision: DecisionTrace) -> None:
        self.decision = decision
        super().__init__(decision.warning())

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.decision,)


# Written and read as a whole: an assignment is atomic, and readers want whichever is newest.
_last: DecisionTrace | None = None
_telling = threading.local()  # in which threads a decision is just being told to listeners and log handlers
_lock = threading.Lock()  # guards changes of _listeners; readers take the tuple as it is
_listeners: tuple[Listener, ...] = ()


def last_decision() -> DecisionTrace | None:
    """Return the newest decision of this process, ``None`` before the first and after ``reset``."""
    return _last


def remember(decision: DecisionTrace | None) -> None:
    """Make ``decision`` the one that ``last_decision`` returns."""
    global _last
    _last = decision


def add_listener(listener: Listener) -> None:
    """Call ``listener(decision)`` for each decision of this process, in the thread that took it, once per pool.

    An exception in a listener is logged and does not reach the pool's user.

    Raises:
        TypeError: ``listener`` cannot be called.
    """
    global _listeners
    if not callable(listener):
        raise TypeError(f"a listener is called with each decision; {listener!r} cannot be called")
    with _lock:
        _listeners = (*_listeners, listener)


def remove_listener(listener: Listener) -> None:
    """Undo one ``add_listener``.

    Raises:
        ValueError: ``listener`` was not added.
    """
    global _listeners
    with _lock:
        rest = list(_listeners)
        if listener not in rest:
            raise ValueError(f"{listener!r} is not a listener of unirun's decisions")
        rest.remove(listener)
        _listeners = tuple(rest)


@contextmanager
def observe_decisions() -> Iterator[list[DecisionTrace]]:
    """Collect the decisions that this process takes inside a ``with`` block, in a list."""
    seen: list[DecisionTrace] = []
    add_listener(seen.append)
    try:
        yield seen
    finally:
        remove_listener(seen.append)


def publish(
    decision: DecisionTrace, *, target: str | None, listener: Listener | None = None, quiet: bool = False
) -> None:
    """Tell everybody who wants to know about a decision that is final.

    Args:
        decision: The decision.
        target: ``"stderr"``, the path of a file, or ``None``.
        listener: One more listener, for this decision alone.
        quiet: Log nothing if it went as asked: a program may not know that it uses unirun.
    """
    remember(decision)
    if getattr(_telling, "on", False):  # by a listener or a log handler that opened this pool: it would never end
        return
    _telling.on = True
    try:
        as_asked = decision.backend == decision.ladder[0] and decision.short is None
        if not (quiet and as_asked):
            _log(logging.DEBUG if as_asked else logging.INFO, "%s", decision.render(), extra={"decision": decision})
        if target is not None:
            _write(decision, target)
        for each in (*_listeners, *((listener,) if listener is not None else ())):
            try:
                each(decision)
            except Exception:
                _log(logging.ERROR, "a listener of unirun's decisions failed: %r", each, exc_info=True)
    finally:
        _telling.on = False


def _log(level: int, message: str, *arguments: object, **more: Any) -> None:
    """Log; what a handler raises must not look like a failure of the pool, whose task is on its way by now."""
    try:
        LOGGER.log(level, message, *arguments, **more)
    except Exception:
        if logging.raiseExceptions and sys.stderr is not None:  # as logging itself says it of its handlers
            traceback.print_exc()


def _write(decision: DecisionTrace, target: str) -> None:
    try:
        if target == "stderr":
            if sys.stderr is not None:  # print() would take standard output instead
                print(f"unirun: {decision.render()}", file=sys.stderr, flush=True)
        else:
            import json  # for those who want it: this module is loaded with the first pool

            # One write to a file opened for appending: lines of several processes do not mix.
            with open(target, "a", encoding="utf-8") as file:
                file.write(json.dumps(decision.as_dict()) + "\n")
    except Exception as error:  # whatever a program has put in the place of standard error may raise anything
        _log(logging.WARNING, "unirun cannot write its trace to %s: %s", target, error)

"""Terms: how the tasks and the workers of a pool are treated."""

from __future__ import annotations

from unirun.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

__all__ = ["Terms"]


class Terms(Value):
    """How tasks and workers are treated.

    Attributes:
        max_tasks_per_child: Tasks after which a worker is replaced, or ``None``.
        task_timeout: Seconds after which a task's worker is killed, or ``None``.
        on_crash: ``"replace"``: the running task fails and the worker is replaced. ``"raise"``: the pool is broken.
        log_level: Log records of the workers from this level on reach the parent's handlers; ``None``: none do.
        by_value: Plain pickling is not enough for what refers to ``__main__``: workers do not find it there.
    """

    max_tasks_per_child: int | None = None
    task_timeout: float | None = None
    on_crash: Literal["replace", "raise"] = "replace"
    log_level: int | None = None
    by_value: bool = False

"""The errors that unirun raises by itself; everything else is the task's or the stdlib's own.

    UnirunError
    ├── ConfigError (ValueError)               a setting is not one of the accepted values
    ├── DowngradeError (NotImplementedError)   no backend that may serve the request can start on this host
    └── BootstrapError (RuntimeError)          a process pool was opened while a worker was still importing __main__

Each one is also the stdlib class that existing code already catches: a hand-rolled fallback around a pool
catches ``NotImplementedError`` (a ``RuntimeError``), which is what the stdlib raises where pools cannot exist.
"""

TYPE_CHECKING = False  # typing costs more to import than all of this module
if TYPE_CHECKING:
    from unirun.trace import DecisionTrace

__all__ = ["BootstrapError", "ConfigError", "DowngradeError", "UnirunError"]


class UnirunError(Exception):
    """Base of every error that unirun raises by itself."""


class ConfigError(UnirunError, ValueError):
    """A setting has a value that is not accepted.

    Attributes:
        name: The field or environment variable, as the user wrote it.
        value: The value that was refused.
        accepted: What would have been accepted, in words.
    """

    def __init__(self, name: str, value: object, accepted: str) -> None:
        self.name = name
        self.value = value
        self.accepted = accepted
        super().__init__(f"{name}={value!r} is not accepted: {accepted}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.value, self.accepted)


class DowngradeError(UnirunError, NotImplementedError):
    """A request cannot be served as asked, and a lower rung is not allowed or not there.

    Raised before any task ran. It does not mean that a task failed or that a worker crashed.

    Attributes:
        decision: The ``DecisionTrace`` that names every rung tried, its stage and its error.
    """

    def __init__(self, decision: "DecisionTrace") -> None:
        self.decision = decision
        super().__init__(decision.refusal())

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.decision,)


class BootstrapError(UnirunError, RuntimeError):
    """A process pool could not start because this process is itself a worker that is still starting.

    It happens in a program that is started again to be its own worker: a frozen one without ``freeze_support()``, or a
    script without an ``if __name__ == "__main__":`` guard, where multiprocessing's own ``RuntimeError`` usually comes
    first ("An attempt has been made to start a new process ..."). Running the work here instead would run the whole
    program once per worker, so unirun never does that.

    Attributes:
        detail: The error that the pool met, in words.
    """

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(
            f"a process pool was opened while this worker process is still importing its main module ({detail}). "
            'Put the code that starts the work under `if __name__ == "__main__":`'
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.detail,)

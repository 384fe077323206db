"""A stand-in for what a future asks when somebody waits for it or cancels it: nobody hears, and nothing comes back."""

from typing import Any

__all__ = ["deaf"]


class _Deaf:
    """An ear that hears nothing, of a pool that gives nothing back."""

    dispatch: Any

    def __init__(self) -> None:
        self.dispatch = self

    def listen(self, future: Any) -> None:
        pass

    def reclaim(self, future: Any) -> None:
        pass


def deaf() -> Any:
    """Return one, in place of an ``Ear``."""
    return _Deaf()

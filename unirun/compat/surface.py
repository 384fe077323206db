"""The surface of a stdlib module with some of its names managed: what every compat module is made of."""

from collections.abc import Callable, Mapping
from types import ModuleType

from unirun.config import compat_mode

__all__ = ["surface"]


def surface(
    module: str, original: ModuleType, managed: Mapping[str, Callable[[], object]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a compat module.

    Args:
        module: The compat module's name, for its errors.
        original: The stdlib's module.
        managed: A getter of the managed class for each name that has one. Which of the two a name means is decided whenever
            it is looked up, by ``UNIRUN_COMPAT_MODE``.
    """

    def lookup(name: str) -> object:
        if name in managed and compat_mode() == "managed":
            return managed[name]()
        try:
            return getattr(original, name)
        except AttributeError:
            raise AttributeError(f"module {module!r} has no attribute {name!r}") from None

    return lookup, lambda: sorted({*dir(original), *managed})

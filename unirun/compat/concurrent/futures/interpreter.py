"""``concurrent.futures.interpreter``, as it is; Python 3.14 and later."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures.interpreter import *  # type: ignore[import-not-found, unused-ignore]  # noqa: F403
else:
    from unirun.compat.surface import surface

    __getattr__, __dir__ = surface(__name__)
    __all__ = [name for name in __dir__() if not name.startswith("_")]

"""``concurrent.futures._base``, as it is."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures._base import *  # noqa: F403
else:
    from unirun.compat.surface import surface

    __getattr__, __dir__ = surface(__name__)
    __all__ = [name for name in __dir__() if not name.startswith("_")]

"""``concurrent.futures`` with managed pools: the stdlib's surface, the same names, on any host.

``UNIRUN_COMPAT_MODE=passthrough`` makes every name the stdlib's own.
"""

import concurrent.futures as _original
import importlib as _importlib

from unirun.compat.surface import surface as _surface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import *  # noqa: F403

    from unirun.managed import ProcessPoolExecutor as ProcessPoolExecutor
    from unirun.managed import ThreadPoolExecutor as ThreadPoolExecutor

__all__ = list(_original.__all__)


def _managed(name: str) -> object:
    import unirun.managed

    return getattr(unirun.managed, name)


_lookup, __dir__ = _surface(
    __name__,
    _original,
    {
        "ProcessPoolExecutor": lambda: _managed("ProcessPoolExecutor"),
        "ThreadPoolExecutor": lambda: _managed("ThreadPoolExecutor"),
    },
)


def __getattr__(name: str) -> object:
    if name in ("_base", "process", "thread", "interpreter"):
        # The stdlib's submodules become attributes once something imported them; here they always are.
        try:
            return _importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error
    return _lookup(name)

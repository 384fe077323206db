"""``concurrent.futures.process``, with a managed ``ProcessPoolExecutor``."""

import concurrent.futures.process as _original

from unirun.compat.surface import surface as _surface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures.process import *  # noqa: F403

    from unirun.managed import ProcessPoolExecutor as ProcessPoolExecutor


def _managed() -> object:
    import unirun.managed

    return unirun.managed.ProcessPoolExecutor


__getattr__, __dir__ = _surface(__name__, _original, {"ProcessPoolExecutor": _managed})

"""``concurrent.futures.thread``, with a managed ``ThreadPoolExecutor``."""

import concurrent.futures.thread as _original

from unirun.compat.surface import surface as _surface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures.thread import *  # noqa: F403

    from unirun.managed import ThreadPoolExecutor as ThreadPoolExecutor


def _managed() -> object:
    import unirun.managed

    return unirun.managed.ThreadPoolExecutor


__getattr__, __dir__ = _surface(__name__, _original, {"ThreadPoolExecutor": _managed})

"""``concurrent.futures.thread``, with a managed ``ThreadPoolExecutor``."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures.thread import BrokenThreadPool as BrokenThreadPool

    from unirun.thread import ThreadPoolExecutor as ThreadPoolExecutor
else:
    from unirun.compat.surface import surface

    __getattr__, __dir__ = surface(__name__, managed={"ThreadPoolExecutor": "unirun.thread"})
    __all__ = [name for name in __dir__() if not name.startswith("_")]

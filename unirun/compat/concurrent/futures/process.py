"""``concurrent.futures.process``, with a managed ``ProcessPoolExecutor``."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures.process import EXTRA_QUEUED_CALLS as EXTRA_QUEUED_CALLS
    from concurrent.futures.process import BrokenProcessPool as BrokenProcessPool

    from unirun.process import ProcessPoolExecutor as ProcessPoolExecutor
else:
    from unirun.compat.surface import surface

    __getattr__, __dir__ = surface(__name__, managed={"ProcessPoolExecutor": "unirun.process"})
    __all__ = [name for name in __dir__() if not name.startswith("_")]

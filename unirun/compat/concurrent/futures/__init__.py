"""``concurrent.futures`` with managed pools: the stdlib's surface, the same names, on any host.

``UNIRUN_COMPAT_MODE=passthrough`` makes every name the stdlib's own.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import *  # noqa: F403

    from unirun.compat.concurrent.futures import process as process
    from unirun.compat.concurrent.futures import thread as thread
    from unirun.process import ProcessPoolExecutor as ProcessPoolExecutor
    from unirun.thread import ThreadPoolExecutor as ThreadPoolExecutor
else:
    from concurrent.futures import __all__  # noqa: F401

    from unirun.compat.surface import surface

    __getattr__, __dir__ = surface(
        __name__,
        managed={"ProcessPoolExecutor": "unirun.process", "ThreadPoolExecutor": "unirun.thread"},
        submodules=("_base", "process", "thread", "interpreter"),
    )

"""``concurrent.futures`` with managed pools: the stdlib's surface, the same names, on any host.

``UNIRUN_COMPAT_MODE=passthrough`` makes every name the stdlib's own.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:  # not by `*`: mypy would take the stdlib's classes for these
    import sys
    from concurrent.futures import ALL_COMPLETED as ALL_COMPLETED
    from concurrent.futures import FIRST_COMPLETED as FIRST_COMPLETED
    from concurrent.futures import FIRST_EXCEPTION as FIRST_EXCEPTION
    from concurrent.futures import BrokenExecutor as BrokenExecutor
    from concurrent.futures import CancelledError as CancelledError
    from concurrent.futures import Executor as Executor
    from concurrent.futures import Future as Future
    from concurrent.futures import InvalidStateError as InvalidStateError
    from concurrent.futures import TimeoutError as TimeoutError
    from concurrent.futures import as_completed as as_completed
    from concurrent.futures import wait as wait

    from unirun.compat.concurrent.futures import process as process
    from unirun.compat.concurrent.futures import thread as thread
    from unirun.process import ProcessPoolExecutor as ProcessPoolExecutor
    from unirun.thread import ThreadPoolExecutor as ThreadPoolExecutor

    if sys.version_info >= (3, 14):
        from concurrent.futures import InterpreterPoolExecutor as InterpreterPoolExecutor
else:
    from concurrent.futures import __all__  # noqa: F401

    from unirun.compat.surface import surface

    __getattr__, __dir__ = surface(
        __name__,
        managed={"ProcessPoolExecutor": "unirun.process", "ThreadPoolExecutor": "unirun.thread"},
        submodules=("_base", "process", "thread", "interpreter"),
    )

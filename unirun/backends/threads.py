"""The threads backend: the stdlib's thread pool, which half a start does not stop."""

from __future__ import annotations

import concurrent.futures.thread
import queue
from contextlib import suppress

from unirun.backends.ready import nothing
from unirun.kinship import stdlib_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import BrokenExecutor, Future
    from typing import Any

    from unirun.refusal import Failure

    _Base = concurrent.futures.thread.ThreadPoolExecutor
else:
    _Base = stdlib_class("concurrent.futures.thread", "ThreadPoolExecutor")

__all__ = ["GuardedThreadPool", "open_threads"]


_stdlib_adjust: Any = _Base._adjust_thread_count


class GuardedThreadPool(_Base):
    """The stdlib's pool, plus a guard of its start.

    Guarantees:
        A thread that cannot be started is an error only while there is none at all. With one alive the stdlib's
        ``submit`` would raise and yet run the task; here it returns its future.
        A callback may submit, also that of a future that is cancelled by ``shutdown``, or failed as the initializer
        has: it is told that the pool takes nothing more. In the stdlib its thread waits for itself then.
    """

    if TYPE_CHECKING:  # not for `typing.get_type_hints`, which could not resolve it at run time
        _unirun_short: Failure | None

    #: Why there are fewer threads than asked for, or None.
    _unirun_short = None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            super().shutdown(wait=False)  # first: what a callback submits is refused then
            for future in self._unirun_pending():
                future.cancel()
        super().shutdown(wait)  # again, as what wakes the threads was taken out, too

    def _initializer_failed(self) -> None:
        self._unirun_break("A thread initializer failed, the thread pool is not usable anymore")
        super()._initializer_failed()
        self._unirun_wake()  # again, as this has taken out what was there

    def _unirun_break(self, why: Any) -> None:
        """Fail what waits; nothing more is taken."""
        with self._shutdown_lock:
            self._broken = why  # first, as above
        for future in self._unirun_pending():
            if future.set_running_or_notify_cancel():
                future.set_exception(self._unirun_error(why))
        self._unirun_wake()

    def _unirun_wake(self) -> None:
        """Have the threads look whether they are to end: what says so may have been taken out with what waited."""
        queue: Any = self._work_queue
        queue.put(None)

    def _unirun_error(self, why: str) -> BrokenExecutor:
        """Return the error of a pool whose initializer failed."""
        return concurrent.futures.thread.BrokenThreadPool(why)

    def _unirun_pending(self) -> Iterator[Future[Any]]:
        """Take out what no thread has begun, one by one; without the lock that a callback's ``submit`` needs."""
        with suppress(queue.Empty):
            while True:
                item = self._work_queue.get_nowait()
                if item is not None:
                    yield item.future

    def _adjust_thread_count(self) -> None:
        try:
            _stdlib_adjust(self)  # a quick call: it comes with every task
        except RuntimeError as error:
            from unirun.refusal import failure, is_refusal

            if not self._threads or not is_refusal("start", error):
                raise
            self._unirun_short = failure("threads", "start", error)

    def _unirun_start(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """Submit the first task; raise ``Refused`` if no thread can be started, the task then being dropped."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            from unirun.refusal import Refused, is_refusal

            if self._threads or not is_refusal("start", error):
                raise
            # The item is queued, but there is no thread to take it and there will be none.
            super().shutdown(wait=False, cancel_futures=True)
            self._shutdown = False  # programs look, to see whether it is any good; another rung may serve
            raise Refused("start", error) from None


def open_threads(workers: int, prefix: str = "") -> GuardedThreadPool:
    """Return a pool of which one thread has started.

    Raises:
        Refused: Not even one thread can be started.
    """
    pool = GuardedThreadPool(workers, prefix)
    # A task of ours, so that what is decided can be said before a task of the user's runs.
    try:
        pool._unirun_start(nothing, (), {})
    except BaseException:  # Ctrl-C: the exit would wait for a thread that the stdlib does not know of yet
        pool.shutdown(wait=False)
        raise
    return pool

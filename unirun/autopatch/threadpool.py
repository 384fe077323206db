"""``multiprocessing.pool.ThreadPool``, and with it ``multiprocessing.dummy.Pool``, on hosts without semaphores.

Its threads need none. One queue does, by which the pool tells its own worker handler that something has changed:
``Pool.__init__`` gets it from the context, with two locks that could be shared with processes.

    ThreadPool() → Pool.__init__ ┬─ self._ctx = get_context()
                                 ├─ self._setup_queues()         ThreadPool's own, the one function that is wrapped:
                                 │                               it leaves a context whose SimpleQueue has no locks
                                 └─ self._ctx.SimpleQueue()      which is used here, once

Guarantees:
    Where a semaphore can be made, nothing is wrapped and wrapt is not imported.
    ``multiprocessing.Pool``, locks, queues and managers fail as they do without unirun: they never get that context.

Does not promise to notice a host that begins to refuse later: it looks when ``multiprocessing.pool`` is imported, and
at ``install()``.
"""

from __future__ import annotations

from unirun.semaphore import refusal

TYPE_CHECKING = False  # loaded with `multiprocessing.pool`, in programs that never make a pool, too
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ["mend", "unmend"]


def mend(module: ModuleType) -> bool:
    """Let the ``ThreadPool`` of ``module`` do without semaphores where the host refuses them; return whether it does.

    Raises:
        ImportError: The host refuses them, and wrapt, which comes with ``unirun[autopatch]``, is not installed.
    """
    why = refusal()
    if why is None:
        return False
    if not _is_mended(module):
        import logging

        from wrapt import wrap_function_wrapper  # type: ignore[import-not-found, unused-ignore]

        wrap_function_wrapper(module, "ThreadPool._setup_queues", _without_semaphores)
        logging.getLogger("unirun").info("ThreadPool does without the semaphores that this host refuses (%s)", why)
    return True


def unmend(module: ModuleType) -> None:
    """Undo ``mend``, unless somebody else has wrapped the same function since."""
    if _is_mended(module):
        module.ThreadPool._setup_queues = module.ThreadPool._setup_queues.__wrapped__


def _is_mended(module: ModuleType) -> bool:
    return getattr(module.ThreadPool._setup_queues, "_self_wrapper", None) is _without_semaphores


def _without_semaphores(setup_queues: Callable[..., object], pool: Any, args: Any, kwargs: Any) -> None:
    from contextlib import nullcontext
    from copy import copy
    from multiprocessing.queues import SimpleQueue
    from types import SimpleNamespace

    setup_queues(*args, **kwargs)
    context = pool._ctx

    def change_notifier() -> SimpleQueue[None]:
        pool._ctx = context
        # It needs no lock: one thread reads, and what is written is so short that a pipe takes it as a whole. A lock
        # would even harm, in a child that is forked while it is held, and when a collected pool notifies from `put`.
        return SimpleQueue(ctx=SimpleNamespace(Lock=nullcontext))

    pool._ctx = copy(context)
    pool._ctx.SimpleQueue = change_notifier

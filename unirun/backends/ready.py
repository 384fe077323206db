"""The word that a worker gives before code of the user's runs in it: the pipe for it, and who says it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any, Final

__all__ = ["Next", "Ready", "nothing", "wake"]

_READY: Final = b"R"
_ENDED: Final = b"E"
#: Seconds for which a first ``submit`` waits. Arbitrary: the largest modules take some 10 to import on a slow machine.
PATIENCE: float = 60.0


class Ready:
    """The initializer of every worker: says ready, then runs the user's.

    The user's initializer travels pickled inside of it where the start method pickles at all, so that loading it, which
    runs code of the user's, comes after ready too.
    """

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        from multiprocessing.connection import Pipe

        self._user = (initializer, initargs)
        # Both ends stay open as long as there may be workers: one that says ready late must find the pipe, or the
        # signal SIGPIPE might end it.
        self._reader, self._writer = Pipe(duplex=False)
        self._open = [self._reader, self._writer]
        #: How many first submits wait, or are about to: more than one where a signal handler submits meanwhile.
        self.waiting: int = 0
        #: New workers shall say ready.
        self.armed: bool = True

    def __call__(self) -> None:
        """Run in the worker, where the fork start method made a copy of this object."""
        say_ready(self._writer)
        self._reader.close()
        run_user(*self._user)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        from multiprocessing.context import get_spawning_popen
        from multiprocessing.reduction import ForkingPickler

        if get_spawning_popen() is None:  # by who copies a pool, which has no use for a second end of the pipe
            return _Copied, ()
        from unirun.backends import ready  # which may not be this module any more, in a program that drops modules

        user = bytes(ForkingPickler.dumps(self._user))
        return ready._Told, (self._writer if self.armed else None, user)

    def disarm(self) -> None:
        """From here on new workers need not say ready; their word would only fill the pipe."""
        self.armed = False
        if self.waiting > 1:  # there is one word only
            self._writer.send_bytes(_ENDED)

    def ended(self) -> None:
        """Wake the waiting ``submit``, if one still waits: its future is done, by a crash or otherwise."""
        if self.armed:
            self._writer.send_bytes(_ENDED)

    def wait(self) -> bool:
        """Wait until a worker is ready (true) or the first task's future is done (false), whichever comes first.

        After ``PATIENCE`` the worker counts as ready: its main module may need what the caller holds.
        """
        from multiprocessing import connection

        # Under gevent the threads of the pool are greenlets of this one; its selectors let them run, and no read does.
        if not connection.wait([self._reader], PATIENCE):
            return True
        return self._reader.recv_bytes() == _READY

    def was_said(self) -> bool:
        """Tell whether any worker said ready. Exact once all workers are dead: nobody writes any more."""
        while self._reader.poll():
            if self._reader.recv_bytes() == _READY:
                return True
        return False

    def close(self) -> None:
        """Close both ends. The pool's own thread and a caller may do so at once: each end is closed by one of them."""
        try:
            while True:
                self._open.pop().close()
        except IndexError:
            pass


class _Copied:
    """What it becomes elsewhere: in a copy of its pool, say."""

    def __call__(self) -> None:
        raise RuntimeError("this pool was not started by multiprocessing, but copied")


class _Told:
    """What ``Ready`` becomes in a worker that does not fork."""

    def __init__(self, writer: Any, user: bytes) -> None:
        self._writer = writer
        self._user = user

    def __call__(self) -> None:
        import pickle

        if self._writer is not None:
            say_ready(self._writer)
        run_user(*pickle.loads(self._user))


def say_ready(writer: Any) -> None:
    """Tell the parent that this worker is ready. A short message: written at once or not at all."""
    try:
        writer.send_bytes(_READY)
    except OSError:
        pass  # the parent is gone, or has closed its pool; the worker learns that from its queue
    writer.close()


def run_user(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    """Run the user's initializer, if there is one."""
    if initializer is not None:
        initializer(*initargs)


def wake(ready: weakref.ref[Ready], _: Future[Any]) -> None:
    """Be a future's callback that keeps no pipe open as long as somebody keeps the future."""
    alive = ready()
    if alive is not None:
        alive.ended()


def nothing(*_: object) -> None:
    """Do nothing: a first task that opens a pool. Importable, so that it travels to any worker."""


class Next:
    """An argument of ``nothing``: the task for which the pool is opened, for whoever looks at that. Pickled empty.

    Args:
        task: The function and its arguments.
    """

    def __init__(self, *task: Any) -> None:
        self.task: tuple[Any, ...] = task

    def __reduce__(self) -> tuple[type[Next], tuple[()]]:
        return Next, ()

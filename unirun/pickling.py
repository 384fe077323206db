"""Pickling as process pools do it: with the reducers that are registered for ``multiprocessing``."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # all else is imported by who pickles: a pool of threads loads this module, too
if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable
    from typing import Any, Final

__all__ = ["NUMBERS", "TEXTS", "LoadedOnceError", "cannot", "dumper", "dumps", "dumps_by", "fallback", "ours", "theirs"]

#: Types of which a pickler remembers nothing, and of which one value is as good as another equal one.
NUMBERS: Final = frozenset({int, float, bool, type(None)})
#: Types that nobody can change, of any length.
TEXTS: Final = frozenset({str, bytes})
#: Finds a class that pickles by value, in a worker that does not have what the program's ``__main__`` defines, but got
#: it so: what the program gets back refers to that, and has to go by value, too. ``None`` elsewhere.
by_value: Callable[[], Any] | None = None
#: The class that does the work of multiprocessing's, and the one that refuses what can be loaded only once; by that
#: class and its ``dumps``, as they were the last time: one entry. ``None`` where these are a program's own.
_picklers: dict[Any, tuple[type[pickle.Pickler], type[pickle.Pickler]] | None] = {}


def dumps(value: object) -> bytes:
    """Pickle a value.

    Raises:
        Exception: What pickling raises.
    """
    import io

    if (kind := ours()) is None:
        return theirs(value)
    file = io.BytesIO()
    try:
        kind(file).dump(value)
    except Exception as error:
        if (other := fallback(error)) is None:
            raise
        return dumps_by(other, value)
    return file.getvalue()


def dumps_by(kind: type[pickle.Pickler], value: object) -> bytes:
    """Pickle a value by a class that is like ``pickle.Pickler``.

    Raises:
        Exception: What pickling raises.
    """
    import io

    file = io.BytesIO()
    kind(file, 5).dump(value)
    return file.getvalue()


class LoadedOnceError(Exception):
    """A connection, a socket or the like: its pickle refers to a copy that is kept until it is fetched, once."""


class _Lasting:
    """The reducers of a pickler whose pickles may be thrown away, and loaded more than once.

    Args:
        reducers: Those that are registered for ``multiprocessing``.
    """

    def __init__(self, reducers: dict[type, Any]) -> None:
        import copyreg
        from functools import partial
        from types import MethodType

        self._mine = reducers
        self._all = copyreg.dispatch_table
        # Of what plain pickle has no reducers for. These keep nothing.
        self._kinds = {MethodType, type(list.append), type(int.__add__), partial}

    def __getitem__(self, kind: type) -> Any:
        if kind in self._kinds and kind in self._mine:
            return self._mine[kind]
        if kind in self._mine or kind.__module__ == "multiprocessing.resource_sharer":
            raise LoadedOnceError(kind)
        return self._all[kind]

    def get(self, kind: type) -> Any:
        """Do the same for a pickler that is written in Python."""
        try:
            return self[kind]
        except KeyError:
            return None


def dumper(*, lasting: bool = False) -> Callable[[object], bytes]:
    """Return a function that pickles one value after the other, each by itself; in one thread, and for one batch.

    To make a pickler takes longer than to pickle a small object: here all have the same one.

    Args:
        lasting: Its pickles may be thrown away, and loaded more than once. Then that function raises
            ``LoadedOnceError`` where this is not so.
    """
    import io

    if (kind := ours(lasting)) is None:
        return theirs
    file = io.BytesIO()
    made = kind(file)

    def dumps(value: object) -> bytes:
        nonlocal made
        try:
            made.dump(value)
            return file.getvalue()
        except BaseException as error:
            made = kind(file)  # one that is written in Python goes on where it failed
            if (other := fallback(error)) is None:
                raise
            return dumps_by(other, value)
        finally:
            made.clear_memo()  # it holds what it has pickled
            file.seek(0)
            file.truncate()

    return dumps


def cannot(error: BaseException) -> bool:
    """Tell whether an error is how pickle says that it cannot."""
    import pickle

    return isinstance(error, (pickle.PicklingError, AttributeError, TypeError))


def fallback(error: BaseException) -> type[pickle.Pickler] | None:
    """Return a class that pickles by value what ours cannot, if that is to be done after an error of ours."""
    return by_value() if by_value is not None and cannot(error) else None


def ours(lasting: bool = False) -> type[pickle.Pickler] | None:
    """Return a class that pickles as ``multiprocessing.reduction.ForkingPickler`` does.

    That one copies the table of all reducers for each pickle, which takes ten times as long as a small object does.
    This one looks into the two tables that it is made of.

    Args:
        lasting: It raises ``LoadedOnceError`` for what can be loaded only once.

    Returns:
        ``None`` where a program has put a class or a ``dumps`` of its own in the place of multiprocessing's: it may do
        so at any time, to pickle functions by value.
    """
    kind = _multiprocessings()
    key = kind, vars(kind).get("dumps") if kind is not None else None
    try:
        made = _picklers[key]
    except KeyError:
        home = "multiprocessing.reduction"
        own = kind is None or (kind.__module__ == home and kind.dumps.__module__ == home)
        made = _made(kind) if own else None
        _picklers.clear()  # what is not in its place any more
        _picklers[key] = made
    return made and made[lasting]


def theirs(value: object) -> bytes:
    """Pickle a value by what is in the place of multiprocessing's.

    Raises:
        Exception: What pickling raises.
    """
    return bytes(_multiprocessings().dumps(value))


def _multiprocessings() -> Any:
    """Return what is in the place of multiprocessing's pickler; ``None`` in a Python without it."""
    kind = getattr(sys.modules.get("multiprocessing.reduction"), "ForkingPickler", None)  # at each pickle: quickly
    if kind is None:
        try:
            from multiprocessing.reduction import ForkingPickler as kind  # noqa: N813
        except ImportError:  # then there is no worker either
            return None
    return kind


def _made(kind: Any) -> tuple[type[pickle.Pickler], type[pickle.Pickler]]:
    import copyreg
    import pickle
    from collections import ChainMap

    class Pickler(pickle.Pickler):
        dispatch_table: Any = copyreg.dispatch_table

    class Lasting(Pickler):
        pass

    if kind is None:
        return Pickler, Pickler
    reducers: Any = kind._extra_reducers
    Pickler.dispatch_table = ChainMap(reducers, copyreg.dispatch_table)
    Lasting.dispatch_table = _Lasting(reducers)
    return Pickler, Lasting

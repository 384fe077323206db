"""Pickling as process pools do it: with the reducers that are registered for ``multiprocessing``."""

from __future__ import annotations

TYPE_CHECKING = False  # all else is imported by who pickles: a pool of threads loads this module, too
if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable
    from typing import Any, Final

__all__ = ["NUMBERS", "TEXTS", "LoadedOnceError", "cannot", "dumper", "dumps", "dumps_by", "fallback", "pickler"]

#: Types of which a pickler remembers nothing, and of which one value is as good as another equal one.
NUMBERS: Final = frozenset({int, float, bool, type(None)})
#: Types that nobody can change, of any length.
TEXTS: Final = frozenset({str, bytes})
#: Finds a class that pickles by value, in a worker that does not have what the program's ``__main__`` defines, but got
#: it so: what the program gets back refers to that, and has to go by value, too. ``None`` elsewhere.
by_value: Callable[[], Any] | None = None
#: Classes by the one of ``multiprocessing`` that they do the work of: one entry. Each with the one that refuses what
#: can be loaded only once.
_picklers: dict[Any, tuple[type[pickle.Pickler], type[pickle.Pickler]]] = {}


def dumps(value: object) -> bytes:
    """Pickle a value.

    Raises:
        Exception: What pickling raises.
    """
    import io

    if (ours := _ours()) is None:
        return _theirs(value)
    file = io.BytesIO()
    try:
        ours(file).dump(value)
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

    if (ours := _ours(lasting)) is None:
        return _theirs
    file = io.BytesIO()
    made = ours(file)

    def dumps(value: object) -> bytes:
        nonlocal made
        try:
            made.dump(value)
            return file.getvalue()
        except BaseException as error:
            made = ours(file)  # one that is written in Python goes on where it failed
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


def pickler() -> type[pickle.Pickler]:
    """Return a class that pickles as ``multiprocessing.reduction.ForkingPickler`` does.

    That one copies the table of all reducers for each pickle, which takes ten times as long as a small object does.
    This one looks into the two tables that it is made of.
    """
    import copyreg
    import pickle
    from collections import ChainMap

    class Pickler(pickle.Pickler):
        dispatch_table: Any = copyreg.dispatch_table

    class Lasting(Pickler):
        pass

    try:
        from multiprocessing.reduction import ForkingPickler
    except ImportError:  # then there is no worker either
        return _picklers.setdefault(None, (Pickler, Pickler))[0]
    reducers: Any = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    Pickler.dispatch_table = ChainMap(reducers, copyreg.dispatch_table)
    Lasting.dispatch_table = _Lasting(reducers)
    return _picklers.setdefault(ForkingPickler, (Pickler, Lasting))[0]


def _ours(lasting: bool = False) -> type[pickle.Pickler] | None:
    """Return the class that pickles; ``None`` where a program has put its own in the place of multiprocessing's."""
    kind: Any = None
    try:
        from multiprocessing.reduction import ForkingPickler as kind  # noqa: N813
    except ImportError:
        pass
    else:
        home = "multiprocessing.reduction"
        if kind.__module__ != home or kind.dumps.__module__ != home:
            return None
    if kind not in _picklers:
        pickler()
    return _picklers[kind][lasting]


def _theirs(value: object) -> bytes:
    from multiprocessing.reduction import ForkingPickler

    return bytes(ForkingPickler.dumps(value))

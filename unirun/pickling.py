"""Pickling as process pools do it: with the reducers that are registered for ``multiprocessing``."""

from __future__ import annotations

TYPE_CHECKING = False  # all else is imported by who pickles: a pool of threads loads this module, too
if TYPE_CHECKING:
    import pickle
    from typing import Any

__all__ = ["dumps", "pickler"]

#: Classes by the one of ``multiprocessing`` that they do the work of: one entry.
_picklers: dict[Any, type[pickle.Pickler]] = {}


def dumps(value: object) -> bytes:
    """Pickle a value.

    Raises:
        Exception: What pickling raises.
    """
    import io

    try:
        from multiprocessing.reduction import ForkingPickler
    except ImportError:  # no multiprocessing on this Python
        import pickle

        return pickle.dumps(value)
    home = "multiprocessing.reduction"
    if ForkingPickler.__module__ != home or ForkingPickler.dumps.__module__ != home:
        return bytes(ForkingPickler.dumps(value))  # the program's own, in the place of the stdlib's
    file = io.BytesIO()
    (_picklers.get(ForkingPickler) or pickler())(file).dump(value)
    return file.getvalue()


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

    try:
        from multiprocessing.reduction import ForkingPickler
    except ImportError:  # then there is no worker either
        return Pickler
    reducers: Any = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    Pickler.dispatch_table = ChainMap(reducers, copyreg.dispatch_table)
    return _picklers.setdefault(ForkingPickler, Pickler)

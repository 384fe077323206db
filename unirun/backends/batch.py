"""What runs in a worker for a batch of a map's items: each by itself, as if it had been sent alone.

Guarantees:
    Items share nothing. Numbers and texts, which nobody can change, travel as they are; every other item and result is
    pickled by itself, and a function that is not pickled by its name is loaded anew for each item.
    What one item raises is that item's alone.
    A batch that takes longer than it should is cut short: what has not begun is left to others.
    An item that may wait for what was left is left, too.
"""

from __future__ import annotations

import pickle
import sys
import threading
from functools import partial
from types import BuiltinFunctionType, FunctionType, ModuleType

from unirun import clock
from unirun.backends.raised import pack, unpack, words
from unirun.backends.turns import leave, waits
from unirun.pickling import NUMBERS, TEXTS, dumper, dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

    from unirun.backends.turns import Left, News, Place

__all__ = ["PLAIN", "Done", "Timed", "by_name", "load", "run", "timed"]

#: Types of values that nobody can change, so that it does not matter who else has the same one.
PLAIN: Final = NUMBERS | TEXTS | {complex}
#: The time is asked for after so many items at most, while they take less than so many seconds on the average: that
#: takes as long as several short items do. And so does to see whether they are, hence after some strides.
_STRIDE: Final = 16
_TINY: Final = 1e-6
_STRIDES: Final = 8
#: Bytes of results in one batch, pickled ones and texts; what follows goes into another.
_BYTES: Final = 1 << 18
#: Bytes of a result on the average from which each is looked at before the next one.
_LARGE: Final = 1 << 10


# No named tuples: to make these two takes as long as all else that a first map has to import from here.


class Done:
    """What became of a batch.

    Args:
        results: The plain results, in order, and ``None`` in the place of the others; as many as have run.
        others: The others, pickled, by their places.
        seconds: How long the batch took.
        left: When that was noted, if some have not run.
    """

    __slots__ = ("left", "others", "results", "seconds")

    def __init__(self, results: list[Any], others: dict[int, bytes], seconds: float, left: Left | None) -> None:
        self.results: list[Any] = results
        self.others: dict[int, bytes] = others
        self.seconds: float = seconds
        self.left: Left | None = left

    def __reduce__(self) -> tuple[type[Done], tuple[Any, ...]]:
        return Done, (self.results, self.others, self.seconds, self.left)


class Timed:
    """What became of an item that was sent alone.

    Args:
        value: What the function returned.
        seconds: How long it took.
    """

    __slots__ = ("seconds", "value")

    def __init__(self, value: Any, seconds: float) -> None:
        self.value: Any = value
        self.seconds: float = seconds

    def __reduce__(self) -> tuple[type[Timed], tuple[Any, ...]]:
        return Timed, (self.value, self.seconds)


def timed(place: Place, news: News, fn: Any, /, *arguments: Any) -> Timed | Done:
    """Call a function with one item, unless that waits for what was left.

    Args:
        place: That of the item.
        news: What was heard when it was sent.
        fn: The function.
        arguments: The item.

    Raises:
        BaseException: What it raises.
    """
    if waits(place, news):
        return Done([], {}, 0.0, leave(place, news))
    begin = clock.now()
    return Timed(fn(*arguments), clock.now() - begin)


def run(
    fn: Any,
    items: Sequence[Any] | bytes,
    spread: bool,
    pickled: bool,
    limit: float,
    place: Place,
    news: News,
) -> Done:
    """Call a function with each item of a batch, or with the first ones, if these take long.

    Args:
        fn: The function; or pickled, if each item is to have its own; or ``None``, if each is pickled with it.
        items: What to call it with; or all of it in one pickle.
        spread: Each item is a tuple of arguments.
        pickled: Each item is pickled.
        limit: Seconds after which no further item is begun.
        place: That of the first item.
        news: What was heard when it was sent.

    Raises:
        KeyboardInterrupt: Ctrl-C in the course of an item that runs at the call, in the program's own main thread. In
            a worker it is the item's, and the batch ends with it.
    """
    if waits(place, news):
        return Done([], {}, 0.0, leave(place, news))
    if isinstance(items, bytes):
        items = pickle.loads(items)
    begin = now = clock.now()
    end, count = begin + limit, len(items)
    call = _caller(fn, spread, pickled)
    results: list[Any] = []
    others: dict[int, bytes] = {}
    size, measured, texts, stride = 0, 0, False, 1
    look, kind_of, kind, dump = clock.now, type, None, None  # local, as what is asked for so often
    while len(results) < count and now <= end and size <= _BYTES:
        try:
            while len(results) < count:
                before, small = now, size + _LARGE * _STRIDES * stride
                for first in range(len(results), min(len(results) + _STRIDES * stride, count), stride):
                    for item in items[first : first + stride]:
                        value = call(item)
                        if kind_of(value) is not kind:
                            kind = kind_of(value)
                            texts = texts or kind in TEXTS
                            if kind not in PLAIN:
                                kind = None
                                dump = dump or dumper()
                                packed = dump((value, None, None))
                                size += len(packed)
                                others[len(results)] = packed
                                value = None
                        results.append(value)
                    now = look()
                    if texts:
                        size += _length(results[measured:])
                        measured = len(results)
                    if now > end or size > _BYTES:
                        break
                else:
                    # Whatever the first items took, which load what they need: it shows when they become short.
                    short = now - before < _TINY * _STRIDES * stride and size < small
                    stride = min(2 * stride, _STRIDE) if short else 1
                    continue
                break
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if interrupted and _in_the_program():
                raise
            if len(results) == count:
                break  # it is nobody's
            dump = None  # the handler of a signal may have come in the middle of it
            below = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without this frame
            others[len(results)] = packed = dumps((None, *pack(error.with_traceback(below or error.__traceback__))))
            size += len(packed)
            results.append(None)
            now = look()
            if interrupted:
                break
    number, first = place
    left = leave((number, first + len(results)), news) if len(results) < count else None
    return Done(results, others, clock.now() - begin, left)


def _in_the_program() -> bool:
    """Tell whether this is the thread that Ctrl-C is for, and no worker's."""
    process: Any = sys.modules.get("multiprocessing.process")
    in_child = process is not None and process.parent_process() is not None
    return not in_child and threading.current_thread() is threading.main_thread()


def _length(values: list[Any]) -> int:
    """Return how long the texts among some results are together."""
    try:
        return sum(map(len, values))
    except TypeError:
        return sum(len(each) for each in values if type(each) in TEXTS)


def load(packed: bytes) -> Any:
    """Return a result that is not plain, in the parent.

    Raises:
        BaseException: What the item raised.
        BrokenProcessPool: What it returned or raised cannot be unpickled.
    """
    from unirun.backends.processes import BrokenProcessPool

    try:
        value, raised, text = pickle.loads(packed)
    except KeyboardInterrupt:
        raise  # the user's own, who waits here
    except BaseException as unloadable:
        raise BrokenProcessPool(f"the result could not be unpickled: {words(unloadable)}") from unloadable
    if raised is None:
        return value
    error = unpack(raised, text, BrokenProcessPool)
    try:
        raise error
    finally:
        del error  # its traceback holds this frame, which must not hold it; see GH-60488


def by_name(fn: Any) -> bool:
    """Tell whether a callable has no state of its own that a call could change, so that all items may share it."""
    if isinstance(fn, partial):
        values = (*fn.args, *fn.keywords.values())
        return type(fn) is partial and not fn.__dict__ and by_name(fn.func) and PLAIN.issuperset(map(type, values))
    if type(fn) is BuiltinFunctionType:
        return isinstance(getattr(fn, "__self__", None), (ModuleType, type, type(None)))  # and no bound method
    return type(fn) in (FunctionType, type)


def _caller(fn: Any, spread: bool, pickled: bool) -> Callable[[Any], Any]:
    """Return what to call with an item: as little as will do, since it counts for each."""
    loads = _loads
    if fn is None:
        return lambda item: _call(loads(item), spread)
    if isinstance(fn, bytes):
        return lambda item: _caller(loads(fn), spread, pickled)(item)
    if pickled:
        return (lambda item: fn(*loads(item))) if spread else lambda item: fn(loads(item))
    return (lambda item: fn(*item)) if spread else fn


def _loads(packed: bytes) -> Any:
    """Unpickle an item, or its function, in the worker: what cannot be would end one of the stdlib's pool."""
    try:
        return pickle.loads(packed)
    except KeyboardInterrupt:
        raise
    except BaseException as unloadable:
        from unirun.backends.processes import BrokenProcessPool

        raise BrokenProcessPool(f"the task could not be unpickled: {words(unloadable)}") from unloadable


def _call(pair: tuple[Any, Any], spread: bool) -> Any:
    fn, item = pair
    del pair  # the item is the call's alone
    return fn(*item) if spread else fn(item)

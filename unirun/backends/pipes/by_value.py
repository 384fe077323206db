"""Pickling a call: by name where that is enough, by value what workers would not find (lambdas, `__main__`)."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import cache
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

from unirun.backends.pipes import protocol
from unirun.pickling import cannot

__all__ = ["Parts", "by_value", "dump_call"]

#: What a builtin function is bound to that is no method: such a one is pickled as its name, by every pickler, as
#: functions are.
_UNBOUND: Final = (ModuleType, type(None))
#: What ``protocol.dump`` returns.
Parts = tuple[list[bytes], Sequence[memoryview | protocol.Placed]]


def dump_call(call: tuple[Any, tuple[Any, ...], dict[str, Any]], *, main_by_value: bool) -> Parts:
    """Pickle a function and its arguments.

    Args:
        call: The function, its arguments and its keyword arguments.
        main_by_value: What refers to ``__main__`` goes by value, too: workers do not find it there.

    Raises:
        Exception: What pickling raises.
    """
    try:
        fn, arguments, named = call
        if not named and _by_name(fn) and all(map(protocol.is_simple, arguments)):
            parts: Parts = [pickle.dumps(call, 5)], []
        else:
            parts = protocol.dump(call)
        if not (main_by_value and any(b"__main__" in chunk for chunk in parts[0])):
            return parts
    except Exception as error:
        if not cannot(error) or by_value() is None:
            raise
        try:
            return protocol.dump(call, by_value())
        except Exception as other:
            raise error from other  # as the stdlib's pool says it, on a host where that one can start
    return parts if by_value() is None else protocol.dump(call, by_value())


def _by_name(fn: Any) -> bool:
    kind = type(fn)
    return kind is FunctionType or (kind is BuiltinFunctionType and isinstance(getattr(fn, "__self__", None), _UNBOUND))


@cache
def by_value() -> Any:
    """Return a class like ``pickle.Pickler``, or ``None`` where it is not installed.

    Looked for when it is needed: most programs never do, and its import takes longer than that of this package.
    """
    try:
        from cloudpickle import Pickler
    except (ImportError, AttributeError):  # cloudpickle 3.1 cannot be imported on PyPy 3.11, which it says in this way
        return None
    return Pickler

"""What is pickled as `multiprocessing` pickles it is the same, to the byte; and a program may have its say."""

import copyreg
import errno
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from fractions import Fraction
from functools import partial
from multiprocessing import Lock, Pipe, reduction
from pathlib import Path
from typing import Any

import pytest

from unirun.backends.lowered import mentions_main
from unirun.backends.pipes import protocol
from unirun.pickling import dumper, dumps
from unirun.refusal import is_refusal

ROOT = Path(__file__).parents[2]


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def twice(self) -> int:
        return 2 * self.x


class Reduced:
    pass


@pytest.mark.parametrize(
    "value",
    [1, "text", (1, [2.5], {"a": None}), Point(3), len, dumps, ValueError("no"), [Point(1)] * 3, Point(1).twice],
)
def test_as_multiprocessing_does(value: Any) -> None:
    assert dumps(value) == bytes(reduction.ForkingPickler.dumps(value))


@pytest.mark.parametrize("value", [Lock(), threading.Lock(), lambda: None])
def test_what_cannot_be_pickled(value: Any) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011 - whichever it is
        reduction.ForkingPickler.dumps(value)
    with pytest.raises(type(expected.value), match=str(expected.value)[:20]):
        dumps(value)


def test_reducers_that_are_registered_later() -> None:
    """There, and with `copyreg`."""
    dumps(1)
    ours, theirs = Pipe()
    with ours, theirs:
        dumps(ours)  # multiprocessing has registered that
    reduction.register(Reduced, lambda _: (str, ("multiprocessing",)))
    try:
        assert pickle.loads(dumps(Reduced())) == "multiprocessing"
    finally:
        del reduction.ForkingPickler._extra_reducers[Reduced]  # type: ignore[attr-defined]
    copyreg.pickle(Reduced, lambda _: (str, ("copyreg",)))  # type: ignore[arg-type, return-value]
    try:
        assert pickle.loads(dumps(Reduced())) == "copyreg"
    finally:
        del copyreg.dispatch_table[Reduced]


def test_a_pickler_of_the_programs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(reduction.ForkingPickler):
        @classmethod
        def dumps(cls, obj: Any, protocol: Any = None) -> Any:
            return memoryview(b"own")

    class Other(pickle.Pickler):
        """As those of packages that pickle functions by value: of another class."""

        dumps = Own.dumps

    assert protocol.dump([1])[0] != [b"own"]
    for kind in (Own, Other):
        with monkeypatch.context() as patch:
            patch.setattr(reduction, "ForkingPickler", kind)
            assert dumps(1) == b"own"
            assert dumper()(1) == b"own"
            assert protocol.dump([1]) == ([b"own"], [])
    with monkeypatch.context() as patch:
        patch.setattr(reduction.ForkingPickler, "dumps", Own.dumps)
        assert dumps(1) == b"own"
        assert protocol.dump([1]) == ([b"own"], [])
    assert pickle.loads(dumps(1)) == 1
    assert pickle.loads(b"".join(protocol.dump([1])[0])) == [1]


def test_a_pickler_of_the_programs_own_from_the_beginning() -> None:
    """In its place before a pool is opened, with all that this loads."""
    code = """
import pickle
from multiprocessing import reduction

class Other(pickle.Pickler):
    dumps = staticmethod(lambda value: b"own")

reduction.ForkingPickler = Other
from unirun.backends.pipes import protocol
print(protocol.dump([1]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "([b'own'], [])\n", "")


def test_many_are_pickled_each_by_itself() -> None:
    """By one pickler, which refers to nothing of the one before, keeps nothing of it, and forgets one that failed."""
    dump = dumper()
    shared = ["the same"]
    kept = Point(1)
    gone = weakref.ref(kept)
    large = {"text": "x" * 200_000, "bytes": b"y" * 200_000, "array": bytearray(200_000)}
    broken = [large, lambda: None]
    for value in (shared, [shared, shared], Point(2), kept, large, broken, shared, 1, large):
        if value is broken:
            with pytest.raises((AttributeError, pickle.PicklingError)):
                dump(value)
        else:
            assert dump(value) == dumps(value)
    del kept, value
    gc.collect()
    assert gone() is None


class OfMain:
    """As if a script had defined it."""

    __module__ = "__main__"


@pytest.mark.parametrize(
    ("value", "does"),
    [
        ("if __name__ == '__main__':", False),
        (b"if __name__ == '__main__':", False),
        ({"source": ["if __name__ == '__main__':", 1]}, False),
        (Fraction(1, 2), False),
        ([partial(str.join, "__main__"), {"__main__": 3}], False),
        (OfMain, True),
        ([1, ("__main__", OfMain)], True),
    ],
    ids=["text", "bytes", "dict", "number", "partial", "class", "list"],
)
def test_a_word_in_the_data_is_no_reference(value: Any, does: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "OfMain", OfMain, raising=False)
    assert mentions_main(value) is does


def test_to_look_for_a_reference_keeps_nothing_open() -> None:
    """What a pickle of a connection refers to stays open until it is loaded."""
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        before = len(os.listdir("/dev/fd"))
        assert not mentions_main([writer], writer)
        assert len(os.listdir("/dev/fd")) == before


def test_what_a_signal_handler_raises_is_no_refusal() -> None:
    """It may come in the middle of a start, and has no number."""
    assert is_refusal("start", OSError(errno.EAGAIN, "as of a fork"))
    assert not is_refusal("start", TimeoutError("the program's own deadline"))

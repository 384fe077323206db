"""Which items of a map travel in one pickle: what nobody can change, and nothing else."""

import math
import pickle
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirun.maps import parcels as module
from unirun.maps.parcels import Parcels

#: Pickles that were made of the class below.
pickled: list[None] = []


class Large:
    """Takes room in its pickle."""

    def __reduce__(self) -> Any:
        pickled.append(None)
        return bytes, (b"x" * 100_000,)


numbers = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
others = st.one_of(
    st.lists(st.integers(), max_size=1), st.just(()), st.text(), st.complex_numbers(allow_nan=False), st.just(int)
)


@given(st.lists(numbers, min_size=1))
def test_numbers_go_in_one_pickle(items: list[Any]) -> None:
    parcel = Parcels(abs, False).pack(items)
    assert isinstance(parcel.items, bytes)
    assert (parcel.count, parcel.pickled) == (len(items), False)
    loaded = pickle.loads(parcel.items)
    assert loaded == items
    assert list(map(type, loaded)) == list(map(type, items))


@given(
    st.lists(numbers, max_size=5), st.lists(st.one_of(numbers, others), max_size=5), others.filter(lambda it: it != ())
)
def test_nothing_else_does(before: list[Any], after: list[Any], other: Any) -> None:
    """Wherever it is among them."""
    items = [*before, other, *after]
    parcel = Parcels(abs, False).pack(items)
    assert not isinstance(parcel.items, bytes)
    sent: list[Any] = list(parcel.items)
    if parcel.pickled:
        sent = list(map(pickle.loads, sent))
    assert sent == items[: parcel.count]


@pytest.mark.usefixtures("patient")
def test_what_follows_is_not_pickled_for_nothing() -> None:
    """Only as much as is written at once, before it is known that there are not only numbers."""
    pickled.clear()
    parcel = Parcels(abs, False).pack([1, *(Large() for _ in range(1000))])
    assert parcel.count == 2
    assert len(pickled) < 6


def test_large_texts_go_alone() -> None:
    """Without a look at all others each time."""
    parcels = Parcels(len, False)
    assert parcels.pack([b"x" * 70_000] * 3).count == 1
    assert parcels.alone
    parcels = Parcels(len, False)
    assert parcels.pack([b"x" * 700] * 300).count < 300
    assert not parcels.alone


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long pickling takes, it goes on."""
    monkeypatch.setattr(module, "_SECONDS", math.inf)


@pytest.mark.usefixtures("patient")
def test_after_large_items_small_ones_go_together_again() -> None:
    """How many go alone before that is tried doubles with each large one."""
    parcels, small = Parcels(len, False), (1, 2)

    def alone() -> int:
        count = 0
        while parcels.alone:
            parcels.single(small)
            count += 1
        return count

    counts = []
    for _ in range(4):
        assert parcels.pack([Large(), small, small]).count == 1
        counts.append(alone())
    assert counts == [64, 128, 256, 512]
    assert parcels.pack([small, small, Large()]).count == 3
    assert parcels.pack([Large(), small]).count == 1
    assert alone() == 64


def test_a_large_function_never_travels_with_several_items() -> None:
    parcels = Parcels(partial(len, b"x" * 100_000), False)
    for _ in range(100):
        assert parcels.pack([(), ()]).count == 1
        assert parcels.alone
        parcels.single(())


@pytest.mark.usefixtures("patient")
def test_memory_is_seen_to_be_large() -> None:
    """Such as an array: it is not pickled to find that out. The size of others says nothing about their pickles."""
    for spread in (False, True):
        parcels = Parcels(len, spread)
        large = bytearray(100_000)
        items: list[Any] = [(1, large), (2, 3)] if spread else [large, ()]
        assert parcels.pack(items).items == items[:1]
        assert parcels.alone
        large += b"and may become larger"
    assert Parcels(len, False).pack([[None] * 9_000, ()]).count == 2
    assert Parcels(len, False).pack([memoryview(bytes(10)), ()]).count == 1  # nobody can pickle it

"""What a worker does with a batch: how often it asks for the time, when it leaves off, and what each item gets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirun import clock
from unirun.backends import batch

LIMIT = 0.01
FIRST: Any = (1, 0), ((1, 1), {})  # of all items, and nothing was left


class Clock:
    """Stands still where no item moves it on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked = 0

    def now(self) -> float:
        self.asked += 1
        return self.seconds


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Clock:
    it = Clock()
    monkeypatch.setattr(clock, "now", it.now)
    return it


def test_slow_first_items_are_forgotten(stopped: Clock) -> None:
    """They load what all need, and have cold caches: that says nothing about the others."""

    def same(number: int) -> int:
        stopped.seconds += 1e-5 if number < 40 else 1e-7
        return number

    done = batch.run(same, range(8000), False, False, LIMIT, *FIRST)
    assert done.results == list(range(8000))
    assert stopped.asked < 1200  # every 16 items, but for the first ones


@pytest.mark.parametrize("short", [0, 1, 7, 1000, 4001])
def test_long_items_are_left_to_others(short: int, stopped: Clock) -> None:
    """Also where many short ones came before: a job goes on where it was interrupted, or all but the last is cached."""

    def same(number: int) -> int:
        stopped.seconds += 0.0 if number < short else LIMIT
        return number

    done = batch.run(same, range(8000), False, False, LIMIT / 2, *FIRST)
    assert done.results == list(range(len(done.results)))
    assert short < len(done.results) <= short + 16


def test_a_single_long_item_does_not_end_a_batch_that_has_time(stopped: Clock) -> None:
    def same(number: int) -> int:
        stopped.seconds += LIMIT / 4 if number == 500 else 0.0
        return number

    assert batch.run(same, range(1000), False, False, LIMIT, *FIRST).results == list(range(1000))


@given(st.lists(st.sampled_from(["number", "text", "list", "error"]), max_size=300))
def test_each_item_gets_what_it_would_alone(kinds: list[str]) -> None:
    """The list is one and the same, and changes with each item: what it was then is what counts."""
    shared: list[int] = []

    def work(item: tuple[int, str]) -> Any:
        number, kind = item
        shared.append(number)
        if kind == "error":
            raise LookupError(number)
        return {"number": number, "text": str(number), "list": shared}[kind]

    items = list(enumerate(kinds))
    expected: list[Any] = []
    for item in items:
        try:
            value = work(item)
            expected.append(list(value) if value is shared else value)
        except LookupError as error:
            expected.append(error.args)
    shared.clear()

    done = batch.run(work, items, False, False, 60.0, *FIRST)
    got: list[Any] = []
    for place, result in enumerate(done.results):
        try:
            got.append(batch.load(done.others[place]) if place in done.others else result)
        except LookupError as error:
            got.append(error.args)
    assert got == expected

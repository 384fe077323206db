"""The items of a map that wait to be sent: in order, without a gap in a batch, while others are taken."""

import random
from typing import Any

import pytest

from unirun.maps.unsent import Unsent

NEWS: Any = None


def test_what_is_being_taken_can_be_sent() -> None:
    gone: list[object] = []
    unsent, items = Unsent(gone), [0, 1]
    unsent.add(0, items)
    assert (unsent.cut(5, NEWS).items, len(unsent)) == ([0, 1], 0)
    items += [2, 3, 4]
    assert (unsent.cut(2, NEWS).items, len(unsent)) == ([2, 3], 1)
    assert gone == []
    assert (unsent.seal(), len(unsent)) == (5, 1)
    assert (unsent.cut(2, NEWS).items, len(unsent)) == ([4], 0)
    assert gone == [items]


def test_what_was_sent_as_it_was_taken_is_let_go_of() -> None:
    gone: list[object] = []
    unsent = Unsent(gone)
    unsent.add(0, [0, 1])
    unsent.cut(2, NEWS)
    assert unsent.seal() == 2
    assert gone == [[0, 1]]
    assert unsent.seal() == 0  # nothing is being taken


def test_items_that_do_not_follow_one_another_are_two_batches() -> None:
    """One was sent meanwhile that comes between them."""
    unsent = Unsent([])
    unsent.add(0, range(10))
    unsent.seal()
    first, second = unsent.cut(4, NEWS), unsent.cut(4, NEWS)
    unsent.put_back(first.number, 2, first.items[2:])
    unsent.add(10, (10, 11))
    unsent.seal()
    batches = [unsent.cut(8, NEWS) for _ in range(2)]
    assert [(batch.start, [*batch.items]) for batch in batches] == [(2, [2, 3]), (8, [8, 9, 10, 11])]
    assert (second.start, len(unsent)) == (4, 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_what_comes_back_is_sent_in_order(order: tuple[int, ...]) -> None:
    """Before what was never sent, whichever came back first, and with the numbers of the tasks in which it was."""
    unsent = Unsent([])
    unsent.add(0, range(20))
    unsent.seal()
    sent = [unsent.cut(4, NEWS) for _ in range(3)]
    for each in order:
        unsent.put_back(sent[each].number, sent[each].start + 2, sent[each].items[2:])
    again = [unsent.cut(4, NEWS) for _ in range(3)]
    assert [batch.start for batch in again] == [2, 6, 10]
    assert [batch.number for batch in again] == [batch.number for batch in sent]
    assert unsent.cut(20, NEWS).number > again[-1].number


@pytest.mark.parametrize("seed", range(20))
def test_every_item_is_cut_once(seed: int) -> None:
    """However they are taken, cut, and put back."""
    chance, unsent, taken = random.Random(seed), Unsent([]), 0
    sent: list[int] = []
    items: list[int] = []
    unsent.add(0, items)
    while taken < 500 or len(unsent):
        if taken < 500:
            if chance.random() < 0.3:
                unsent.seal()
                items = []
                unsent.add(taken, items)
            count = chance.randrange(6)
            items.extend(range(taken, taken + count))
            taken += count
        if len(unsent):
            batch = unsent.cut(chance.randrange(1, 20), NEWS)
            assert [*batch.items] == list(range(batch.start, batch.start + batch.count))
            kept = chance.randrange(1, batch.count + 1) if chance.random() < 0.3 else batch.count
            sent += batch.items[:kept]
            if kept < batch.count:
                unsent.put_back(batch.number, batch.start + kept, batch.items[kept:])
    assert sorted(sent) == list(range(taken))

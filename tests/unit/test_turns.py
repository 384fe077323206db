"""Who may begin an item of a map: no worker that has left an earlier one, of which the map had not heard."""

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.columns import FORKING
from tests.conformance.quiet import exit_status
from tests.conformance.tasks import square
from unirun.backends import batch, turns
from unirun.backends.turns import Heard, leave, waits


def test_later_items_wait_until_it_was_heard_of_what_was_left() -> None:
    heard = Heard()
    before = heard.news
    assert not waits((7, 0), before)
    left = leave((5, 3), before)
    assert waits((7, 0), before)
    assert not waits((5, 3), before)  # they are what was left
    assert not waits((4, 9), before)
    heard.hear(left)
    assert not waits((7, 0), heard.news)
    assert waits((7, 0), before)  # it was sent before, and arrives after others that were not


def test_what_waits_is_left_too() -> None:
    heard = Heard()
    before = heard.news
    first = leave((5, 3), before)
    ways: list[Callable[..., Any]] = [
        lambda news: batch.run(square, [1, 2], False, False, 60.0, (7, 10), news),
        lambda news: batch.timed((8, 12), news, square, 3),
    ]
    left = [way(before).left for way in ways]
    heard.hear(first)
    assert waits((9, 0), heard.news)
    for each in left:
        heard.hear(each)
    assert not waits((9, 0), heard.news)
    assert [ways[0](heard.news).results, ways[1](heard.news).value] == [[1, 4], 9]


def test_what_was_left_of_another_executor_does_not_matter() -> None:
    """Whose workers these are now, or whose tasks run in this process, too."""
    leave((5, 3), Heard().news)
    assert not waits((7, 0), Heard().news)


@FORKING
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_fork_of_a_worker_has_left_nothing() -> None:
    news = Heard().news
    leave((5, 3), news)
    if (child := os.fork()) == 0:
        try:
            os._exit(waits((7, 0), news))
        except BaseException:
            os._exit(2)
    assert exit_status(child) == 0


def test_what_is_heard_twice_changes_nothing() -> None:
    heard = Heard()
    first, second = leave((5, 3), heard.news), leave((4, 0), heard.news)
    for each in (first, first, second, first):
        heard.hear(each)
    assert not waits((7, 0), heard.news)


def test_each_thread_is_a_worker_of_its_own() -> None:
    """In a pool that has come down to threads. That one was heard says nothing about another."""
    heard = Heard()
    before = heard.news
    leave((5, 3), before)
    others: list[Any] = []

    def other() -> None:
        others.append((waits((7, 0), before), leave((7, 0), before)))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    (waited, left), *_ = others
    assert not waited
    heard.hear(left)
    assert waits((7, 0), heard.news)


def test_a_worker_does_not_remember_for_ever() -> None:
    executors = [Heard().news for _ in range(100)]
    for number in range(1000):
        for news in executors[number % 2 :: 2]:
            leave((number, 0), news)
    kept = turns._me().left
    assert len(kept) < 10
    assert all(len(each) < 300 for each in kept.values())
    assert waits((1001, 0), executors[-1])


def test_a_program_does_not_remember_for_ever() -> None:
    """Of workers that died, and others took their places."""
    heard = Heard()
    mine = leave((5, 3), heard.news)
    for number in range(1000):
        heard.hear((number, 1))
    heard.hear(mine)
    assert len(heard.news[1]) < 200
    assert not waits((7, 0), heard.news)

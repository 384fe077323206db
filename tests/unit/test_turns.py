"""Who may begin an item of a map: no worker that has left an earlier one, of which the map had not heard."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.tasks import square
from unirun.backends import batch, turns
from unirun.backends.turns import Heard, leave, waits


@pytest.fixture(autouse=True)
def _worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is a worker that has left nothing."""
    monkeypatch.setattr(turns, "_left", {})


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_fork_of_a_worker_has_left_nothing() -> None:
    news = Heard().news
    leave((5, 3), news)
    if (child := os.fork()) == 0:
        os._exit(waits((7, 0), news))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_is_heard_late_or_twice_changes_nothing() -> None:
    heard = Heard()
    first, second = leave((5, 3), heard.news), leave((4, 0), heard.news)
    for each in (second, first, second):
        heard.hear(each)
    assert not waits((7, 0), heard.news)


def test_a_worker_does_not_remember_for_ever() -> None:
    news = Heard().news
    for number in range(1000):
        leave((number, 0), news)
    assert len(turns._left[os.getpid()]) < 300
    assert waits((1001, 0), news)

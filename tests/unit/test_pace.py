"""How many items go in a batch, and how many batches are on their way."""

import pytest

from unirun.maps.pace import AHEAD, LIMIT, WINDOW, Pace


@pytest.mark.parametrize(
    ("seconds", "size", "batches"),
    [(None, 10, AHEAD), (1e-7, 10, WINDOW), (1e-7, 10_000, 5), (1.0, 10, AHEAD), (1e-5, 150, 3)],
)
def test_short_batches_are_sent_further_ahead(seconds: float | None, size: int, batches: int) -> None:
    """Those of a ``chunksize`` that the caller gives: some five milliseconds of work for each worker."""
    assert Pace(2, seconds).ahead(size) == batches


def test_two_milliseconds_go_in_one_piece() -> None:
    pace = Pace(2, 1e-7)
    assert [pace.wanted(20_000, None), pace.wanted(10_000, None)] == [10_000, 10_000]


def test_more_goes_in_rounds_that_become_smaller() -> None:
    pace, left, sizes = Pace(2, 1e-6), 16_000, []
    while left:
        sizes.append(pace.wanted(left, None))
        left -= sizes[-1]
    assert sizes == [4000, 4000, 2000, 2000, 1000, 1000, 1000, 1000]


def test_what_a_host_held_up_is_averaged_for_later_maps() -> None:
    pace = Pace(2, None)
    pace.learn(0.001, 10_000, 10_000)
    pace.learn(0.005, 10_000, 10_000)
    assert pace.seconds == pytest.approx(5e-7)
    assert pace.average == pytest.approx(3e-7)


def test_a_batch_that_was_cut_short_may_hold_others_like_it() -> None:
    pace = Pace(2, 1e-7)
    pace.learn(1.0, 500, 10_000)
    assert pace.seconds == 1.0 > LIMIT
    assert pace.wanted(10_000, None) == 1


def test_a_clock_that_stands_still() -> None:
    pace = Pace(1, None)
    pace.learn(0.0, 1, 1)
    assert pace.wanted(100, None) == 100
    assert pace.ahead(100) == WINDOW
    assert Pace(1, pace.average).wanted(100, None) == 100

"""The line of tasks over pipes: who comes back stands where he stood."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from unirun.backends.pipes.line import Line
from unirun.backends.pipes.task import Task


def task(*place: int) -> Task:
    nobody: Any = None
    return Task(nobody, abs, (), {}, None, (place[0], place[1] if place[1:] else 0))


def places(line: Line) -> list[tuple[int, ...]]:
    return [each.place for each in line]


def test_those_that_come_back_stand_where_they_stood() -> None:
    line = Line(map(task, [2, 5, 9]))
    mine = dict(enumerate(map(task, [1, 4, 6, 10])))
    line.put_back([*mine.values()], map(mine.pop, [*mine]))
    assert places(line) == [(number, 0) for number in (1, 2, 4, 5, 6, 9, 10)]
    assert not mine


def test_new_ones_stand_where_they_join() -> None:
    """Whichever was made first, in another thread."""
    line = Line()
    nobody: Any = None
    first, second = (Task(nobody, abs, (), {}) for _ in range(2))
    line.join(second)
    line.join(first)
    assert list(line) == [second, first]
    assert second.place < first.place


def test_what_was_left_of_a_task_comes_before_what_was_submitted_later() -> None:
    line = Line(map(task, [3, 4]))
    for new in (task(2, 8), task(5), task(2, 7), task(2, 9)):
        line.join(new)
    assert places(line) == [(2, 7), (2, 8), (2, 9), (3, 0), (4, 0), (5, 0)]


def test_none_waits_behind_a_later_one_in_a_worker() -> None:
    line = Line()
    worker: Any = SimpleNamespace(tasks={})
    assert not line.passes(worker)
    worker.tasks = {1: task(3), 2: task(6)}
    assert not line.passes(worker)
    line.join(task(7))
    assert not line.passes(worker)
    line.join(task(5))
    assert line.passes(worker)


@pytest.mark.parametrize("seed", range(20))
def test_it_stays_in_order(seed: int) -> None:
    """However many are taken, and by whom, who brings back some of them."""
    chance, line = random.Random(seed), Line()
    workers: list[dict[int, Any]] = [{}, {}, {}]
    for number in range(300):
        line.join(task(number))
        worker = chance.choice(workers)
        for _ in range(chance.randrange(4)):
            if line:
                first = line.popleft()
                worker[next(iter(first.place))] = first
        if chance.random() < 0.2:
            back = sorted(worker)[chance.randrange(3) :]
            line.put_back([worker[each] for each in back], map(worker.pop, back))
        assert places(line) == sorted(places(line))
    assert len(line) + sum(map(len, workers)) == 300

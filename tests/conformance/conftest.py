"""What the tests of the executor contract share: executors that are always closed, gates that are always opened."""

import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

import pytest

import unirun
from tests.conformance import tasks
from tests.conformance.columns import Column
from tests.conformance.quiet import await_quiet, light_main
from tests.conformance.tasks import Gate, Journal


class Make(Protocol):
    """The type of the fixture ``make``."""

    def __call__(self, max_workers: int | None = 2, **arguments: Any) -> Executor:
        """Return a new executor of the test's column, as ``Column.open`` does."""


@pytest.fixture(scope="package", autouse=True)
def main_module() -> Iterator[None]:
    """Spare workers the import of pytest."""
    with light_main():
        yield


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves threads or processes behind, and give the next one a quiet process to fork."""
    before = set(threading.enumerate())
    yield
    unirun.reset()  # what `Run` keeps for its next scope
    await_quiet(before)


@pytest.fixture
def make(column: Column) -> Iterator[Make]:
    """Make executors of the test's column; at the end they are shut down, and waited for."""
    made: list[Executor] = []

    def make(max_workers: int | None = 2, **arguments: Any) -> Executor:
        made.append(column.open(max_workers, **arguments))
        return made[-1]

    yield make
    while made:  # emptied: pytest keeps what fixtures return, and so what that refers to, for a little longer
        made.pop().shutdown(wait=True, cancel_futures=True)


@pytest.fixture
def pool(make: Make) -> Executor:
    """An executor of the test's column with two workers."""
    return make()


@pytest.fixture
def single(make: Make) -> Executor:
    """An executor of the test's column with one worker: a task that is held holds up all others."""
    return make(1)


@pytest.fixture
def gate(tmp_path: Path, make: Make) -> Iterator[Gate]:
    """A closed gate; opened at the end, before the executors made are waited for."""
    folder = tmp_path / "gate"
    folder.mkdir()
    gate = Gate(str(folder))
    yield gate
    gate.open()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path / "journal"))


@pytest.fixture
def state() -> Iterator[None]:
    """Clear what initializers set: on a lower rung it is set in this process."""
    tasks.forget_state()
    yield
    tasks.forget_state()

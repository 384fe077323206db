"""What the tests of pools over pipes have in common."""

import threading
from collections.abc import Iterator

import pytest

from tests.conformance.quiet import await_quiet


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail if a thread or a process of a pool is left."""
    before = set(threading.enumerate())
    yield
    await_quiet(before)

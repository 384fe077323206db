"""What all tests share: a clean state before and after each, and the count of those skipped."""

import os
from collections.abc import Iterator

import pytest

import unirun
from unirun import config, leases

pytest_plugins = ["tests.hosts.fixtures"]


@pytest.fixture(autouse=True)
def clean_state(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test the defaults and no pool of another's; the seed's own tests keep their environment."""
    if not request.node.get_closest_marker("keeps_environment"):
        for name in [name for name in os.environ if name.startswith("UNIRUN_")]:
            monkeypatch.delenv(name)
    before = config.configure()
    yield
    unirun.reset()
    config.configure(before)
    assert leases.cached() == 0, "a cached pool survived reset()"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped, also where it is none."""
    terminalreporter.write_line(f"skipped tests: {len(terminalreporter.stats.get('skipped', []))}")

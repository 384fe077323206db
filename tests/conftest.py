"""What all tests share: a clean state before and after each, and the count of those skipped."""

import gc
import os
import signal
import sys
from collections.abc import Iterator

import hypothesis
import pytest

import unirun
from unirun import config, leases
from unirun.backends.pipes import ear

pytest_plugins = ["tests.hosts.fixtures"]

# An example that takes long on a machine that others use says nothing about the code.
hypothesis.settings.register_profile("unirun", deadline=None)
hypothesis.settings.load_profile("unirun")


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
    if semaphores_alive():
        gc.collect()


@pytest.fixture(autouse=True)
def listening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the main thread hear workers although pytest-timeout has a handler for a signal: it waits for nobody."""
    if hasattr(signal, "SIGALRM"):
        monkeypatch.setattr(ear, "_HARMLESS", ear._HARMLESS | {signal.getsignal(signal.SIGALRM)})


@pytest.fixture(autouse=True)
def hears_ctrl_c() -> Iterator[None]:
    """No test leaves it blocked in the main thread, where a worker's start blocks it for a while."""
    yield
    if hasattr(signal, "pthread_sigmask"):
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        assert signal.SIGINT not in blocked, "Ctrl-C was left blocked"


def semaphores_alive() -> bool:
    """Tell whether a pool that has ended still has its semaphores, in the frames of an exception that a test looked at.

    They are then collected between two tests. Before 3.14, and in older patches of 3.13, a collector that meets them
    while multiprocessing's tracker starts gets a warning and leaves them in the system, for the stdlib's pools as well.
    """
    util, synchronize = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.synchronize")
    if util is None or synchronize is None:
        return False
    cleanup = synchronize.SemLock._cleanup
    return any(each._callback is cleanup for each in list(util._finalizer_registry.values()))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Run one more test at once than there are processors, as many tests wait."""
    return len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) + 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped, also where it is none."""
    terminalreporter.write_line(f"skipped tests: {len(terminalreporter.stats.get('skipped', []))}")

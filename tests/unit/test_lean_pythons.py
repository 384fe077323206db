"""Pythons that lack a part of the standard library, or a facility of the system's: a lower rung, and no error."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unirun.backends import repairs
from unirun.backends.pipes import arena

ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="only there is a resource tracker")

WITHOUT = """
import sys, warnings
for part in {parts}:
    sys.modules[part] = None
warnings.simplefilter("ignore")
"""

SCOPES = """
import asyncio
from unirun import Run, RuntimeConfig, cli, to_process
from unirun.compat.concurrent import futures

def main():
    for scope in (Run(flavor="processes", max_workers=1), futures.ProcessPoolExecutor(1)):
        with scope as executor:
            assert list(executor.map(abs, [-1, -2])) == [1, 2]
            backend = executor.decision.backend
        print(backend)
    assert asyncio.run(to_process(abs, -3)) == 3
    with Run(flavor="threads") as executor:
        assert executor.submit(abs, -4).result() == 4
    with open("report", "w") as sys.stdout:
        assert cli.main(["doctor", "--try"]) == 0
    sys.stdout = sys.__stdout__

if __name__ == "__main__":
    main()
"""

HOOKED = """
from unirun import autopatch
autopatch.install()
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
        print(executor.decision.backend)
"""


def run(tmp_path: Path, parts: list[str], code: str, **env: str) -> str:
    """Return what a program prints in a Python without those parts."""
    program = tmp_path / "program.py"
    program.write_text(WITHOUT.format(parts=parts) + code)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_multiprocessing(tmp_path: Path) -> None:
    """OpenWrt and Yocto have it in a package of its own."""
    assert run(tmp_path, ["multiprocessing", "_multiprocessing"], SCOPES) == "threads\nthreads\n"
    assert run(tmp_path, ["multiprocessing", "_multiprocessing"], HOOKED) == "threads\n"


@POSIX
def test_without_mmap(tmp_path: Path) -> None:
    """The pool over pipes is not to be had then, but the stdlib's."""
    assert run(tmp_path, ["mmap"], SCOPES, UNIRUN_START_METHOD="fork") == "processes\nprocesses\n"


@POSIX
@pytest.mark.parametrize("part", ["resource", "sysconfig"])
def test_warm_pools_without(part: str, tmp_path: Path) -> None:
    """Which are what it is asked for, to see whether a pool is as good as new: no reason for a task to fail."""
    assert run(tmp_path, [part], SCOPES, UNIRUN_START_METHOD="spawn") == "pipes\nprocesses\n"


def test_without_a_resource_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, whose Python has the module, but nothing that it needs."""

    def fail() -> None:
        raise ModuleNotFoundError("No module named '_posixsubprocess'", name="_posixsubprocess")

    from multiprocessing import resource_tracker

    monkeypatch.setattr(resource_tracker, "ensure_running", fail)
    with monkeypatch.context() as there:
        there.setattr(os, "name", "nt")
        repairs.ensure_tracker()
    with pytest.raises(ModuleNotFoundError):
        repairs.ensure_tracker()


def test_without_a_way_to_give_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FreeBSD, which has the other half of it."""
    monkeypatch.delattr(mmap, "MADV_REMOVE", raising=False)
    assert arena.opened(lambda: None) is None


@POSIX
def test_a_helper_leaves_ctrl_c_blocked(tmp_path: Path) -> None:
    """A program that waits for it in a thread of its own has blocked it; workers are to have it blocked, too."""
    code = """
import multiprocessing, signal
from unirun.backends import repairs
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
repairs.ensure_helpers(multiprocessing.get_context("spawn"))
print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    assert run(tmp_path, [], code) == "True\n"

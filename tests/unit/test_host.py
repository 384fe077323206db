"""Host facts: true here, read without a trace, and the container's CPU quota in both versions of cgroups."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from multiprocessing import spawn
from pathlib import Path

import pytest

from unirun import host
from unirun.refusal import Failure


def test_the_facts_of_this_machine() -> None:
    facts = host.probe()
    assert facts.implementation == sys.implementation.name
    assert facts.version == ".".join(map(str, sys.version_info[:3]))
    assert facts.usable_cpus is not None
    assert 1 <= facts.usable_cpus <= (os.cpu_count() or 1)
    assert set(facts.start_methods) == set(multiprocessing.get_all_start_methods())
    assert facts.default_start_method in facts.start_methods
    assert not facts.daemonic
    assert not facts.bootstrapping
    assert not facts.subinterpreter
    assert facts == host.probe()


def test_a_probe_starts_and_leaves_nothing() -> None:
    host.forget()
    shm = Path("/dev/shm")
    before = set(shm.glob("*-probe*"))  # other semaphores come and go with other programs
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    threads = threading.active_count()
    host.probe()
    assert set(shm.glob("*-probe*")) <= before
    assert threading.active_count() == threads
    assert not multiprocessing.active_children()
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_what_lasts_is_remembered_until_forgotten() -> None:
    why = Failure(backend="processes", stage="construct", error="OSError", errno=38, message="no")
    host.remember(why)
    assert host.probe().no_processes == why
    host.forget()
    assert host.probe().no_processes is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity")
def test_the_cpus_are_those_of_now() -> None:
    """A process can change its own affinity, and somebody else the quota of its cgroup."""
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert host.probe().usable_cpus == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert host.probe().usable_cpus == min(len(mine), host.cpu_quota() or len(mine))


def in_a_child(queue: "multiprocessing.Queue[bool]") -> None:
    """Tell whether this process counts as daemonic."""
    queue.put(host.probe().daemonic)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_looks_for_itself() -> None:
    assert not host.probe().daemonic
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_a_child, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=30)
    child.join(30)
    queue.close()
    queue.join_thread()


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [(["-c"], None, "interactive"), (["-"], "SOURCE", "missing"), (["FILE"], None, "importable")],
)
def test_what_workers_can_import_of_main(
    tmp_path: Path, arguments: list[str], stdin: str | None, expected: str
) -> None:
    source = "from unirun import host; print(host.probe().main)"
    file = tmp_path / "program.py"
    file.write_text(source)
    arguments = [str(file) if a == "FILE" else a for a in arguments]
    answer = subprocess.run(
        [sys.executable, *arguments, *([source] if arguments == ["-c"] else [])],
        input=source if stdin else None,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(host.__file__).parents[1])},
    )
    assert answer.stdout.split() == [expected], answer.stderr


def test_an_executable_that_the_program_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it must where it embeds an interpreter; a fork server that runs needs none."""
    assert host.probe().executable
    monkeypatch.setattr("multiprocessing.forkserver._forkserver._forkserver_pid", None)
    before = spawn.get_executable()
    try:
        spawn.set_executable("/nowhere/python")
        assert not host.probe().executable
        spawn.set_executable(sys.executable)
        monkeypatch.setattr(sys, "executable", None)
        assert host.probe().executable
    finally:
        spawn.set_executable(before)


@pytest.mark.parametrize("loaded", ["before", "meanwhile"])
@pytest.mark.parametrize("name", ["exists", "stat"])
def test_what_a_program_s_tests_put_in_place_of_the_system_s(tmp_path: Path, loaded: str, name: str) -> None:
    file = tmp_path / "program.py"
    file.write_text(
        textwrap.dedent(
            f"""
            import multiprocessing.spawn, os
            from unittest import mock
            if {loaded == "before"}:
                from unirun import host
            patches = {{
                "exists": mock.patch("os.path.exists", return_value=False),
                "stat": mock.patch("os.stat", side_effect=FileNotFoundError),
            }}
            with patches["{name}"]:
                from unirun import host
                print(host.probe().executable, host.probe().main)
            print(host.probe().executable, host.probe().main)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(host.__file__).parents[1])}
    answer = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60, env=environment)
    assert answer.stdout.split() == ["True", "importable"] * 2, answer.stderr


Files = Callable[[dict[str, str]], tuple[Path, Path]]


@pytest.fixture
def cgroups(tmp_path: Path) -> Files:
    """Write a made-up /sys/fs/cgroup and /proc/self/cgroup."""

    def write(files: dict[str, str]) -> tuple[Path, Path]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "sys", tmp_path / "own"

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"own": "0::/\n", "sys/cpu.max": "max 100000\n"}, None),
        ({"own": "0::/\n", "sys/cpu.max": "200000 100000\n"}, 2),
        ({"own": "0::/\n", "sys/cpu.max": "150000 100000\n"}, 2),
        ({"own": "0::/\n", "sys/cpu.max": "10000 100000\n"}, 1),
        ({"own": "0::/a/b\n", "sys/a/b/cpu.max": "max 100000", "sys/a/cpu.max": "300000 100000"}, 3),
        ({"own": "0::/a/b\n", "sys/a/b/cpu.max": "400000 100000", "sys/a/cpu.max": "300000 100000"}, 3),
        ({"own": "0::/../outside\n", "sys/cpu.max": "200000 100000\n"}, 2),
        (
            {"own": "4:cpu,cpuacct:/x\n", "sys/cpu/x/cpu.cfs_quota_us": "-1", "sys/cpu/x/cpu.cfs_period_us": "100000"},
            None,
        ),
        (
            {
                "own": "9:memory:/x\n4:cpu,cpuacct:/x\n0::/\n",
                "sys/cpu,cpuacct/x/cpu.cfs_quota_us": "250000",
                "sys/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            {"own": "1:cpu:/gone\n", "sys/cpu/cpu.cfs_quota_us": "50000", "sys/cpu/cpu.cfs_period_us": "100000"},
            1,
        ),
        ({"own": "0::/\n", "sys/cpu.max": "what is this\n"}, None),
        ({"own": "garbage\n"}, None),
        ({}, None),
    ],
)
def test_the_cpu_quota(cgroups: Files, files: dict[str, str], expected: int | None) -> None:
    root, own = cgroups(files)
    assert host.cpu_quota(str(root), str(own)) == expected


def test_another_thread_is_importing_what_starts_interpreters() -> None:
    """Which is waited for: half of it cannot be asked."""
    program = """
        import importlib.machinery, sys, threading, time
        from unirun import host

        begun = threading.Event()

        class Slow(importlib.machinery.PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                spec = super().find_spec(name, path, target)
                if name == "multiprocessing.spawn":
                    execute = spec.loader.exec_module
                    spec.loader.exec_module = lambda module: (begun.set(), time.sleep(0.5), execute(module))
                return spec

        sys.meta_path.insert(0, Slow)
        assert "multiprocessing.spawn" not in sys.modules
        thread = threading.Thread(target=__import__, args=("multiprocessing.spawn",))
        thread.start()
        begun.wait()
        assert host.probe().executable
        thread.join()
        """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        timeout=60,
    )

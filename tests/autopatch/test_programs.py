"""Programs that nobody here wrote, as they come from the registry: the same with the hook, also where hosts refuse."""

from __future__ import annotations

import json
import marshal
import multiprocessing
import re
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.autopatch import pairs
from tests.autopatch.pairs import PROGRAMS, Pair
from tests.autopatch.venvs import Venv
from tests.hosts.fixtures import OnHost
from tests.lower import lower

#: What each host answers to those who ask it for a semaphore.
SEMAPHORES: Final = {"sem-enosys": 38, "sem-enoent": 2, "sem-eacces": 13, "sem-enospc": 28, "shm-readonly": 30}
#: What programs run in on a host that refuses them the stdlib's process pool.
BACKENDS: Final = {
    **dict.fromkeys(SEMAPHORES, "pipes"),
    "fork-refused": lower(),
    **dict.fromkeys(("threads-refused", "nothing", "nproc"), "inline"),
}
#: With a lock of multiprocessing's, `tqdm` fails on such hosts whatever pool it gets.
HELPED: Final = ("black", "compileall", "tqdm-own-lock", "yapf")
#: What dies without the hook where there are no semaphores. What black does there is its own fallback.
DYING: Final = ("compileall", "tqdm-own-lock", "yapf", "elasticsearch")
#: By another method, a process is needed before the pool is there, and then black falls back here too.
DYING_OF_FORK: Final = HELPED if multiprocessing.get_all_start_methods()[0] == "fork" else HELPED[1:]
#: On one refusing host, and on the healthy one, as many files as a project may have.
MANY, FEW = 500, 20
WARNING: Final = re.compile(r"[^|\n]*:\d+: DowngradeWarning: (.*)\n(?:  .*\n)?")  # a progress bar may stand before it


@dataclass(frozen=True)
class Result:
    """What a user sees of a run, the warnings aside."""

    returncode: int
    stdout: list[str]
    stderr: list[str]
    files: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run, and what unirun said of it."""

    result: Result
    last_line: str
    warnings: list[str]
    decisions: list[dict[str, Any]]


@pytest.fixture(scope="module")
def pair(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pairs.create(tmp_path_factory.mktemp("programs"), wheels)


Expected = Callable[[str, int], Result]


@pytest.fixture(scope="module")
def plain_results() -> dict[tuple[str, int], Result]:
    """Keep what came out on a healthy host without the hook: run once for all tests."""
    return {}


@pytest.fixture
def expected(on_host: OnHost, pair: Pair, tmp_path: Path, plain_results: dict[tuple[str, int], Result]) -> Expected:
    """Return a function that gives what comes out on a healthy host without the hook."""

    def run_once(name: str, files: int) -> Result:
        if (name, files) not in plain_results:
            done = run(on_host, "healthy", pair.plain, name, files, tmp_path / "plain")
            assert (done.result.returncode, done.warnings, done.decisions) == (PROGRAMS[name].returncode, [], [])
            plain_results[name, files] = done.result
        return plain_results[name, files]

    return run_once


def run(on_host: OnHost, host: str, venv: Venv, name: str, files: int, folder: Path) -> Run:
    """Run a program in a folder, with as many files to work on."""
    pairs.prepare(folder, PROGRAMS[name], files)
    for path in (folder, folder / "tree"):
        path.chmod(0o777)  # one host has another user
    trace = folder / "trace.jsonl"
    outcome = on_host(
        host,
        [str(venv.python), *PROGRAMS[name].argv],
        env=pairs.settings(folder) | {"UNIRUN_TRACE": str(trace)},
        cwd=folder,
        timeout=120,
    )
    assert outcome.left_behind == ()
    stderr = outcome.stderr.replace(str(folder), "")
    return Run(
        result=Result(
            returncode=outcome.returncode,
            stdout=sorted(outcome.stdout.splitlines()),  # which file is done first is nobody's choice
            stderr=sorted(WARNING.sub("", stderr).splitlines()),
            files={str(path.relative_to(folder)): content(path) for path in (folder / "tree").rglob("*.*")},
        ),
        last_line=stderr.rstrip().rpartition("\n")[2],
        warnings=WARNING.findall(stderr),
        decisions=[json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else [],
    )


def content(path: Path) -> Any:
    """Return what is in a file; of a compiled one as code, as its bytes depend on what else that shares."""
    if path.suffix == ".py":
        return path.read_text()
    data = path.read_bytes()
    return data[:16], marshal.loads(data[16:])


@pytest.mark.parametrize("name", PROGRAMS)
def test_on_a_healthy_host(on_host: OnHost, pair: Pair, tmp_path: Path, expected: Expected, name: str) -> None:
    """The output is the same, by processes."""
    plain = expected(name, MANY)
    before = pairs.sources(PROGRAMS[name], MANY).values()
    changed = [path for path, now in plain.files.items() if now not in before]
    assert len(changed) == (MANY if "tree" in PROGRAMS[name].argv else 0)
    assert changed or plain.stdout
    found = run(on_host, "healthy", pair.hooked, name, MANY, tmp_path)
    assert found.result == plain
    assert found.warnings == []
    assert [decision["backend"] for decision in found.decisions] == ["processes"] * PROGRAMS[name].managed


@pytest.mark.parametrize("host", BACKENDS)
@pytest.mark.parametrize("name", HELPED)
def test_on_a_host_that_refuses(
    on_host: OnHost, pair: Pair, tmp_path: Path, expected: Expected, name: str, host: str
) -> None:
    """The program completes, with the output of a healthy host, and says what happened if that is no process."""
    if host == "nproc" and sys.implementation.name == "pypy":
        pytest.skip("PyPy looks for packages with access(), which that user's right to read everywhere does not sway")
    files = MANY if host == "sem-enosys" else FEW
    plain = expected(name, files)
    found = run(on_host, host, pair.hooked, name, files, tmp_path)
    if name == "tqdm-own-lock" and sysconfig.get_config_var("Py_GIL_DISABLED"):
        # Each worker thread calls back by itself, and a bar that two of them advance at a time may miss one, as it may
        # with `thread_map`: tqdm counts without a lock. The processes of a pool call back by one thread.
        plain = replace(plain, stderr=found.result.stderr)
    assert found.result == plain
    # Interpreters: not with a lock for the initializer, nor with extension modules, which some wheels of black have.
    refuses = name == "tqdm-own-lock" or (name == "black" and any(pair.hooked.site.glob("*__mypyc.*.so")))
    backend = "threads" if BACKENDS[host] == "interpreters" and refuses else BACKENDS[host]
    assert [decision["backend"] for decision in found.decisions] == [backend]
    if backend == "pipes":
        assert found.warnings == []
    else:
        (warning,) = found.warnings
        where = "inline" if backend == "inline" else f"in {backend}"
        assert warning.startswith(f"ProcessPoolExecutor runs {where}")


@pytest.mark.parametrize("host", SEMAPHORES)
def test_a_thread_pool(on_host: OnHost, pair: Pair, tmp_path: Path, expected: Expected, host: str) -> None:
    """It is what was asked for, so there is nothing to say."""
    plain = expected("elasticsearch", FEW)
    found = run(on_host, host, pair.hooked, "elasticsearch", FEW, tmp_path)
    assert (found.result, found.warnings, found.decisions) == (plain, [], [])


@pytest.mark.parametrize(
    ("name", "host", "errno"),
    [(name, host, errno) for name in DYING for host, errno in SEMAPHORES.items()]
    + [(name, "fork-refused", 11) for name in DYING_OF_FORK],
)
def test_without_the_hook_it_dies(
    on_host: OnHost, pair: Pair, tmp_path: Path, name: str, host: str, errno: int
) -> None:
    """The same host does refuse the same program."""
    found = run(on_host, host, pair.plain, name, FEW, tmp_path)
    assert found.result.returncode == 1
    assert re.match(rf"(OS|FileNotFound|Permission|BlockingIO)Error: \[Errno {errno}\] ", found.last_line)
    assert (found.warnings, found.decisions) == ([], [])

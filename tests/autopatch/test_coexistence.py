"""The hook stands beside what else programs are run with: monkey patches, tracers, other hooks, workers, options.

Each program runs as a user would run it, in two environments with the same packages, of which one has the hook. What
is compared is what it prints; the names of the classes that differ are required to differ and then taken as equal.

Elsewhere: an asyncio loop with an executor made before the hook is in ``test_control.py``, an unirun that is broken or
uninstalled in ``test_install.py``.
"""

import json
import multiprocessing
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.autopatch import venvs
from tests.autopatch.venvs import Venv

PROGRAMS = Path(__file__).parent / "programs"
PYPY = sys.implementation.name == "pypy"
METHODS = multiprocessing.get_all_start_methods()
THREADS, PROCESSES = "concurrent.futures.thread", "concurrent.futures.process"
#: The modules of the classes that programs get, and of those that they would get.
OURS = {"unirun.thread": THREADS, "unirun.process": PROCESSES}

Pair = tuple[Venv, Venv]
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def pair(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Return two environments with the same packages and startup files, but that the first has the hook."""
    folder = tmp_path_factory.mktemp("coexistence")
    hooked, plain = (venvs.create(folder / name) for name in ("hooked", "plain"))
    venvs.install(hooked, "unirun[autopatch]", "coverage", "pytest-xdist", "sentry-sdk", find_links=wheels)
    # A folder that comes so is searched for modules, and not for startup files.
    (plain.site / "packages.pth").write_text(f"{hooked.site}\n", encoding="utf-8")
    for name in hooked.startup_files():
        if "unirun" not in name:  # processed in the order of their names, so after the one with the path
            shutil.copy(hooked.site / name, plain.site / f"z_{name}")
    ask = "from concurrent.futures import ProcessPoolExecutor; print(ProcessPoolExecutor.__module__)"
    assert [venv.run("-c", ask).stdout.strip() for venv in (hooked, plain)] == ["unirun.process", PROCESSES]
    return hooked, plain


@pytest.fixture(scope="module")
def pair_with_gevent(pair: Pair) -> Pair:
    done = pair[0].run(*venvs.INSTALL, "--only-binary", ":all:", "gevent", timeout=280)
    if done.returncode:
        pytest.skip("there is no built gevent for this interpreter")
    return pair


def both(
    pair: Pair, folder: Path, *arguments: str, program: str = "", env: Mapping[str, str] | None = None
) -> Iterator[Done]:
    """Run Python with these arguments, in a folder for each environment; yield how that ended, first with the hook."""
    for venv in pair:
        place = folder / venv.root.name
        place.mkdir(exist_ok=True)
        if program:
            shutil.copy(PROGRAMS / program, place / "program.py")
        yield venv.run(*arguments, cwd=place, env=env)


def same(pair: Pair, folder: Path, program: str, *arguments: str, options: str = "", hook: bool = True) -> list[str]:
    """Run a program, which names the classes it gets; return the lines that it prints with the hook and without."""
    return equal(*both(pair, folder, *options.split(), "program.py", *arguments, program=program), hook=hook)


def equal(hooked: Done, plain: Done, *, hook: bool = True) -> list[str]:
    assert (plain.returncode, plain.stderr) == (0, ""), plain
    assert (hooked.returncode, hooked.stderr) == (0, ""), hooked
    stdout = hooked.stdout
    if hook:
        # No worker or interpreter is without it.
        assert not any(theirs in stdout for theirs in OURS.values()), stdout
        for ours, theirs in OURS.items():
            assert ours not in plain.stdout
            stdout = stdout.replace(ours, theirs)
    assert stdout == plain.stdout
    assert any(theirs in stdout for theirs in OURS.values())
    return stdout.splitlines()


@pytest.mark.parametrize("kind", ["threads", "gevent's own", *METHODS])
def test_gevent(pair_with_gevent: Pair, tmp_path: Path, kind: str) -> None:
    """Nothing breaks that did not break without."""
    hooked, plain = both(pair_with_gevent, tmp_path, "program.py", kind, program="greenlets.py")
    if plain.returncode and kind in METHODS:
        pytest.skip(f"gevent's patches break that themselves: {plain.stderr.splitlines()[-1]}")
    assert equal(hooked, plain)[-1] == "end"


@pytest.mark.parametrize("method", METHODS)
def test_gevent_and_our_own_pool(pair_with_gevent: Pair, tmp_path: Path, method: str) -> None:
    """A socket of gevent's does not block although it was told to, and the workers of that pool read from one."""
    done = next(both(pair_with_gevent, tmp_path, "program.py", method, program="own_pool.py"))
    if method == "forkserver" and sys.version_info >= (3, 14) and "BlockingIOError" in done.stderr:
        pytest.skip("gevent's patches break that themselves: from 3.14 on the fork server is talked to by sockets")
    assert done.stdout == "[0, 1, 4, 9, 16, 25, 36, 49] [0, 1, 4, 9, 16] pipes\n", done.stderr


def test_gevent_and_workers_that_end_too_soon(pair_with_gevent: Pair, tmp_path: Path) -> None:
    """The thread that notices it is a greenlet: the one that submits must let it run."""
    hooked, plain = both(pair_with_gevent, tmp_path, "program.py", program="dying_workers.py")
    assert plain.returncode == 1
    assert "BrokenProcessPool" in plain.stderr
    assert (hooked.returncode, hooked.stdout) == (0, "3\n"), hooked.stderr
    assert "DowngradeWarning" in hooked.stderr


SETTINGS = {
    "COVERAGE_PROCESS_START": "concurrency = multiprocessing,thread",
    "patch": "patch = subprocess,_exit",
}


@pytest.mark.parametrize("method", [method for method in METHODS if method != "forkserver"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_coverage(pair: Pair, tmp_path: Path, setting: str, method: str) -> None:
    """It measures the same lines, some of which are executed in workers only.

    Not under a fork server: nobody waits for its children, which write what they have measured after the program's end.
    """
    config = tmp_path / "coverage.ini"
    config.write_text(f"[run]\nparallel = true\nsource = .\n{SETTINGS[setting]}\n")
    rc = f"--rcfile={config}"
    for name in ("hooked", "plain"):
        (tmp_path / name).mkdir()
        shutil.copy(PROGRAMS / "covered.py", tmp_path / name)
    env = {setting: str(config)} if setting != "patch" else {}
    equal(*both(pair, tmp_path, "-m", "coverage", "run", rc, "program.py", method, program="covering.py", env=env))
    for command in ("combine", "json"):
        for done in both(pair, tmp_path, "-m", "coverage", command, "-q", rc):
            assert done.returncode == 0, done
    hooked, plain = (json.loads((tmp_path / name / "coverage.json").read_text()) for name in ("hooked", "plain"))
    assert lines(hooked) == lines(plain)
    source = (PROGRAMS / "covered.py").read_text().splitlines()
    assert {source[number - 1].strip() for number in lines(hooked)["covered.py"]} >= {
        "return n * n",
        "return -n",
        "prepared = True",
    }


def lines(report: dict[str, dict[str, dict[str, list[int]]]]) -> dict[str, list[int]]:
    return {name: file["executed_lines"] for name, file in report["files"].items()}


@pytest.mark.parametrize("order", ["imported before", "imported after"])
@pytest.mark.parametrize("wrapper", ["assignment", "sentry"])
def test_wrapped_submit(pair: Pair, tmp_path: Path, wrapper: str, order: str) -> None:
    """It is called once for each task of a thread pool, and for none of a process pool."""
    found = same(pair, tmp_path, "wrapped_submit.py", wrapper, order)
    task = "task" if wrapper == "assignment" else ("mine", True)
    expected = [f"{task} 1", f"{task} 2", f"{task} {task} {task} 5", f"{task} 1", "3 0"]
    assert found == [*expected, f"{THREADS} {PROCESSES}"]


@pytest.mark.parametrize("order", ["above", "below", "after"])
def test_wrapts_import_hooks(pair: Pair, tmp_path: Path, order: str) -> None:
    """Its finder asks all others again, as ours does; what it calls, it calls once."""
    expected = ["3 4 [5, 6] 4", "3 4", "['SourceFileLoader']", THREADS]
    assert same(pair, tmp_path, "wrapt_hooks.py", order) == expected
    on_top = (tmp_path / "hooked" / "on_top").read_text().strip()
    assert on_top == str(order != "below")


def test_xdist(pair: Pair, tmp_path: Path) -> None:
    """Tests have the same outcomes, told in the same words."""
    tests = PROGRAMS / "pools_in_tests.py"
    found = []
    for venv, modules in zip(pair, (list(OURS), list(OURS.values())), strict=True):
        folder = tmp_path / venv.root.name
        folder.mkdir()
        shutil.copy(tests, folder / "test_pools.py")
        options = ("-n", "2", "-rA", "-q", "-p", "no:cacheprovider", "-W", "error")
        done = venv.run("-m", "pytest", *options, "test_pools.py", cwd=folder)
        assert done.returncode == 1, done
        printed = set(re.findall(r"^\d \S+$", done.stdout, re.M))
        assert printed == {f"{number} {module}" for number in range(3) for module in modules}
        found.append(sorted(re.findall("^(?:PASSED|FAILED|ERROR) .*", done.stdout, re.M)))
    hooked, plain = found
    assert hooked == plain
    assert [line.split()[0] for line in plain] == ["FAILED"] + ["PASSED"] * 6
    assert plain[0] == "FAILED test_pools.py::test_fails - assert [1, 2] == [1, 3]"


@pytest.mark.skipif(PYPY, reason="PyPy has no sub-interpreters")
@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_sub_interpreters(pair: Pair, tmp_path: Path, kind: str) -> None:
    """Each has its own hook; their pools work, and so does the main interpreter's."""
    if kind == "isolated" and sys.version_info < (3, 12):
        pytest.skip("before 3.12 nobody can start a thread in one")
    assert same(pair, tmp_path, "subinterpreters.py", kind) == [f"3 [1, 2] {THREADS}"] * 2 + [THREADS]


@pytest.mark.skipif(PYPY or sys.version_info < (3, 14), reason="there are interpreter pools from 3.14 on")
def test_pools_in_tasks_of_an_interpreter_pool(pair: Pair, tmp_path: Path) -> None:
    found = same(pair, tmp_path, "interpreter_pool.py")
    assert found == [str([(n, THREADS) for n in (1, 2, 3)]), f"concurrent.futures.interpreter {THREADS}"]


@pytest.mark.parametrize(
    ("method", "before"),
    [(method, before) for method in METHODS for before in ("nothing before", "pools before")[: 1 + (method == "fork")]],
)
def test_workers_that_open_pools(pair: Pair, tmp_path: Path, method: str, before: str) -> None:
    # With threads in the parent 3.12 and later warn of each fork, with the hook and without.
    found = same(pair, tmp_path, "pools_in_workers.py", method, before, options="-W ignore::DeprecationWarning")
    threads, processes = [THREADS, 9, [0, 1, 4, 9]], [PROCESSES, 9, [0, 1, 4, 9]]
    assert found[-4:] == [
        f"Process {[False, *threads, *processes]}",
        "0",
        f"Pool {[True, *threads]}",
        f"ProcessPoolExecutor {[False, *threads, *processes]}",
    ]


@pytest.mark.parametrize(
    "options",
    [
        *("-S", "-I", "-E", "-O", "-OO", "-X frozen_modules=off", "-W error", "-bb", "-X dev"),
        "-I -E -OO -W error -bb -X dev",
    ],
)
def test_options(pair: Pair, tmp_path: Path, options: str) -> None:
    """A program and its workers run under them as without the hook, and say nothing more."""
    assert len(same(pair, tmp_path, "flags.py", options=options, hook="-S" not in options)) == 4


@pytest.mark.parametrize("code", ["pass", "import concurrent.futures", "import asyncio", "import multiprocessing"])
def test_nothing_more_is_imported(pair: Pair, tmp_path: Path, code: str) -> None:
    """Not even the companion's module, before a program asks for a pool class."""
    reports = [
        (["-Ximporttime", "-c", code], r"^import time:.*\| *(\S+)$"),
        (["-v", "-c", code], "^import '?([^' ]+)'? # "),
    ]
    if PYPY:  # which has neither report
        reports = [(["-c", f"{code}; import sys; print(*sys.modules, sep='\\n', file=sys.stderr)"], r"^(\S+)$")]
    for arguments, pattern in reports:
        hooked, plain = (re.findall(pattern, done.stderr, re.M) for done in both(pair, tmp_path, *arguments))
        assert {"site", *code.split()[1:]} <= {*plain}
        assert hooked == plain


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.parametrize(("how", "downgrade"), [("program.py", "warn"), ("-mprogram", "warn"), ("program.py", "error")])
def test_without_a_guard(pair: Pair, tmp_path: Path, method: str, how: str, downgrade: str) -> None:
    """The job is done once, or not at all, and no worker starts others."""
    env = {"UNIRUN_DOWNGRADE": downgrade}
    hooked, plain = both(pair, tmp_path, how, method, program="no_guard.py", env=env)
    assert plain.returncode == 1
    assert not (tmp_path / "plain" / "job").exists()
    job = tmp_path / "hooked" / "job"
    if downgrade == "warn":
        assert hooked.returncode == 0, hooked.stderr
        assert job.read_text() == "[0, 1, 4, 9, 16]\n"
        assert hooked.stderr.count("DowngradeWarning: ProcessPoolExecutor runs in threads") == 1
    else:
        assert hooked.returncode == 1
        assert not job.exists()
        assert re.search(r"^\S*DowngradeError: ", hooked.stderr, re.M), hooked.stderr
    started = (tmp_path / "hooked" / "started").read_text().split()
    assert started.count("__main__") == 1
    assert len(started) <= 1 + 2 + 1  # the workers, and a fork server that imports the file beforehand

"""One program with the seed's three functions, on every host, with every start method: same results, and explained."""

import json
import multiprocessing
import os
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.fixtures import OnHost, Outcome
from tests.lower import lower
from unirun.refusal import refused_start

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
SEED = (PROGRAMS / "seed.py").read_text()
GUARD = 'if __name__ == "__main__":\n    main()\n'
RESULTS = [9, 1, 16, 1, 25, 81, 4, 36]
PARTS = ("crunch", "crunch_via_compat", "crunch_async")
#: What the line of the warning must hold.
POOL_LINES = {"crunch": "with Run(", "crunch_via_compat": ".ProcessPoolExecutor(", "crunch_async": "to_process("}
METHODS = multiprocessing.get_all_start_methods()

#: stage, error, errno
Refusal = tuple[str, str, int | None]

FORK: Refusal = ("start", "BlockingIOError", 11)
THREAD: Refusal = ("start", "RuntimeError", None)
#: What the three pools run in where worker processes serve: the stdlib's pool is first for its drop-in only.
HEALTHY = ("pipes", "processes", "pipes")
PIPES, LOWER, THREADS, INLINE = (("pipes",) * 3, ("lower",) * 3, ("threads",) * 3, ("inline",) * 3)
NO_FORK = {"pipes": {FORK}, "processes": {FORK}, "interpreters": {THREAD}, "threads": {THREAD}}
NO_THREADS = {"pipes": {THREAD}, "processes": {THREAD}, "interpreters": {THREAD}, "threads": {THREAD}}
#: host: what each of the three pools runs in, and what each refused rung says. "lower" is what comes after processes.
HOSTS: dict[str, tuple[tuple[str, str, str], dict[str, set[Refusal]]]] = {
    "healthy": (HEALTHY, {}),
    "sysconf-eperm": (HEALTHY, {}),
    "sem-enosys": (PIPES, {"processes": {("construct", "OSError", 38)}}),
    "sem-enoent": (PIPES, {"processes": {("construct", "FileNotFoundError", 2)}}),
    "sem-eacces": (PIPES, {"processes": {("construct", "PermissionError", 13)}}),
    "sem-enospc": (PIPES, {"processes": {("construct", "OSError", 28)}}),
    "shm-readonly": (PIPES, {"processes": {("construct", "OSError", 30)}}),
    "fork-refused": (LOWER, NO_FORK),
    # A pool over pipes has one thread, the stdlib's has two.
    "threads-refused-second": (("pipes", "inline", "inline"), NO_THREADS),
    "threads-refused": (INLINE, NO_THREADS),
    "nothing": (INLINE, {**NO_FORK, "processes": {("construct", "OSError", 38)}}),
    "nproc": (INLINE, NO_FORK),
}


def run(on_host: OnHost, host: str, argv: list[str], folder: Path, **options: Any) -> tuple[Outcome, dict[str, Any]]:
    folder.chmod(0o777)  # one host has another user
    outcome = on_host(
        host,
        [sys.executable, *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        **options,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.left_behind == ()
    assert outcome.exit_seconds is not None
    assert outcome.exit_seconds < 1
    lines = outcome.stdout.splitlines()
    assert len(lines) == 2, "the job ran more than once"
    return outcome, json.loads(lines[0])


def check(
    report: dict[str, Any], log: Path, method: str, backends: tuple[str, str, str], refusals: dict[str, set[Refusal]]
) -> None:
    assert sorted(map(int, log.read_text().split())) == sorted([3, 1, 4, 1, 5, 9, 2, 6] * 3), "not once each"
    for part, backend in zip(PARTS, backends, strict=True):
        found, backend = report[part], lower(method) if backend == "lower" else backend
        decision = found["decision"]
        assert found["results"] == RESULTS
        assert decision["backend"] == backend
        assert decision["settled"]
        assert found["elsewhere"] == (backend in ("processes", "pipes"))
        assert found["here"] != found["elsewhere"]
        assert {r["backend"] for r in decision["refused"]} >= set(takewhile(backend.__ne__, decision["ladder"]))
        for r in decision["refused"]:
            assert (r["stage"], r["error"], r["errno"]) in refusals[r["backend"]], json.dumps(r)
        if found["elsewhere"]:
            assert found["warnings"] == []
            continue
        (warning,) = found["warnings"]
        assert warning["category"] == "DowngradeWarning"
        assert all(r["message"] in warning["text"] for r in decision["refused"])
        assert POOL_LINES[part] in SEED.splitlines()[warning["line"] - 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("host", HOSTS)
def test_host(on_host: OnHost, tmp_path: Path, host: str, method: str) -> None:
    """A guarded script."""
    _, report = run(on_host, host, [str(PROGRAMS / "seed.py"), method, "log"], tmp_path)
    check(report, tmp_path / "log", method, *HOSTS[host])
    assert {w["file"] for part in PARTS for w in report[part]["warnings"]} <= {str(PROGRAMS / "seed.py")}


@pytest.mark.parametrize(
    ("host", "method", "started"),
    [
        ("fork-refused-second", "fork", 1),
        # The resource tracker is the first process of these.
        ("fork-refused-second", "spawn", 0),
        ("fork-refused-second", "forkserver", 0),
        ("fork-refused-third", "fork", 2),
        ("fork-refused-third", "spawn", 1),
        # Not with forkserver: what is refused there is a fork of the server's, which dies of it with all its workers.
    ],
)
def test_half_a_start(on_host: OnHost, tmp_path: Path, host: str, method: str, started: int) -> None:
    """The first pool runs with the workers that it got, if any, and says so; the next one gets none."""
    _, report = run(on_host, host, [str(PROGRAMS / "seed.py"), method, "log"], tmp_path)
    first = "pipes" if started else "lower"
    check(report, tmp_path / "log", method, (first, "lower", "lower"), NO_FORK)
    if method == "fork":
        decision = report["crunch"]["decision"]
        assert decision["workers"] == started
        assert decision["short"]["errno"] == 11


FEW = """
import sys, warnings
from unirun import Run, RuntimeConfig
from unirun.compat.concurrent.futures import ProcessPoolExecutor

warnings.simplefilter("ignore")
scope = Run(flavor="processes", max_workers=8) if sys.argv[1] == "scope" else ProcessPoolExecutor(8)
with scope as executor:
    print(*executor.map(abs, range(-5, 0)), executor.decision.backend, executor.decision.workers)
    print(executor.decision.short)
"""


@pytest.mark.skipif("fork" not in METHODS, reason="this platform cannot fork")
@pytest.mark.parametrize("kind", ["scope", "drop-in"])
def test_workers_that_take_the_place_of_a_thread(on_host: OnHost, kind: str) -> None:
    """Where processes are counted threads are too, and all are forked before the pool's own thread starts."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "UNIRUN_START_METHOD": "fork"}
    outcome = on_host("nproc-few", [sys.executable, "-c", FEW, kind], env=env)
    first, second = outcome.stdout.splitlines()
    assert first == "5 4 3 2 1 pipes 2", outcome.stderr
    assert "can't start new thread" in second
    assert outcome.left_behind == ()


FORKS = """
import os
fork = os.fork
forks = 0

def counted():
    global forks
    forks += 1
    return fork()

os.fork = counted
"""


@pytest.mark.skipif("fork" not in METHODS, reason="this platform cannot fork")
def test_where_no_thread_can_start_it_is_tried_with_fewer_workers_some_times(on_host: OnHost) -> None:
    """There may be as many workers as processors."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "UNIRUN_START_METHOD": "fork"}
    outcome = on_host("threads-refused", [sys.executable, "-c", f"{FORKS}{FEW}\nprint(forks)", "scope"], env=env)
    forks = 8 + 7 + 3 + 1 + 8  # over pipes, and in the stdlib's pool
    assert outcome.stdout.splitlines() == ["5 4 3 2 1 inline None", "None", str(forks)], outcome.stderr


@pytest.mark.skipif("forkserver" not in METHODS, reason="this platform has no fork server")
def test_a_fork_server_that_dies(on_host: OnHost, tmp_path: Path) -> None:
    """The server dies of a fork that it is refused. Its workers then count as dead, and are to be so in truth."""
    argv = [sys.executable, str(PROGRAMS / "seed.py"), "forkserver", "log"]
    outcome = on_host("fork-refused-third", argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    assert outcome.left_behind == ()
    assert outcome.returncode == 0 or "BrokenProcessPool" in outcome.stderr
    log = tmp_path / "log"
    ran = log.read_text().split() if log.exists() else []
    assert all(ran.count(payload) <= 3 * [3, 1, 4, 1, 5, 9, 2, 6].count(int(payload)) for payload in ran)


LOCKED = """
import multiprocessing, sys, warnings
from unirun import DowngradeWarning
from unirun.compat.concurrent.futures import ProcessPoolExecutor
warnings.simplefilter("ignore", DowngradeWarning)
def keep(lock, items):
    global kept
    items.append(1)
    kept = lock
def use(number):
    with kept:
        return number * number
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    mine = []
    with ProcessPoolExecutor(2, context, keep, (context.Lock(), mine)) as pool:
        print(list(pool.map(use, range(4))), pool.decision.backend)
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("host", ["healthy", "threads-refused-second", "package"])
def test_a_lock_for_the_initializer(on_host: OnHost, tmp_path: Path, host: str, method: str) -> None:
    """It can be pickled only on its way to a new process. No worker imports the main module of `python -m package`."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__main__.py").write_text(LOCKED)
    argv = ["-m", "package"] if host == "package" else [str(package / "__main__.py")]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    place = "healthy" if host == "package" else host
    outcome = on_host(place, [sys.executable, *argv, method], env=env, cwd=tmp_path)
    expected = {"healthy": "processes", "threads-refused-second": "inline"}.get(
        host, "processes" if method == "fork" else "threads"
    )
    assert outcome.stdout == f"[0, 1, 4, 9] {expected}\n", outcome.stderr
    assert outcome.left_behind == ()


@pytest.mark.parametrize("method", METHODS)
def test_daemonic_parent(on_host: OnHost, tmp_path: Path, method: str) -> None:
    """Inside a worker of a `multiprocessing.Pool`."""
    _, report = run(on_host, "healthy", [str(PROGRAMS / "seed.py"), method, "log", "daemonic"], tmp_path)
    check(report, tmp_path / "log", method, PIPES, {"processes": {("start", "AssertionError", None)}})


LATE = """
import atexit, sys
from unirun import Run, RuntimeConfig

@atexit.register
def late():
    try:
        with Run(flavor="processes", config=RuntimeConfig(start_method=sys.argv[1])) as executor:
            print(executor.submit(abs, -3).result())
    except RuntimeError as error:
        print(error, flush=True)

if __name__ == "__main__":
    with Run(flavor="processes", config=RuntimeConfig(start_method=sys.argv[1]), max_workers=1) as executor:
        print(executor.submit(abs, -3).result(), flush=True)
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_after_the_end(on_host: OnHost, tmp_path: Path, method: str) -> None:
    """A fork server that imports the main module has its handlers, too, which started one server after the other."""
    (tmp_path / "program.py").write_text(LATE)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    outcome = on_host("healthy", [sys.executable, str(tmp_path / "program.py"), method], env=env, cwd=tmp_path)
    said = "cannot schedule new futures after interpreter shutdown"
    assert (outcome.returncode, outcome.stderr, outcome.left_behind) == (0, "", ())
    assert outcome.stdout in [f"3\n{said}\n", f"3\n{said}\n{said}\n"]  # there, as well


SERVED = """
import multiprocessing, os, signal, sys
from multiprocessing import forkserver
from unirun import Run, RuntimeConfig
from unirun.compat.concurrent.futures import ProcessPoolExecutor

def serve(kind):
    if kind == "compat":
        opened = ProcessPoolExecutor(1, multiprocessing.get_context("forkserver"))
    else:
        config = RuntimeConfig(start_method="forkserver", max_workers=1, reuse=False)
        opened = Run(flavor="processes", config=config)
    with opened as pool:
        print(pool.submit(abs, -3).result(), pool.decision.backend, flush=True)
    return forkserver._forkserver._forkserver_pid

if __name__ == "__main__":
    kind, what = sys.argv[1:]
    server = serve(kind)
    if what == "forked":
        child = os.fork()
        if not child:
            os._exit(serve(kind) == server)
        assert os.waitpid(child, 0)[1] == 0
        assert serve(kind) == server
    else:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        assert serve(kind) != server
"""


@pytest.mark.skipif("forkserver" not in METHODS, reason="this platform has no fork server")
@pytest.mark.parametrize("kind", ["compat", "Run"])
@pytest.mark.parametrize("what", ["forked", "reaped"])
def test_a_fork_server_that_is_no_child_of_this_process(on_host: OnHost, tmp_path: Path, kind: str, what: str) -> None:
    """That of the parent, in a server's forked child whose main module used a pool; or somebody has waited for it."""
    (tmp_path / "program.py").write_text(SERVED)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    outcome = on_host("healthy", [sys.executable, str(tmp_path / "program.py"), kind, what], env=env, cwd=tmp_path)
    backend = {"compat": "processes", "Run": "pipes"}[kind]
    assert outcome.stdout == f"3 {backend}\n" * (3 if what == "forked" else 2), outcome.stderr
    assert (outcome.returncode, outcome.left_behind) == (0, ())


@pytest.mark.parametrize("method", METHODS)
def test_script_on_standard_input(on_host: OnHost, tmp_path: Path, method: str) -> None:
    """A worker that does not fork cannot import a main module that has no file."""
    _, report = run(on_host, "healthy", ["-", method, "log"], tmp_path, stdin=SEED)
    refusals: set[Refusal] = {("bootstrap", "FileNotFoundError", 2)}
    backends = HEALTHY if method == "fork" else THREADS
    check(report, tmp_path / "log", method, backends, dict.fromkeys(("pipes", "processes", "interpreters"), refusals))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("executable", ["", None, "/nowhere/python"])
def test_embedded(on_host: OnHost, tmp_path: Path, method: str, executable: str | None) -> None:
    """An interpreter inside of another program may not know its own file, which workers that do not fork run."""
    script = tmp_path / "script.py"
    script.write_text(SEED.replace("import sys\n", f"import sys; sys.executable = {executable!r}\n"))
    _, report = run(on_host, "healthy", ["script.py", method, "log"], tmp_path)
    refusals: set[Refusal] = {("start", "FileNotFoundError", 2)}
    backends = HEALTHY if method == "fork" else LOWER
    check(report, tmp_path / "log", method, backends, dict.fromkeys(("pipes", "processes", "interpreters"), refusals))


@pytest.mark.parametrize("method", METHODS)
def test_script_without_guard(on_host: OnHost, tmp_path: Path, method: str) -> None:
    """Each worker imports the script, whose job must run once all the same."""
    assert SEED.endswith(GUARD)
    script = tmp_path / "script.py"
    script.write_text(SEED.removesuffix(GUARD) + "main()\n")
    _, report = run(on_host, "healthy", ["script.py", method, "log"], tmp_path)
    refusals: set[Refusal] = {("bootstrap", "BrokenProcessPool", None)}
    if method == "forkserver":
        # Where the server imports the main module itself, it is the server that dies, and where the parent notices
        # is a race inside of the stdlib.
        refusals |= {
            ("start", "EOFError", None),
            ("start", "ConnectionResetError", 104),
            ("start", "ConnectionRefusedError", 111),
            ("start", "BrokenPipeError", 32),
        }
    backends = HEALTHY if method == "fork" else THREADS
    check(report, tmp_path / "log", method, backends, dict.fromkeys(("pipes", "processes", "interpreters"), refusals))
    for refused in [report[part]["decision"]["refused"] for part in PARTS if method != "fork"]:
        assert "`if __name__ == '__main__':` guard" in refused[0]["message"]


@pytest.mark.skipif("forkserver" not in METHODS, reason="this platform has no fork server")
@pytest.mark.parametrize(
    "error",
    [
        EOFError("unexpected EOF"),
        ConnectionResetError(104, "Connection reset by peer"),
        BrokenPipeError(32, "Broken pipe"),
    ],
)
def test_what_a_dead_fork_server_means(error: Exception) -> None:
    """Whether it is seen to die is a race, above. It imports the main module in later 3.13, too (gh-126631)."""
    refused = refused_start(error, multiprocessing.get_context("forkserver"))
    assert refused.stage == "start"
    assert getattr(refused.error, "errno", None) == getattr(error, "errno", None)
    assert "`if __name__ == '__main__':` guard" in str(refused.error)
    if not isinstance(error, BrokenPipeError):
        assert refused_start(error, multiprocessing.get_context("spawn")).error is error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("host", [host for host, (backends, _) in HOSTS.items() if backends in (LOWER, INLINE)])
def test_downgrades_as_errors(on_host: OnHost, tmp_path: Path, host: str, method: str) -> None:
    """UNIRUN_DOWNGRADE=error: each request fails before any of its tasks ran, and the error names what refused."""
    tmp_path.chmod(0o777)
    outcome = on_host(
        host,
        [sys.executable, str(PROGRAMS / "strict.py"), method, "log"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "UNIRUN_DOWNGRADE": "error"},
        cwd=tmp_path,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.left_behind == ()
    assert not (tmp_path / "log").exists(), "a task ran"
    _, refusals = HOSTS[host]
    told = json.loads(outcome.stdout.splitlines()[0])
    assert len(told) == 3
    for message, refused in told:
        assert sorted(backend for backend, _, _ in refused) == ["pipes", "processes"]
        for backend, stage, error in refused:
            assert (stage, error) in {refusal[:2] for refusal in refusals[backend]}
            assert f"{backend} refused ({error}: " in message
        assert "threads, inline not tried" in message


@pytest.fixture(scope="session")
def healthy_behaviour() -> dict[str, list[Any]]:
    """What came out on the healthy host, by start method: run once for all tests."""
    return {}


def behave(on_host: OnHost, host: str, method: str, folder: Path) -> list[Any]:
    folder.mkdir()
    for each in (folder, folder.parent):
        each.chmod(0o777)
    outcome = on_host(
        host,
        [sys.executable, str(PROGRAMS / "behaviour.py"), method, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.left_behind == ()
    return [json.loads(line) for line in outcome.stdout.splitlines()[:3]]


@pytest.mark.parametrize(
    ("host", "method"),
    [
        (host, method)
        for host in [*HOSTS, "fork-refused-second"]
        for method in METHODS
        # Where no semaphore can be made, the errno makes no difference to what serves: one for all, where workers that
        # do not fork take half a minute.
        if method == "fork" or HOSTS.get(host, (None,))[0] != PIPES or host == "sem-enosys"
    ],
)
def test_behaviour(
    on_host: OnHost, tmp_path: Path, healthy_behaviour: dict[str, list[Any]], host: str, method: str
) -> None:
    """What a program observes is what it observes on a healthy host; but crashes need another process."""
    if method not in healthy_behaviour:
        healthy_behaviour[method] = behave(on_host, "healthy", method, tmp_path / "healthy")
    expected, healthy_crashes, _ = healthy_behaviour[method]
    found, crashes, (elsewhere, shared) = behave(on_host, host, method, tmp_path / "marks")
    assert found == expected
    for failures in found["failures"]:
        for name, answer in failures.items():
            if not name.startswith("first "):
                assert answer[-1] == (2 if f"first {name}" in failures else 1), f"{name} did not run once per submit"
    for kind in found["copies"]:
        assert kind[:3] == [[3, 1, 2], [1, 2, 3], False]
    assert found["initializers"]["once"]
    assert found["initializers"]["untouched"]
    assert healthy_crashes == ["BrokenProcessPool", 1] * 3 + [1]
    assert crashes == (healthy_crashes if elsewhere else None)
    assert shared == ([[3, 1, 2], False, True] if elsewhere else [[1, 2, 3], True, False])

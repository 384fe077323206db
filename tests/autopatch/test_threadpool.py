"""Thread pools of ``multiprocessing`` on hosts without semaphores, by the same programs on a host that has them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.autopatch.venvs import Venv
from tests.hosts.fixtures import OnHost, Outcome

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "programs" / "threadpool.py"
CPYTHONS_TESTS = Path(__file__).parent / "cpython_threadpool.py"
ON = "from unirun import autopatch; autopatch.install()\n"
RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"

#: The hosts, and what they say to whoever asks for a semaphore.
REFUSING: dict[str, list[Any]] = {
    "sem-enosys": ["OSError", 38],
    "sem-enoent": ["FileNotFoundError", 2],
    "sem-eacces": ["PermissionError", 13],
    "sem-enospc": ["OSError", 28],
    "shm-readonly": ["OSError", 30],
}


def run(on_host: OnHost, host: str, source: str, *arguments: str, python: str = sys.executable, **env: str) -> Outcome:
    """Run a program; what it says on stderr fails the test."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")}
    # Nothing is written: one host shows other folders.
    own = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} if python == sys.executable else {}
    outcome = on_host(host, [python, "-c", source, *arguments], env={**clean, **own, **env}, timeout=120)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.left_behind == ()
    return outcome


def say(on_host: OnHost, host: str, source: str, **options: str) -> Any:
    """Run a program on a host; return what it prints as JSON."""
    outcome = run(on_host, host, source, **options)
    assert outcome.stderr == ""
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def control() -> Any:
    """What the program says here, on a healthy host and without the hook."""
    env = {**os.environ, "UNIRUN_AUTOPATCH": "0"}
    command = [sys.executable, str(PROGRAM)]
    report = json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, timeout=120, check=True).stdout)
    assert set(report["processes"].values()) == {None}
    return report


def test_the_control_is_right(control: Any) -> None:
    """What all else is compared with; not all of it in full."""
    squares = [x * x for x in range(50)]
    assert control["map"][0] == control["map"][1] == squares
    assert control["map"][4] == ["ValueError", "('seven', 7)"]
    assert control["imap"][0] == control["imap_unordered"][0] == squares
    assert control["initializer"] == [["hello 0", "hello 1", "hello 2"], ["hello"] * 3]
    assert control["terminate_does_not_wait"] == [True, False]
    assert control["leaves_nothing"] == {
        "closed": [[0, 0], []],
        "terminated": [[0, 0], []],
        "managed": [[0, 0], []],
        "refused": [[0, 0], []],
        **({} if sys.implementation.name == "pypy" else {"dropped": [[0, 0], ["ResourceWarning"] * 10]}),
    }
    assert control["many_at_once"] == [[], [0, 0]]
    assert control["no_pipe"] == [True, [0, 1, 4], [0, 0]]
    assert control["fork"] == [0] * 40 + [3000]
    assert not control["wrapt"]


@pytest.mark.parametrize("host", REFUSING)
def test_same_as_on_a_healthy_host(on_host: OnHost, control: Any, host: str) -> None:
    """But for what needs processes, which is refused as ever, with the same error."""
    report = say(on_host, host, f"{ON}import sys; sys.argv = ['', {str(PROGRAM)!r}]\n{RUN}")
    assert report.pop("processes") == dict.fromkeys(control["processes"], REFUSING[host])
    assert report.pop("wrapt")
    assert report == {name: value for name, value in control.items() if name in report}
    assert set(control) - set(report) == {"processes", "wrapt"}


def test_as_it_is_installed(on_host: OnHost, hooked: Venv, control: Any) -> None:
    """With the `.pth` file and wrapt as the extra brings them, and a program that knows nothing of it."""
    report = say(
        on_host, "sem-enosys", f"import sys; sys.argv = ['', {str(PROGRAM)!r}]\n{RUN}", python=str(hooked.python)
    )
    assert report["wrapt"]
    assert report["map"] == control["map"]
    assert report["dummy"] == control["dummy"]


SNAPSHOT = """
import json, os, sys, time
def snapshot():
    import multiprocessing, multiprocessing.pool as module
    holders = {"module": module, "package": multiprocessing}
    holders |= {name: value for name, value in vars(module).items() if isinstance(value, type)}
    holders |= {f"context {name}": type(multiprocessing.get_context(name))
                for name in multiprocessing.get_all_start_methods()}
    # Objects, not numbers of theirs: these are kept alive, and compared by identity.
    return {holder: dict(vars(value)) for holder, value in holders.items()}
def same(before, after):
    return before.keys() == after.keys() and all(
        before[holder].keys() == after[holder].keys()
        and all(value is after[holder][name] for name, value in names.items())
        for holder, names in before.items())
def shm():
    return {name for name in os.listdir("/dev/shm") if "probe" in name} if os.path.isdir("/dev/shm") else set()
def stays(files):
    more = shm() - files
    if more:
        time.sleep(0.5)  # another program's may be there for a moment
    return sorted(more & shm())
"""


def test_on_a_healthy_host_nothing_is_touched(on_host: OnHost) -> None:
    """Neither by a hook that comes late, nor by one that was there before."""
    late = SNAPSHOT + (
        "before, files = snapshot(), shm()\n"
        f"{ON}"
        "print(json.dumps([same(before, snapshot()), stays(files), 'wrapt' in sys.modules,"
        " 'multiprocessing.synchronize' in sys.modules]))"
    )
    assert say(on_host, "healthy", late) == [True, [], False, False]
    early = SNAPSHOT + (
        f"{ON}"
        "import multiprocessing.pool as module\n"
        "from types import FunctionType\n"
        "print(json.dumps([type(vars(module.ThreadPool)['_setup_queues']) is FunctionType, sorted(vars(module)),"
        " 'wrapt' in sys.modules]))"
    )
    without = f"{SNAPSHOT}import multiprocessing.pool as module; print(json.dumps(sorted(vars(module))))"
    assert say(on_host, "healthy", early) == [True, say(on_host, "healthy", without), False]


def test_what_a_healthy_host_pays(on_host: OnHost) -> None:
    """Two small modules and one semaphore."""
    source = (
        "import json, sys, multiprocessing.pool\n"
        "from unirun.autopatch import substitution\n"
        "before = set(sys.modules)\n"
        "substitution.loaded(multiprocessing.pool)\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert say(on_host, "healthy", source) == ["unirun.autopatch.threadpool", "unirun.semaphore"]


ATTEMPT = """
import json, sys
def attempt():
    from multiprocessing.pool import ThreadPool
    try:
        with ThreadPool(2) as pool:
            return pool.map(abs, [-1, -2])
    except OSError as error:
        return error.errno
"""


@pytest.mark.parametrize("setting", [{"UNIRUN_AUTOPATCH": "0"}, {"UNIRUN_COMPAT_MODE": "passthrough"}])
def test_switched_off(on_host: OnHost, setting: dict[str, str]) -> None:
    """The stdlib's error, and nothing loaded."""
    source = f"{ON}{ATTEMPT}print(json.dumps([attempt(), 'wrapt' in sys.modules]))"
    assert say(on_host, "sem-enosys", source, **setting) == [38, False]
    assert say(on_host, "sem-enosys", source) == [[1, 2], True]


def test_a_wrong_setting_leaves_it_alone(on_host: OnHost) -> None:
    source = f"{ON}{ATTEMPT}import os; os.environ['UNIRUN_MAX_WORKERS'] = 'many'\nprint(json.dumps(attempt()))"
    outcome = run(on_host, "sem-enosys", source)
    assert json.loads(outcome.stdout) == 38
    assert "UNIRUN_MAX_WORKERS" in outcome.stderr


@pytest.mark.parametrize("before", ["", "import multiprocessing.pool\n"])
def test_without_wrapt(on_host: OnHost, before: str) -> None:
    """It is the stdlib's error, and the hook says what is missing."""
    source = (
        f"import sys; sys.modules['wrapt'] = None\n{before}{ON}{ATTEMPT}"
        "print(json.dumps([attempt(), autopatch.status().errors]))"
    )
    answer, errors = say(on_host, "sem-enosys", source)
    assert answer == 38
    assert list(errors) == ["multiprocessing.pool"]
    assert errors["multiprocessing.pool"].startswith("ModuleNotFoundError: ")
    assert "wrapt" in errors["multiprocessing.pool"]


def test_late_and_undone_and_again(on_host: OnHost) -> None:
    """The names that a program has imported before are served too; `uninstall` gives back the function itself."""
    source = ATTEMPT + (
        "import multiprocessing.pool as module\n"
        "original = vars(module.ThreadPool)['_setup_queues']\n"
        "answers = [attempt()]\n"
        f"{ON}"
        "answers.append(attempt()); autopatch.install(); autopatch.uninstall()\n"
        "answers += [attempt(), vars(module.ThreadPool)['_setup_queues'] is original]\n"
        "with autopatch.install(): answers.append(attempt())\n"
        "answers += [attempt(), vars(module.ThreadPool)['_setup_queues'] is original]\n"
        "print(json.dumps(answers))"
    )
    assert say(on_host, "sem-enosys", source) == [38, [1, 2], 38, True, [1, 2], 38, True]


def test_executed_again(on_host: OnHost) -> None:
    """A module that is reloaded, or imported anew, has a class of its own."""
    source = ATTEMPT + (
        f"{ON}"
        "answers = [attempt()]\n"
        "import importlib; importlib.reload(sys.modules['multiprocessing.pool']); answers.append(attempt())\n"
        "del sys.modules['multiprocessing.pool']; answers.append(attempt())\n"
        "print(json.dumps([answers, autopatch.status().errors]))"
    )
    assert say(on_host, "sem-enosys", source) == [[[1, 2]] * 3, {}]


def test_beside_others_who_wrap_the_same(on_host: OnHost) -> None:
    """Theirs stays, also when unirun's goes, which it cannot while theirs is around it."""
    source = ATTEMPT + (
        f"{ON}attempt()\n"
        "import wrapt, multiprocessing.pool as module\n"
        "calls = []\n"
        "def count(wrapped, instance, args, kwargs):\n"
        "    calls.append(1)\n"
        "    return wrapped(*args, **kwargs)\n"
        "wrapt.wrap_function_wrapper(module, 'ThreadPool._setup_queues', count)\n"
        "answers = [attempt()]\n"
        "autopatch.uninstall(); attempt(); autopatch.install(); answers.append(attempt())\n"
        "print(json.dumps([answers, len(calls)]))"
    )
    assert say(on_host, "sem-enosys", source) == [[[1, 2]] * 2, 3]


def test_says_so_in_the_log(on_host: OnHost) -> None:
    source = f"import logging; logging.basicConfig(level=logging.INFO)\n{ON}{ATTEMPT}attempt(); attempt()"
    (line,) = run(on_host, "sem-enosys", source).stderr.splitlines()
    assert line.startswith("INFO:unirun:ThreadPool does without")
    assert "Function not implemented" in line


def test_threads_are_refused_too(on_host: OnHost) -> None:
    """The error of a host that only refuses threads, and nothing is left."""
    source = ON + (
        "import json, os, gc\n"
        "from multiprocessing.pool import ThreadPool\n"
        "said = []\n"
        "def attempt():\n"
        "    try: ThreadPool(2)\n"
        "    except RuntimeError as error: said.append(str(error))\n"
        "def descriptors():\n"
        "    gc.collect(); gc.collect()\n"
        "    return len(os.listdir('/proc/self/fd'))\n"
        "attempt()\n"
        "before = descriptors()\n"
        "for _ in range(20): attempt()\n"
        "print(json.dumps([said, descriptors() - before]))"
    )
    said, more = say(on_host, "nothing", source)
    assert [said, more] == say(on_host, "threads-refused", source)
    assert len(said) == 21
    assert more == 0


def test_without_the_module_of_semaphores(on_host: OnHost) -> None:
    """Before 3.13, as on PyPy, `multiprocessing.pool` itself cannot be imported without it, and that stays so."""
    source = (
        f"import sys; sys.modules['_multiprocessing'] = None\n{ON}{ATTEMPT}"
        "try: answer = attempt()\n"
        "except ImportError as error: answer = error.name\n"
        "print(json.dumps([answer, 'wrapt' in sys.modules, autopatch.status().errors]))"
    )
    needed = sys.version_info < (3, 13)
    assert say(on_host, "healthy", source) == (["_multiprocessing", False, {}] if needed else [[1, 2], True, {}])


@pytest.mark.skipif(
    importlib.util.find_spec("test._test_multiprocessing") is None, reason="this Python comes without its own tests"
)
def test_cpythons_own_tests(on_host: OnHost) -> None:
    """Each has the outcome that it has without the hook on a healthy host."""
    source = f"import sys; sys.argv = ['', {str(CPYTHONS_TESTS)!r}]\n"
    found = json.loads(run(on_host, "sem-enosys", f"{ON}{source}{RUN}").stdout)
    assert found == json.loads(run(on_host, "healthy", f"{source}{RUN}").stdout)
    assert len(found) >= 25
    skipped = {"test_map_unplicklable": "skipped: test not appropriate for threads"}
    assert found == dict.fromkeys(found, "passed") | skipped

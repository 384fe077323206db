"""`python -m unirun run`: what a plain Python does with the same words, with the hook on, and what its options add."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import unirun
from tests.hosts.fixtures import OnHost
from tests.lower import lower
from unirun import runner

ROOT = Path(unirun.__file__).parents[1]
STARTUP = ROOT / "unirun" / "autopatch" / "startup"
Done = subprocess.CompletedProcess[str]


@pytest.fixture(autouse=True)
def answer_to_ctrl_c() -> None:
    """Where this process ignores SIGINT, as a job in the background of a shell does, its children would too."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a run of this very unirun, in a locale that Python does not coerce."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **variables}


def python(*words: str | Path, cwd: Path, stdin: str = "", env: dict[str, str] | None = None) -> Done:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        input=stdin,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def run(*words: str | Path, cwd: Path, stdin: str = "", env: dict[str, str] | None = None) -> Done:
    return python("-m", "unirun", "run", *words, cwd=cwd, stdin=stdin, env=env)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


# As plain Python: everything that a program can see of itself

STATE = """
    import os, re, sys

    def tell():
        main = sys.modules["__main__"]
        print(sys.argv, sys.orig_argv, sys.path, sys.flags, sys.warnoptions, sys._xoptions, __debug__, sep="\\n")
        for name, value in sorted(vars(main).items()):
            print(name, re.sub("0x[0-9a-f]+", "0x", repr(value)))
        print(vars(main) is globals(), main.tell is tell, tell.__module__)
        frame = sys._getframe()
        while frame is not None:
            print(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
            frame = frame.f_back
        print(sorted(sys.modules))
        print(sorted(item for item in os.environ.items() if item[0] not in ("PYTHONPATH", "UNIRUN_TRACE")))
        print(repr(sys.stdin.read()))

    tell()
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return a folder with the same program in each form that Python takes."""
    write(tmp_path / "app.py", STATE)
    write(tmp_path / "package" / "__init__.py", "")
    write(tmp_path / "package" / "__main__.py", STATE)
    write(tmp_path / "package" / "module.py", STATE)
    write(tmp_path / "folder" / "__main__.py", STATE)
    write(tmp_path / "far" / "away.py", STATE)
    (tmp_path / "link.py").symlink_to("far/away.py")
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", textwrap.dedent(STATE))
    write(tmp_path / "-odd", STATE)
    return tmp_path


FORMS = {
    "file": ["app.py"],
    "file with arguments": ["app.py", "--trace", "-x", "--strict", "--", "--summary", "-h", ""],
    "file in a folder": ["far/away.py", "x"],
    "link": ["./link.py"],
    "folder": ["folder", "x"],
    "zipapp": ["app.pyz", "x"],
    "module": ["-m", "package.module", "-c", "foo", "-m", "bar"],
    "module, in one word": ["-mapp", "x"],
    "package": ["-m", "package", "--help"],
    "code": ["-c", textwrap.dedent(STATE), "a", "-b", "--strict"],
    "code, in one word": ["-c" + textwrap.dedent(STATE), "a"],
    "two dashes": ["--", "app.py", "x"],
    "two dashes, and a name with one": ["--", "-odd", "--", "x"],
    "no such file": ["missing.py", "x"],
    "no such module": ["-m", "missing", "x"],
    "no main": ["-m", "json"],
    "no code": ["-c"],
    "no name": ["-m"],
    "an empty name": [""],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_runs_as_plain_python_runs_it(programs: Path, form: str) -> None:
    expected = python(*FORMS[form], cwd=programs, stdin="input")
    done = run(*FORMS[form], cwd=programs, stdin="input")
    assert (done.stdout, done.stderr, done.returncode) == (expected.stdout, expected.stderr, expected.returncode)
    assert ("'input'\n" in done.stdout) == (expected.returncode == 0)


@pytest.mark.parametrize("words", [["-"], ["-", "a", "--strict"]])
def test_a_program_from_standard_input(tmp_path: Path, words: list[str]) -> None:
    program = textwrap.dedent(STATE)
    expected = python(*words, cwd=tmp_path, stdin=program)
    done = run(*words, cwd=tmp_path, stdin=program)
    assert (done.stdout, done.stderr, done.returncode) == (expected.stdout, "", 0)
    assert "\n''\n" in done.stdout


@pytest.mark.parametrize(
    "flags",
    [
        ["-O"],
        ["-OOB"],
        ["-P"],
        ["-s", "-u"],
        ["-X", "dev", "-W", "error", "-X", "m=n"],
        ["-bb", "-Xutf8=0", "-Wignore"],
    ],
)
@pytest.mark.parametrize("ours", [["-m", "unirun"], ["-munirun"], ["-c", "from unirun.cli import main; main()"]])
def test_options_of_python_itself_hold(programs: Path, flags: list[str], ours: list[str]) -> None:
    expected = python(*flags, "app.py", "x", cwd=programs)
    done = python(*flags, *ours, "run", "app.py", "x", cwd=programs)
    assert (done.stdout, done.stderr, done.returncode) == (expected.stdout, expected.stderr, 0)


def test_options_of_python_itself_hold_in_one_word_with_ours(programs: Path) -> None:
    expected = python("-OB", "app.py", cwd=programs)
    for words in (["-OBm", "unirun"], ["-OBmunirun"], ["-OBc", "from unirun.cli import main; main()"]):
        done = python(*words, "run", "app.py", cwd=programs)
        assert (done.stdout, done.stderr) == (expected.stdout, expected.stderr)


def test_the_installed_script_is_the_same(programs: Path) -> None:
    script = write(programs / "bin" / "unirun", "import sys\nfrom unirun.cli import main\nsys.exit(main())\n")
    expected = python("-O", "app.py", "x", cwd=programs)
    done = python("-O", script, "run", "app.py", "x", cwd=programs)
    assert (done.stdout, done.stderr, done.returncode) == (expected.stdout, expected.stderr, 0)


def test_a_program_can_run_another_with_arguments_of_its_own(programs: Path) -> None:
    code = "from unirun.cli import main; print('before'); main(['run', 'app.py', 'x'])"
    env = environment(PYTHONUNBUFFERED="")
    expected = python("app.py", "x", cwd=programs, env=env)
    assert python("-O", "-c", code, "other", cwd=programs, env=env).stdout == f"before\n{expected.stdout}"


def test_safe_path_comes_from_the_environment(programs: Path) -> None:
    env = environment(PYTHONSAFEPATH="1")
    expected = python("app.py", cwd=programs, env=env)
    done = run("app.py", cwd=programs, env=env)
    assert (done.stdout, done.stderr, done.returncode) == (expected.stdout, expected.stderr, 0)


ENDS = {
    "error": "def f():\n    1 / 0\nf()",
    "nested errors": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    {}['x']",
    "group": "e = ValueError('a')\ne.add_note('note')\nraise ExceptionGroup('g', [e, KeyError(1)])",
    "error in a thread": "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start()",
    "syntax": "x = 1\nif x\n    pass",
    "exit status": "raise SystemExit(3)",
    "exit text": "import sys\nsys.exit('some text')",
    "exit none": "import sys\nsys.exit()",
    "exit true": "import sys\nsys.exit(True)",
    "interrupt": "raise KeyboardInterrupt",
    "hook": "import sys, traceback\nsys.excepthook = lambda *e: print(traceback.format_exception(*e))\n1 / 0",
    "bad hook": "import sys\nsys.excepthook = lambda *e: {}['x']\n1 / 0",
    "hard exit": "import os\nprint('lost')\nos._exit(5)",
    "signal": "import os\nos.kill(os.getpid(), 15)",
    "order": (
        "import atexit, threading, time\natexit.register(print, 'atexit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\nprint('main')\n1 / 0"
    ),
    "last": "import atexit, sys\natexit.register(lambda: print(sys.last_value, sys.last_traceback.tb_lineno))\n1 / 0",
    "warning": "import warnings\nwarnings.warn('w', stacklevel=2)\nwarnings.warn('v')",
    "stack": "import traceback\ntraceback.print_stack()",
    "closed": "import sys\nprint('x')\nsys.stdout.close()",
}


@pytest.mark.parametrize("end", ENDS)
def test_every_end_is_that_of_plain_python(tmp_path: Path, end: str) -> None:
    write(tmp_path / "app.py", ENDS[end])
    for words in (["app.py"], ["-m", "app"], ["-c", ENDS[end]], ["-"]):
        expected = python(*words, cwd=tmp_path, stdin=ENDS[end])
        done = run(*words, cwd=tmp_path, stdin=ENDS[end])
        assert (done.stdout, done.stderr, done.returncode) == (expected.stdout, expected.stderr, expected.returncode)


@contextmanager
def started(*words: str, cwd: Path, start_new_session: bool = False) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupted(*words: str, cwd: Path) -> tuple[int, str, str]:
    with started(*words, cwd=cwd) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid, "the program is not this very process"
        time.sleep(0.5)  # until it sleeps: a signal just before that would be heard after it, by any Python
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.mark.skipif(os.name != "posix", reason="signals are those of a Unix")
@pytest.mark.parametrize(
    "handler", ["", "import signal; signal.signal(2, lambda *_: (print('caught'), exit(7)))"], ids=["default", "own"]
)
def test_one_ctrl_c_does_what_it_does_to_plain_python(tmp_path: Path, handler: str) -> None:
    program = f"import os, time\n{handler}\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n"
    write(tmp_path / "app.py", program)
    expected = interrupted("app.py", cwd=tmp_path)
    assert interrupted("-m", "unirun", "run", "app.py", cwd=tmp_path) == expected
    assert expected[0] == (7 if handler else -signal.SIGINT)


# The hook

POOLS = """
    import sys
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context, current_process

    class Point:
        def __init__(self, x):
            self.x = x

    def whose():
        return ProcessPoolExecutor.__module__

    def square(point):
        return Point(point.x ** 2), whose(), current_process().name != "MainProcess"

    if __name__ == "__main__":
        with ProcessPoolExecutor(1, mp_context=get_context(sys.argv[1])) as pool:
            point, theirs, elsewhere = pool.submit(square, Point(3)).result()
        print(point.x, theirs, elsewhere, type(point) is Point, whose())
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize("form", [["app.py"], ["-m", "app"], ["package/app.py"], ["-m", "package.app"]], ids=" ".join)
def test_workers_find_the_programs_main_module(tmp_path: Path, method: str, form: list[str]) -> None:
    write(tmp_path / "app.py", POOLS)
    write(tmp_path / "package" / "app.py", POOLS)
    expected = python(*form, method, cwd=tmp_path)
    done = run(*form, method, cwd=tmp_path)
    stdlib = "concurrent.futures.process"
    assert (expected.stdout, expected.stderr) == (f"9 {stdlib} True True {stdlib}\n", "")
    assert (done.stdout, done.stderr) == (expected.stdout.replace(stdlib, "unirun.process"), "")


FAMILY = """
    import concurrent.futures, multiprocessing, os, subprocess, sys

    def tell(who):
        print(who, concurrent.futures.ProcessPoolExecutor.__module__, flush=True)

    def child(who):
        tell(who)
        subprocess.run([sys.executable, "-c", CODE, "below " + who], cwd="/", check=True)

    CODE = "import sys, concurrent.futures as f; print(sys.argv[1], f.ProcessPoolExecutor.__module__)"

    if __name__ == "__main__":
        tell("program")
        for method in multiprocessing.get_all_start_methods():
            process = multiprocessing.get_context(method).Process(target=child, args=(method,))
            process.start()
            process.join()
        child("command")
"""


def family(done: Done) -> dict[str, str]:
    assert (done.stderr, done.returncode) == ("", 0)
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


METHODS = multiprocessing.get_all_start_methods()
ALL = {who for each in [*METHODS, "command"] for who in (each, f"below {each}")} | {"program"}
ON = dict.fromkeys(ALL, "unirun.process")
OFF = dict.fromkeys(ALL, "concurrent.futures.process")


def test_the_hook_is_on_in_the_program_and_in_all_that_it_starts(tmp_path: Path) -> None:
    app = write(tmp_path / "app.py", FAMILY)
    assert family(python(app, cwd=tmp_path)) == OFF
    assert family(run(app, cwd=tmp_path)) == ON


def test_the_hook_is_on_where_only_the_working_directory_leads_to_unirun(tmp_path: Path) -> None:
    app = write(tmp_path / "app.py", FAMILY)
    bare = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    assert family(run(app, cwd=ROOT, env=bare)) == ON
    assert family(run(app, cwd=ROOT, env={**bare, "PYTHONPATH": "."})) == ON


def test_the_hook_is_on_where_unirun_is_in_an_archive(tmp_path: Path) -> None:
    app = write(tmp_path / "app.py", FAMILY)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in (ROOT / "unirun").rglob("*.py"):
            archive.write(file, file.relative_to(ROOT))
    assert family(run(app, cwd=tmp_path, env=environment(PYTHONPATH="all.zip"))) == ON


def test_the_program_does_not_see_what_it_would_not_see_without(tmp_path: Path) -> None:
    code = "import importlib.util as u; print(u.find_spec('beside'), u.find_spec('unirun').origin)"
    app = write(tmp_path / "app.py", code)
    write(tmp_path / "lib" / "beside.py", "")
    (tmp_path / "lib" / "unirun").symlink_to(ROOT / "unirun")
    bare = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = run("--trace", app, cwd=tmp_path / "lib", env=bare)
    assert (done.stdout, done.stderr) == (f"None {tmp_path / 'lib' / 'unirun' / '__init__.py'}\n", "")


@pytest.mark.parametrize("off", [{"UNIRUN_AUTOPATCH": "0"}, {"UNIRUN_COMPAT_MODE": "passthrough"}])
def test_the_kill_switch_holds(tmp_path: Path, off: dict[str, str]) -> None:
    app = write(tmp_path / "app.py", FAMILY)
    assert family(run(app, cwd=tmp_path, env=environment(**off))) == OFF


def test_run_in_run_is_one(programs: Path) -> None:
    once = run("-c", "import os; print(os.environ['PYTHONPATH'])", cwd=programs)
    code = "import os, sys; os.execv(sys.executable, [sys.executable, '-m', 'unirun', 'run', 'app.py', 'x'])"
    assert run("-c", code, cwd=programs).stdout == python("app.py", "x", cwd=programs).stdout
    nested = code.replace("'app.py', 'x'", "'-c', 'import os; print(os.environ[\"PYTHONPATH\"])'")
    assert run("-c", nested, cwd=programs).stdout == once.stdout == f"{STARTUP}{os.pathsep}{ROOT}\n"


PRETENDS = """
    import sys
    sys.meta_path.append(type(sys.implementation)(name="unirun_autopatch", find_spec=lambda *_: None))
"""


def test_where_each_python_has_the_hook_the_path_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "site" / "sitecustomize.py", PRETENDS)
    path = f"{tmp_path / 'site'}{os.pathsep}{ROOT}"
    done = run("-c", "import os; print(os.environ['PYTHONPATH'])", cwd=tmp_path, env=environment(PYTHONPATH=path))
    assert (done.stdout, done.stderr) == (f"{path}\n", "")


def test_an_idle_program_loads_nothing_of_unirun(tmp_path: Path) -> None:
    code = (
        "import sys, asyncio, concurrent.futures; print([m for m in sys.modules if 'unirun' in m or 'customize' in m])"
    )
    assert run("--trace", "--strict", "-c", code, cwd=tmp_path).stdout == "[]\n"


def test_two_threads_that_import_at_once(tmp_path: Path) -> None:
    """One has the lock of `unirun` and is about to look for a part of it, when the other asks for a pool's class."""
    program = write(
        tmp_path / "program.py",
        """
        import faulthandler, importlib._bootstrap as bootstrap, threading, time
        faulthandler.dump_traceback_later(20, exit=True)
        inside, acquire = threading.Event(), bootstrap._ModuleLock.acquire
        def slowly(lock):
            acquired = acquire(lock)
            if threading.current_thread() is other and lock.name == "unirun":
                inside.set()
                time.sleep(0.3)
            return acquired
        bootstrap._ModuleLock.acquire = slowly
        other = threading.Thread(target=__import__, args=("unirun",))
        other.start()
        inside.wait(20)
        from concurrent.futures.thread import ThreadPoolExecutor
        other.join()
        print(ThreadPoolExecutor.__module__)
        """,
    )
    done = run(program, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unirun.thread\n", "")


def test_a_hook_that_a_program_has_installed_is_not_inherited(tmp_path: Path) -> None:
    code = """
        from unirun import autopatch, cli
        autopatch.install()
        cli.main(["run", "-c", "import concurrent.futures as it; print(it.ThreadPoolExecutor.__module__)"])
    """
    done = python("-c", textwrap.dedent(code), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unirun.thread\n", "")


def test_the_hook_can_be_turned_off_by_the_program(tmp_path: Path) -> None:
    code = """
        import unirun.autopatch, concurrent.futures
        before = concurrent.futures.ProcessPoolExecutor.__module__, unirun.autopatch.status().active
        unirun.autopatch.uninstall()
        print(*before, concurrent.futures.ProcessPoolExecutor.__module__, unirun.autopatch.status().active)
    """
    done = run("-c", textwrap.dedent(code), cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("unirun.process True concurrent.futures.process False\n", "")


# What stands in the way of the folder on PYTHONPATH

CUSTOM = {
    "none": None,
    "one that prints": "import sys; print('custom', __name__, __file__, sys.modules[__name__].__file__)",
    "one with an error": "1 / 0",
    "one that lacks something": "import missing",
    "one that lacks itself": "raise ImportError('x', name='sitecustomize')",
}


@pytest.mark.parametrize("custom", CUSTOM)
def test_a_sitecustomize_of_the_users_runs_as_without(tmp_path: Path, custom: str) -> None:
    text = CUSTOM[custom]
    write(tmp_path / "site" / ("nothing.py" if text is None else "sitecustomize.py"), text or "")
    env = environment(PYTHONPATH=str(tmp_path / "site"))
    with_ours = {**env, "PYTHONPATH": os.pathsep.join([str(STARTUP), str(STARTUP), env["PYTHONPATH"]])}
    for code in (STATE, "import sitecustomize; print(sitecustomize.__spec__.origin)"):
        expected = python("-c", textwrap.dedent(code), cwd=tmp_path, env=env)
        done = python("-c", textwrap.dedent(code), cwd=tmp_path, env=with_ours)
        assert (done.stdout, done.stderr, done.returncode) == (expected.stdout, expected.stderr, expected.returncode)
    code = "import concurrent.futures; print(concurrent.futures.ProcessPoolExecutor.__module__)"
    assert python("-c", code, cwd=tmp_path, env=with_ours).stdout.endswith("unirun.process\n")


def test_what_a_pth_file_has_loaded_is_replaced_too(tmp_path: Path) -> None:
    """`site` reads these before it imports `sitecustomize`."""
    write(tmp_path / "early.pth", "import concurrent.futures.thread, concurrent.futures.process\n")
    code = """
        import runpy, site, sys
        site.addsitedir(".")
        sys.modules["sitecustomize"] = sys  # as it makes way for the next one
        runpy.run_path(sys.argv[1])
        import concurrent.futures
        print(concurrent.futures.ProcessPoolExecutor.__module__, concurrent.futures.ThreadPoolExecutor.__module__)
    """
    text = (STARTUP / "sitecustomize.py").read_text().replace('__import__("sitecustomize")\n', "")
    write(tmp_path / "last.py", text.replace("__file__", repr(str(STARTUP / "sitecustomize.py"))))
    env = environment(PYTHONPATH=str(ROOT))
    done = python("-c", textwrap.dedent(code), "last.py", cwd=tmp_path, env=env)
    assert (done.stdout, done.stderr) == ("unirun.process unirun.thread\n", "")
    code = """
        import runpy, site, sys
        site.addsitedir(".")
        sys.modules["sitecustomize"] = sys
        runpy.run_path(sys.argv[1])
        print(*(name for name in sys.modules if name.startswith("unirun")))
    """
    for off in ({"UNIRUN_AUTOPATCH": "0"}, {"UNIRUN_COMPAT_MODE": "passthrough"}):
        done = python("-c", textwrap.dedent(code), "last.py", cwd=tmp_path, env={**env, **off})
        assert (done.stdout, done.stderr) == ("\n", "")


def test_a_module_that_only_has_the_name_of_unirun_does_no_harm(tmp_path: Path) -> None:
    code = "import sys, concurrent.futures as f; sys.modules['unirun'] = sys; print(f.ProcessPoolExecutor.__module__)"
    done = run("-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("concurrent.futures.process\n", "")


def test_older_pythons_read_it_and_are_left_alone(tmp_path: Path) -> None:
    source = STARTUP / "sitecustomize.py"
    ast.parse(source.read_text(), feature_version=(3, 4))
    assert source.read_bytes().isascii()
    assert all(  # Python 2 has no annotations
        node.returns is None and not any(a.annotation for a in node.args.args)
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.FunctionDef)
    )
    code = f"""
        import runpy, sys
        before, sys.version_info = list(sys.meta_path), (3, 9, 0)
        try:
            runpy.run_path({str(source)!r})
        except ImportError as error:
            print(error.name, sys.meta_path == before)
    """
    assert python("-S", "-c", textwrap.dedent(code), cwd=tmp_path).stdout == "sitecustomize True\n"


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_a_python_that_would_not_have_the_hook_is_refused(tmp_path: Path, flag: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from unirun.cli import main; sys.exit(main())"
    done = python(flag, "-c", code, "run", "-c", "print('ran')", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith(f"unirun: under python {flag} the program would have no hook")


def test_a_folder_that_the_path_cannot_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "unirun").symlink_to(ROOT / "unirun")
    bare = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = run("-c", "print('ran')", cwd=tmp_path / "a:b", env=bare)
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith("unirun: the program would have no hook: PYTHONPATH cannot name ")


# Its options

POOL = """
    import sys
    from concurrent.futures import ProcessPoolExecutor

    if __name__ == "__main__":
        with ProcessPoolExecutor(2) as pool:
            print(pool.submit(abs, -3).result(), sys.argv[1:])
"""


def on_a_host(on_host: OnHost, host: str, words: list[str], folder: Path, **variables: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "unirun", "run", *words]
    outcome = on_host(host, command, env=environment(**variables), cwd=folder)
    assert outcome.left_behind == ()
    return outcome.returncode, outcome.stdout, outcome.stderr


def test_strict_makes_a_downgrade_an_error(on_host: OnHost, tmp_path: Path) -> None:
    write(tmp_path / "app.py", POOL)
    status, out, err = on_a_host(on_host, "fork-refused", ["app.py", "--strict"], tmp_path)
    assert (status, out) == (0, "3 ['--strict']\n")
    assert f"app.py:6: DowngradeWarning: ProcessPoolExecutor runs in {lower()}" in err
    status, out, err = on_a_host(on_host, "fork-refused", ["--strict", "app.py"], tmp_path, UNIRUN_DOWNGRADE="silent")
    assert (status, out) == (1, "")
    assert "unirun.errors.DowngradeError: ProcessPoolExecutor cannot be served as asked" in err


def test_trace_says_each_decision(on_host: OnHost, tmp_path: Path) -> None:
    write(tmp_path / "app.py", POOL)
    status, out, err = on_a_host(
        on_host, "fork-refused", ["--trace", "app.py", "a"], tmp_path, UNIRUN_DOWNGRADE="silent"
    )
    assert (status, out) == (0, "3 ['a']\n")
    assert err.startswith(f"unirun: ProcessPoolExecutor runs in {lower()} (2 workers); ")
    assert "processes refused (BlockingIOError: [Errno 11]" in err
    assert err.count("\n") == 1


def test_a_pool_that_no_line_of_the_users_has_made_warns_all_the_same(on_host: OnHost, tmp_path: Path) -> None:
    """Its constructor was called by a thread of the stdlib's: the line is the one that submits, if there is one."""
    write(
        tmp_path / "app.py",
        """
        import asyncio, sys, threading
        from concurrent.futures import ProcessPoolExecutor

        async def awaited():
            pool = await asyncio.to_thread(ProcessPoolExecutor, 2)
            return await asyncio.get_running_loop().run_in_executor(pool, abs, -3)

        def nobody():
            made = []
            thread = threading.Thread(target=made.extend, args=(map(ProcessPoolExecutor, [2]),))
            thread.start()
            thread.join()
            thread = threading.Thread(target=made[0].submit, args=(abs, -3))
            thread.start()
            thread.join()
            made[0].shutdown()

        asyncio.run(awaited()) if sys.argv[1] == "awaited" else nobody()
        """,
    )
    status, _, err = on_a_host(on_host, "fork-refused", ["app.py", "awaited"], tmp_path)
    assert status == 0
    assert "app.py:7: DowngradeWarning: ProcessPoolExecutor runs in threads" in err
    status, _, err = on_a_host(on_host, "fork-refused", ["app.py", "nobody"], tmp_path)
    assert status == 0
    assert "DowngradeWarning: ProcessPoolExecutor runs in threads" in err


IN_CHILDREN = """
    import multiprocessing, os, subprocess, sys
    from concurrent.futures import ThreadPoolExecutor

    def ask():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(abs, -3).result()

    if __name__ == "__main__":
        ask(); ask()
        for method in multiprocessing.get_all_start_methods():
            process = multiprocessing.get_context(method).Process(target=ask)
            process.start()
            process.join()
        subprocess.run([sys.executable, "-c", "import app; app.ask()"], check=True)
        ThreadPoolExecutor(3).shutdown()
        print("done")
"""
CHILDREN = len(METHODS) + 1


def test_trace_reaches_the_processes_that_the_program_starts(tmp_path: Path) -> None:
    write(tmp_path / "app.py", IN_CHILDREN)
    done = run("--trace", "app.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n")
    lines = done.stderr.splitlines()
    assert len(lines) == CHILDREN + 3
    assert all(line.startswith("unirun: ThreadPoolExecutor runs in threads (") for line in lines)


def test_trace_leaves_a_file_that_was_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "app.py", POOL)
    for value in ("trace.jsonl", " "):
        done = run("--trace", "app.py", cwd=tmp_path, env=environment(UNIRUN_TRACE=value))
        assert (done.returncode, bool(done.stderr)) == (0, value == " ")
    assert json.loads((tmp_path / "trace.jsonl").read_text())["backend"] == "processes"


def test_summary_counts_the_pools_of_all_processes(tmp_path: Path) -> None:
    write(tmp_path / "app.py", IN_CHILDREN)
    # Not below tmp_path, whose name may be too long for the socket of a fork server.
    with tempfile.TemporaryDirectory() as temporary:
        done = run("--summary", "app.py", cwd=tmp_path, env=environment(TMPDIR=temporary))
        assert os.listdir(temporary) == []
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert done.stderr.splitlines()[0] == f"unirun: {CHILDREN + 3} pools were asked for"
    found = [re.split("  +", line.strip()) for line in done.stderr.splitlines()[1:]]
    here = rf"{CHILDREN + 2} x ThreadPoolExecutor, .*app\.py:6"
    assert re.fullmatch(here, found[0][0])
    assert found[0][1:] == ["threads (1 worker)", f"in {CHILDREN} processes that the program started"]
    assert re.fullmatch(r"1 x ThreadPoolExecutor, .*app\.py:16", found[1][0])
    assert found[1][1:] == ["threads (3 workers)", "never had a task"]


def test_summary_says_why_it_was_not_the_first_rung(on_host: OnHost, tmp_path: Path) -> None:
    write(tmp_path / "app.py", POOL)
    for words, served, status in (
        (["--summary"], f"{lower()} (2 workers)", 0),
        (["--strict", "--summary"], "nowhere", 1),
        (["--summary", "--trace"], f"{lower()} (2 workers)", 0),
    ):
        done = on_a_host(on_host, "fork-refused", [*words, "app.py"], tmp_path, UNIRUN_DOWNGRADE="silent")
        assert done[0] == status
        last = done[2].splitlines()[-2:]
        assert last[0] == "unirun: 1 pool was asked for"
        assert re.search(rf"1 x ProcessPoolExecutor, .*app.py:6  {re.escape(served)}  processes refused \(", last[1])
        assert "[Errno 11] Resource temporarily unavailable, at start)" in last[1]
        assert (f"unirun: ProcessPoolExecutor runs in {lower()}" in done[2]) == ("--trace" in words)


@pytest.mark.parametrize(
    "end", ["error", "exit status", "exit text", "interrupt", "order", "bad hook", "error in a thread"]
)
def test_summary_comes_last_and_changes_no_end(tmp_path: Path, end: str) -> None:
    program = write(tmp_path / "app.py", ENDS[end] + "\n")
    expected = python(program, cwd=tmp_path)
    done = run("--summary", program, cwd=tmp_path)
    assert (done.stdout, done.returncode) == (expected.stdout, expected.returncode)
    assert done.stderr == expected.stderr + "unirun: no pool was asked for\n"


def test_summary_comes_after_what_the_program_wrote_at_its_exit(tmp_path: Path) -> None:
    code = "import atexit; atexit.register(print, 'bye'); print('hello')"
    done = subprocess.run(
        [sys.executable, "-m", "unirun", "run", "--summary", "-c", code],
        cwd=tmp_path, env={**environment(), "PYTHONUNBUFFERED": ""}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "hello\nbye\nunirun: no pool was asked for\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_summary_is_printed_once_where_the_program_forks(tmp_path: Path) -> None:
    code = """
        import os, sys
        from concurrent.futures import ThreadPoolExecutor
        child = os.fork()
        if not child:
            sys.exit()
        os.waitpid(child, 0)
        ThreadPoolExecutor(1).shutdown()
    """
    done = run("--summary", "-c", textwrap.dedent(code), cwd=tmp_path)
    assert done.stderr.count("asked for") == done.stderr.count("unirun: 1 pool was asked for") == 1


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the stdlib has no pools of interpreters")
def test_summary_counts_on_when_an_interpreter_has_ended(tmp_path: Path) -> None:
    program = write(
        tmp_path / "program.py",
        """
        from concurrent.futures import InterpreterPoolExecutor, ThreadPoolExecutor
        for kind in (InterpreterPoolExecutor, ThreadPoolExecutor):
            with kind(1) as pool:
                assert pool.submit(pow, 2, 3).result() == 8
        """,
    )
    done = run("--summary", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 pool was asked for" in done.stderr


def test_summary_says_that_the_hook_is_off(tmp_path: Path) -> None:
    done = run("--summary", "-c", "pass", cwd=tmp_path, env=environment(UNIRUN_AUTOPATCH="0"))
    assert done.stderr == "unirun: no pool was asked for; the hook is off (UNIRUN_AUTOPATCH=0)\n"


def test_summary_needs_a_place_to_write_to(tmp_path: Path) -> None:
    code = "import tempfile; tempfile.tempdir = '/nowhere'; from unirun.cli import main; raise SystemExit(main())"
    done = python("-c", code, "run", "--summary", "-c", "print('ran')", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", 2)
    assert "No such file or directory" in done.stderr


# What is no program, or cannot be run


@pytest.mark.parametrize("words", [[], ["--"], ["--trace"], ["--trace", "--strict", "--"]])
def test_without_a_program_it_says_so(tmp_path: Path, words: list[str]) -> None:
    done = run(*words, cwd=tmp_path, stdin="print('ran')")
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith("usage: python -m unirun run [-h] [--trace] [--strict] [--summary] (FILE | -m MODULE")
    assert done.stderr.endswith("python -m unirun run: error: which program?\n")


@pytest.mark.parametrize("words", [["--bogus", "app.py"], ["-O", "app.py"], ["--trac", "app.py"], ["-i"]])
def test_an_unknown_option_is_not_taken_for_a_program(programs: Path, words: list[str]) -> None:
    done = run(*words, cwd=programs)
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith("usage: python -m unirun run [-h] ")  # not that of all commands
    assert done.stderr.endswith(f"unrecognized arguments: {words[0]}\n")


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["--trace", "--help"]])
def test_help_lists_all(tmp_path: Path, words: list[str]) -> None:
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for each in (*runner.OPTIONS, "-m MODULE", "-c CODE", "UNIRUN_TRACE=stderr", "UNIRUN_DOWNGRADE=error"):
        assert each in done.stdout


@pytest.mark.parametrize(("name", "value"), [("UNIRUN_MAX_WORKERS", "many"), ("UNIRUN_COMPAT_MODE", "off")])
def test_a_bad_setting_is_said_before_the_program_runs(tmp_path: Path, name: str, value: str) -> None:
    done = run("-c", "print('ran')", cwd=tmp_path, env=environment(**{name: value}))
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith(f"unirun: {name}={value!r} is not accepted: ")
    assert done.stderr.count("\n") == 1


def test_an_unknown_variable_is_left_to_the_program(tmp_path: Path) -> None:
    done = run("-c", "print('ran')", cwd=tmp_path, env=environment(UNIRUN_DOWNGRAD="error"))
    assert (done.stdout, done.stderr, done.returncode) == ("ran\n", "", 0)


def test_where_no_python_can_be_started_it_says_so(tmp_path: Path) -> None:
    code = "import sys; sys.executable = {}; from unirun.cli import main; sys.exit(main())"
    for executable in ("'/nowhere/python'", "''", "None"):
        for option in ([], ["--summary"]):
            words = ["run", *option, "-c", "print('ran')"]
            env = environment(TMPDIR=str(tmp_path))
            done = python("-c", code.format(executable), *words, cwd=tmp_path, env=env)
            assert (done.stdout, done.returncode) == ("", 2)
            assert done.stderr.startswith("unirun: another Python cannot be started here")
    assert list(tmp_path.iterdir()) == []


# Where exec is not what it is on Unix: the program runs in another process, and this one waits

WINDOWS = """
    import os, subprocess, sys, tempfile
    os.name = "nt"
    from unirun.cli import main
    sys.exit(main())
"""


def test_another_process_runs_the_program_where_exec_cannot(programs: Path) -> None:
    waits = write(programs / "waits.py", WINDOWS)
    expected = python("-O", "app.py", "x", cwd=programs, stdin="input")
    done = python("-O", waits, "run", "app.py", "x", cwd=programs, stdin="input")
    assert (done.stdout, done.stderr, done.returncode) == (expected.stdout, expected.stderr, 0)
    done = python(waits, "run", "--summary", "-c", "print(1); raise SystemExit(3)", cwd=programs)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "unirun: no pool was asked for\n", 3)


@pytest.mark.skipif(os.name != "posix", reason="signals are those of a Unix")
def test_a_ctrl_c_there_is_the_programs_to_answer(tmp_path: Path) -> None:
    write(tmp_path / "waits.py", WINDOWS)
    program = """
        import os, time
        print(os.getppid(), flush=True)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.3)
            raise SystemExit(9)
    """
    write(tmp_path / "app.py", program)
    with started("waits.py", "run", "app.py", cwd=tmp_path, start_new_session=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        time.sleep(0.5)  # as above
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 9

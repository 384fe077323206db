"""install(), uninstall(), status(), disabled() and the variables: each in an interpreter of its own."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.autopatch.test_classes import UNDER_HOOK, clean_environment
from tests.autopatch.test_classes import companion as companion  # the fixture
from tests.lower import lower


def run(code: str, *, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", before + "\n" + textwrap.dedent(code)],
        env={**clean_environment(), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def succeed(code: str, *, before: str = "", **variables: str) -> None:
    done = run(code, before=before, **variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_install_before_anything_is_imported() -> None:
    succeed("""
        import sys
        from unirun import autopatch
        handle = autopatch.install()
        assert (handle.changed, handle.rebound, handle.left) == (True, (), ())
        assert "concurrent.futures" not in sys.modules or "concurrent.futures.process" not in sys.modules
        from concurrent.futures import ProcessPoolExecutor
        assert ProcessPoolExecutor.__module__ == "unirun.process"
        status = autopatch.status()
        assert (status.active, status.by, status.off_because, status.errors) == (True, "install", None, {})
        assert status.replaced["concurrent.futures.process.ProcessPoolExecutor"] == "unirun.process.ProcessPoolExecutor"
    """)


def test_install_rebinds_what_was_imported_before() -> None:
    done = run("""
        import concurrent.futures as futures, types, sys, warnings
        from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor as P
        class Mine(ThreadPoolExecutor): pass
        old, mine, original = ThreadPoolExecutor(1), Mine(1), ThreadPoolExecutor
        kept = [original]
        other = sys.modules["other"] = types.ModuleType("other")
        other.Pool = ThreadPoolExecutor
        from unirun import autopatch
        with autopatch.install() as handle:
            assert set(handle.rebound) == {
                "__main__.ThreadPoolExecutor", "__main__.P", "__main__.original", "other.Pool"}, handle
            assert handle.left == ("__main__.Mine (derived from it)",)
            assert ThreadPoolExecutor is futures.ThreadPoolExecutor is other.Pool is not kept[0]
            assert P is futures.ProcessPoolExecutor
            assert autopatch.status().left == handle.left
            assert isinstance(old, ThreadPoolExecutor) and isinstance(mine, ThreadPoolExecutor)
            assert type(mine) is Mine and mine.submit(abs, -3).result() == 3
            again = autopatch.install()
            assert not again.changed and again.rebound == ()
        assert ThreadPoolExecutor is futures.ThreadPoolExecutor is other.Pool is kept[0]
        assert not autopatch.status().active and autopatch.status().replaced == {}
        assert old.__class__ is type(old) is kept[0] and kept[0].__bases__ == (futures.Executor,)
    """)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    first, second = (line for line in done.stderr.splitlines() if "RuntimeWarning" in line)
    assert first.partition("Warning")[2] == second.partition("Warning")[2]
    assert "RuntimeWarning: unirun.autopatch.install() came after" in first
    assert first.endswith(": __main__.Mine (derived from it)")


def test_what_a_module_has_imported_from_unirun_stays() -> None:
    """When the hook is turned off again: it was not the hook that put it there."""
    succeed("""
        import concurrent.futures, sys, types
        from concurrent.futures import ThreadPoolExecutor as Stdlib
        from unirun import autopatch
        from unirun.compat.concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
        own, pools = Stdlib, (ProcessPoolExecutor, ThreadPoolExecutor)
        for _ in range(2):
            with autopatch.install():
                assert Stdlib is own is concurrent.futures.ThreadPoolExecutor is ThreadPoolExecutor
            assert Stdlib is own is concurrent.futures.ThreadPoolExecutor is not ThreadPoolExecutor
            assert pools == (ProcessPoolExecutor, ThreadPoolExecutor)
    """)


def test_an_executor_made_before_can_be_asyncio_s_default() -> None:
    succeed("""
        import asyncio, concurrent.futures
        old = concurrent.futures.ThreadPoolExecutor(1)
        from unirun import autopatch
        autopatch.install()
        async def main():
            asyncio.get_running_loop().set_default_executor(old)
            return await asyncio.to_thread(abs, -3)
        assert asyncio.run(main()) == 3
    """)


def test_uninstall_takes_the_pth_s_finder_away(companion: Path) -> None:
    succeed(
        """
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from unirun import autopatch
        status = autopatch.status()
        assert (status.active, status.by, status.file) == (True, "pth", FILE), status
        assert not autopatch.install().changed
        with ThreadPoolExecutor(1) as pool:
            autopatch.uninstall()
            assert pool.submit(abs, -3).result() == 3
        assert ThreadPoolExecutor.__module__ == "concurrent.futures.thread"
        assert "unirun" not in str(sys.meta_path)
        from concurrent.futures import ProcessPoolExecutor
        assert ProcessPoolExecutor.__module__ == "concurrent.futures.process"
        assert autopatch.install().changed
        from concurrent.futures import ProcessPoolExecutor
        assert ProcessPoolExecutor.__module__ == "unirun.process"
    """,
        before=UNDER_HOOK.format(str(companion)) + f"FILE = {str(companion / 'unirun_autopatch.pth')!r}",
    )


STDLIB = """
    import concurrent.futures as futures, sys
    for cls in (futures.ProcessPoolExecutor, futures.ThreadPoolExecutor):
        assert cls.__module__.startswith("concurrent.futures."), cls
        assert "unirun.process" not in sys.modules
        with cls(1) as pool:
            assert pool.submit(abs, -3).result() == 3
"""


@pytest.mark.parametrize("off", ["0", "false", "No", " off "])
def test_the_kill_switch(off: str, companion: Path) -> None:
    succeed(STDLIB, before=UNDER_HOOK.format(str(companion)), UNIRUN_AUTOPATCH=off)
    succeed("from unirun import autopatch; assert not autopatch.install().changed\n" + textwrap.dedent(STDLIB),
            UNIRUN_AUTOPATCH=off)  # fmt: skip


def test_passthrough(companion: Path) -> None:
    succeed(STDLIB, before=UNDER_HOOK.format(str(companion)), UNIRUN_COMPAT_MODE="passthrough")
    succeed(
        """
        from unirun import autopatch
        assert not autopatch.install().changed
        assert autopatch.status().off_because == "UNIRUN_COMPAT_MODE=passthrough"
    """,
        UNIRUN_COMPAT_MODE="passthrough",
    )


@pytest.mark.parametrize(
    "bad",
    ["UNIRUN_AUTOPATCH=maybe", "UNIRUN_COMPAT_MODE=manged", "UNIRUN_MAX_WORKERS=many", "UNIRUN_AUTOPATCH_EXCLUDE=a b"],
)
def test_a_bad_setting_warns_once_and_leaves_the_stdlib_alone(bad: str, companion: Path) -> None:
    name, _, value = bad.partition("=")
    done = run(STDLIB, before=UNDER_HOOK.format(str(companion)), **{name: value})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.count("RuntimeWarning") == 1
    assert f"unirun leaves concurrent.futures as it is: {name}='{value}' is not accepted" in done.stderr
    done = run("from unirun import autopatch; autopatch.install()", **{name: value})
    assert done.returncode == 1
    assert f"unirun.errors.ConfigError: {name}='{value}' is not accepted" in done.stderr


def test_disabled_is_for_this_thread_or_task() -> None:
    succeed("""
        import asyncio, threading
        from unirun import autopatch
        autopatch.install()
        from concurrent.futures import ThreadPoolExecutor
        def module():
            return type(ThreadPoolExecutor(1)).__module__
        elsewhere = []
        with autopatch.disabled():
            assert module() == "concurrent.futures.thread"
            with autopatch.disabled():
                pass
            assert module() == "concurrent.futures.thread"
            class Mine(ThreadPoolExecutor): pass
            assert type(Mine(1)) is Mine and not hasattr(Mine(1), "decision")
        assert Mine(1).decision.backend == "threads"
        async def aside(begin):
            with autopatch.disabled():
                begin.set()
                await asyncio.sleep(0.05)
                return module()
        async def main():
            begin = asyncio.Event()
            task = asyncio.create_task(aside(begin))
            await begin.wait()
            assert module() == "unirun.thread"
            assert await task == "concurrent.futures.thread"
        asyncio.run(main())
        assert module() == "unirun.thread"
    """)


def test_excluded_modules_construct_the_stdlib_s_own() -> None:
    succeed(
        """
        import sys, types
        from unirun import autopatch
        autopatch.install()
        def module(name):
            made = sys.modules[name] = types.ModuleType(name)
            exec("from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor\\n"
                 "def make(cls): return cls(1)\\n"
                 "class Mine(ThreadPoolExecutor): pass\\nclass Ours(ProcessPoolExecutor): pass\\n", made.__dict__)
            return made
        for name, home in (("joblib", "concurrent.futures"), ("joblib.parallel", "concurrent.futures"),
                           ("joblibs", "unirun"), ("some.job", "concurrent.futures"), ("some", "unirun")):
            made = module(name)
            for cls in (made.ThreadPoolExecutor, made.ProcessPoolExecutor):
                with made.make(cls) as pool:
                    assert type(pool).__module__.startswith(home), (name, type(pool))
                    assert isinstance(pool, cls)
                    assert pool.submit(abs, -3).result() == 3
            for cls in (made.Mine, made.Ours):
                with cls(1) as pool:
                    assert type(pool) is cls
                    assert hasattr(pool, "decision") == (home == "unirun"), (name, cls)
                    assert pool.submit(abs, -3).result() == 3
    """,
        UNIRUN_AUTOPATCH_EXCLUDE="joblib, some.job",
    )


def test_an_unknown_variable_is_pointed_out_at_the_program_s_line(companion: Path) -> None:
    done = run(
        "from concurrent.futures import ThreadPoolExecutor",
        before=UNDER_HOOK.format(str(companion)),
        UNIRUN_MAXWORKERS="3",
    )
    told = "<string>:2: RuntimeWarning: the environment variable UNIRUN_MAXWORKERS means nothing to unirun"
    assert done.stderr.startswith(told), done.stderr


def test_a_program_s_own_unirun_is_not_imported_by_the_hook(tmp_path: Path, companion: Path) -> None:
    (tmp_path / "unirun.py").write_text("raise SystemExit('imported, and not by the program')")
    succeed(
        STDLIB.replace('"unirun.process"', '"unirun"'),
        before=f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {UNDER_HOOK.format(str(companion))}",
    )


def test_a_program_s_own_package_unirun_is_not_imported_by_the_hook(tmp_path: Path, companion: Path) -> None:
    (tmp_path / "unirun").mkdir()
    (tmp_path / "unirun" / "__init__.py").write_text("raise SystemExit('imported, and not by the program')")
    succeed(
        STDLIB.replace('"unirun.process"', '"unirun"'),
        before=f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {UNDER_HOOK.format(str(companion))}",
    )


def test_a_class_that_was_instrumented_before_install_is_replaced_by_one_class() -> None:
    succeed("""
        import asyncio, concurrent.futures as futures
        from concurrent.futures import ThreadPoolExecutor
        original = ThreadPoolExecutor.submit
        def submit(self, fn, /, *args, **kwargs):
            return original(self, fn, *args, **kwargs)
        ThreadPoolExecutor.submit = submit
        from unirun.compat.concurrent.futures import ThreadPoolExecutor as Compat
        from unirun import autopatch
        with autopatch.install():
            assert Compat is futures.ThreadPoolExecutor is ThreadPoolExecutor
            getattr(futures, "InterpreterPoolExecutor", None)
            assert Compat is futures.ThreadPoolExecutor
            async def main(pool):
                asyncio.get_running_loop().set_default_executor(pool)
                return await asyncio.to_thread(abs, -1)
            assert asyncio.run(main(Compat(1))) == 1
    """)


def test_a_script_s_thread_pool_loads_no_multiprocessing(tmp_path: Path, companion: Path) -> None:
    """Nor does anything else, up to its exit."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(1) as pool:\n"
        "    assert pool.submit(abs, -1).result() == 1\n"
        "assert type(pool).__module__ == 'unirun.thread'\n"
        "assert 'multiprocessing' not in sys.modules and 'socket' not in sys.modules\n"
    )
    succeed(
        "import runpy; runpy.run_path(" + repr(str(script)) + ", run_name='__main__')",
        before=UNDER_HOOK.format(str(companion)),
    )


def test_names_in_excluded_modules_are_left(tmp_path: Path) -> None:
    (tmp_path / "joblib.py").write_text("from concurrent.futures import ThreadPoolExecutor\n")
    done = run(
        """
        import sys
        sys.path.insert(0, FOLDER)
        import joblib
        from unirun import autopatch
        assert autopatch.install().left == ("joblib.ThreadPoolExecutor",)
        assert joblib.ThreadPoolExecutor.__module__ == "concurrent.futures.thread"
    """,
        before=f"FOLDER = {str(tmp_path)!r}",
        UNIRUN_AUTOPATCH_EXCLUDE="joblib",
    )
    assert done.returncode == 0, done.stderr
    assert "joblib.ThreadPoolExecutor" in done.stderr


def test_what_an_idle_hook_imports(companion: Path) -> None:
    """Nothing for `concurrent.futures` and asyncio; for the class of threads neither multiprocessing nor typing."""
    succeed(
        """
        import sys
        import asyncio, concurrent.futures
        assert not [name for name in sys.modules if "unirun" in name and name != "_unirun_autopatch"]
        assert "multiprocessing" not in sys.modules and "wrapt" not in sys.modules
        before = set(sys.modules)
        from concurrent.futures import ThreadPoolExecutor
        assert ThreadPoolExecutor.__module__ == "unirun.thread"
        new = {name for name in set(sys.modules) - before if "unirun" not in name}
        assert new <= {"__future__", "concurrent.futures.thread", "queue", "_queue", "heapq", "_heapq", "weakref"}, new
        assert "wrapt" not in sys.modules
    """,
        before=UNDER_HOOK.format(str(companion)),
    )


FIRST_POOL = """
import sys
import concurrent.futures
with concurrent.futures.{kind}(1) as pool:
    assert pool.submit(abs, -3).result() == 3
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
print(pool.__class__.__module__, *sys.modules)
"""


@pytest.mark.parametrize("kind", ["ProcessPoolExecutor", "ThreadPoolExecutor"])
def test_what_a_first_pool_imports(companion: Path, kind: str) -> None:
    """Our own modules, and next to nothing that the stdlib's pool does not load: a short program pays for each."""
    code = FIRST_POOL.format(kind=kind)
    hook = UNDER_HOOK.format(str(companion))
    plain, hooked = run(code, before=hook, UNIRUN_AUTOPATCH="0"), run(code, before=hook)
    assert (plain.returncode, plain.stderr, hooked.returncode, hooked.stderr) == (0, "", 0, "")
    home, *modules = hooked.stdout.split()
    assert home == f"unirun.{kind.removesuffix('PoolExecutor').lower()}"
    more = {name for name in set(modules).difference(plain.stdout.split()) if name.partition(".")[0] != "unirun"}
    assert more <= {
        *("__future__", "errno", "contextvars", "_contextvars", "_immutables_map"),
        *("importlib", "importlib._bootstrap", "importlib._bootstrap_external", "_interpreters", "_xxsubinterpreters"),
        # The rung below a pool of processes.
        *("concurrent.futures.thread", "queue", "_queue", "heapq", "_heapq", "weakref"),
    }


def test_without_multiprocessing_s_c_module() -> None:
    """Pyodide: before Python 3.13 `concurrent.futures.process` cannot even be imported there."""
    done = run("""
        import os, sys
        sys.modules["_multiprocessing"] = None
        del os.fork
        from unirun import autopatch
        autopatch.install()
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool
        with ProcessPoolExecutor(2) as pool:
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
            print(pool.decision.backend)
    """)
    assert (done.returncode, done.stdout) == (0, f"{lower()}\n"), done.stderr
    assert "DowngradeWarning" in done.stderr


def test_uninstall_where_the_program_has_dropped_the_modules() -> None:
    succeed("""
        import concurrent.futures as futures, sys
        from unirun import autopatch
        autopatch.install()
        managed = futures.ProcessPoolExecutor, futures.ThreadPoolExecutor
        del sys.modules["concurrent.futures.thread"]
        autopatch.uninstall()
        assert autopatch.status().replaced == {}
        assert not {futures.ProcessPoolExecutor, futures.ThreadPoolExecutor} & {*managed}
    """)


def test_uninstall_after_a_reload() -> None:
    succeed("""
        import concurrent.futures.thread, importlib
        from unirun import autopatch
        concurrent.futures.ThreadPoolExecutor
        autopatch.install()
        assert concurrent.futures.ThreadPoolExecutor.__module__ == "unirun.thread"
        importlib.reload(concurrent.futures.thread)
        autopatch.uninstall()
        for module in (concurrent.futures, concurrent.futures.thread):
            assert module.ThreadPoolExecutor.__module__ == "concurrent.futures.thread", module.ThreadPoolExecutor
    """)


def test_a_comma_too_many_excludes_nothing_more() -> None:
    succeed(
        """
        from concurrent.futures import ThreadPoolExecutor
        assert ThreadPoolExecutor.__module__ == "unirun.thread"
        """,
        before="from unirun import autopatch; autopatch.install()",
        UNIRUN_AUTOPATCH_EXCLUDE="joblib,",
    )


def test_a_class_of_the_programs_in_that_place_stays_there() -> None:
    """As tracers put theirs there, which are to see each pool."""
    succeed("""
        import concurrent.futures, concurrent.futures.process, concurrent.futures.thread, sys
        from unirun import autopatch
        class Traced(concurrent.futures.thread.ThreadPoolExecutor): pass
        class TracedProcesses(concurrent.futures.process.ProcessPoolExecutor): pass
        def check():
            assert concurrent.futures.ThreadPoolExecutor is concurrent.futures.thread.ThreadPoolExecutor is Traced
            assert concurrent.futures.process.ProcessPoolExecutor is TracedProcesses
        concurrent.futures.ThreadPoolExecutor = concurrent.futures.thread.ThreadPoolExecutor = Traced
        concurrent.futures.process.ProcessPoolExecutor = TracedProcesses
        autopatch.install()
        if sys.version_info >= (3, 14):
            import concurrent.futures.interpreter
        check()
        autopatch.uninstall()
        check()
    """)


def test_a_tracer_under_the_hook_stays_too() -> None:
    succeed(
        """
        import concurrent.futures, concurrent.futures.thread, sys
        class Traced(concurrent.futures.thread.ThreadPoolExecutor): pass
        concurrent.futures.ThreadPoolExecutor = concurrent.futures.thread.ThreadPoolExecutor = Traced
        if sys.version_info >= (3, 14):
            from concurrent.futures import InterpreterPoolExecutor
            with InterpreterPoolExecutor(1) as pool:
                assert pool.submit(pow, 2, 3).result() == 8
        assert concurrent.futures.ThreadPoolExecutor is concurrent.futures.thread.ThreadPoolExecutor is Traced
        """,
        before="from unirun import autopatch; autopatch.install()",
    )


def test_a_bad_setting_is_not_said_again_by_workers(companion: Path, tmp_path: Path) -> None:
    """Which import the program, and find the same setting."""
    program = tmp_path / "program.py"
    program.write_text(
        UNDER_HOOK.format(str(companion))
        + textwrap.dedent("""
            import multiprocessing
            from concurrent.futures import ProcessPoolExecutor
            if __name__ == "__main__":
                with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
                    print(*pool.map(abs, [-1, -2, -3]))
        """)
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**clean_environment(), "UNIRUN_LADDER": "x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "1 2 3\n", done.stderr
    assert done.stderr.count("RuntimeWarning") == 1

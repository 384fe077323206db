"""What a birth notices: whatever workers that are started now would see differently."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unirun import fresh
from unirun.fresh import Birth

#: A minute and more: files that are as old were not just changed.
LONG_AGO = 100_000_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from, and forgotten in the end."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str = "word = 1\n") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_has_changed(folder: Path) -> None:
    write(folder / "unirun_test_same.py")
    __import__("unirun_test_same")
    birth = Birth()
    assert not birth.is_over()
    assert str(folder / "unirun_test_same.py") in fresh._own_files()


@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_a_file_that_is_another(folder: Path, how: str) -> None:
    file = write(folder / f"unirun_test_{how}.py")
    __import__(file.stem)
    before = file.stat()
    birth = Birth()
    if how == "written":
        file.write_text("word = 2\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif how == "replaced":
        write(folder / "other", "word = 2\n").rename(file)
    else:
        file.unlink()
    assert birth.is_over()


def test_a_link_that_leads_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a deployment does it: the file that it leads to now is older than the workers."""
    for release in ("first", "second"):
        write(folder / release / "unirun_test_release.py", f"word = {release!r}\n")
    current = folder / "current"
    current.symlink_to("first")
    monkeypatch.syspath_prepend(str(current))
    __import__("unirun_test_release")
    monkeypatch.setattr(fresh, "_TICK", -LONG_AGO)  # changes of late do not count
    birth = Birth()
    (folder / "next").symlink_to("second")
    (folder / "next").rename(current)
    assert birth.is_over()


def test_a_module_imported_since(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may have had an older one, if the file was changed since."""
    old = write(folder / "unirun_test_old.py")
    with monkeypatch.context() as patch:
        patch.setattr(fresh, "_TICK", -LONG_AGO)
        birth = Birth()
        __import__(old.stem)
        assert not birth.is_over()
        old.write_text("word = 22\n")
        assert birth.is_over(), "it was the same when it was first asked about"
    birth = Birth()
    new = write(folder / "unirun_test_new.py")
    __import__(new.stem)
    assert birth.is_over()


def test_as_many_modules_as_before(folder: Path) -> None:
    """One is forgotten, and another one imported, which is not the last one either."""
    for name in ("unirun_test_one", "unirun_test_two", "unirun_test_last"):
        write(folder / f"{name}.py")
    __import__("unirun_test_one")
    __import__("unirun_test_last")
    fresh._own_files()
    del sys.modules["unirun_test_one"], sys.modules["unirun_test_last"]
    __import__("unirun_test_two")
    __import__("unirun_test_last")
    assert str(folder / "unirun_test_two.py") in fresh._own_files()


def test_an_archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = folder / "modules.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("unirun_test_zipped.py", "word = 1\n")
    monkeypatch.syspath_prepend(str(archive))
    __import__("unirun_test_zipped")
    birth = Birth()
    assert not birth.is_over()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("unirun_test_zipped.py", "word = 2\n")
    assert birth.is_over()


def test_modules_that_must_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that import something when they are asked for anything; and what is no module at all."""

    class Lazy(ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise ImportError(name)

    monkeypatch.setitem(sys.modules, "unirun_test_lazy", Lazy("unirun_test_lazy"))
    monkeypatch.setitem(sys.modules, "unirun_test_none", None)
    monkeypatch.setitem(sys.modules, "unirun_test_slots", object())
    monkeypatch.setitem(sys.modules, "unirun_test_class", Path)
    assert not Birth().is_over()


def test_the_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    birth = Birth()
    with monkeypatch.context() as patch:
        patch.setenv("SOME_WORD", "new")
        assert birth.is_over()
    for name in ("argv", "path"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, [*getattr(sys, name), "more"])
            assert birth.is_over()
    main = sys.modules["__main__"]
    with monkeypatch.context() as patch:
        patch.setattr(main, "__file__", "elsewhere.py", raising=False)
        assert birth.is_over()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        assert birth.is_over()
    process = multiprocessing.current_process()
    with monkeypatch.context() as patch:
        patch.setattr(process, "authkey", b"other")
        patch.setattr(process, "authkey", process.authkey)
        assert birth.is_over()
    assert not birth.is_over()


def test_a_variable_that_another_thread_deletes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two steps in which the environment is read."""

    class Racing(dict[str, str]):
        asked = 0

        def __getitem__(self, name: str) -> str:
            self.asked += 1
            if self.asked == 1:
                raise KeyError(name)
            return super().__getitem__(name)

        def __iter__(self) -> Iterator[str]:  # without it, `dict` would not ask for each
            return super().__iter__()

    monkeypatch.setattr(os, "environ", racing := Racing(os.environ))
    assert not Birth().is_over()
    assert racing.asked > len(racing)


def test_the_current_directory_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the same name: whoever was in the first one is nowhere now."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    birth = Birth()
    here.rename(tmp_path / "there")
    here.mkdir()
    os.chdir(here)
    assert birth.is_over()


CHANGES = [
    "multiprocessing.set_executable('/no/python')",
    "multiprocessing.set_forkserver_preload(['json'])",
    "os.nice(1)",
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "os.setgid(os.getgid() + 1); os.setuid(os.getuid() + 1)",
]


@pytest.mark.skipif(sys.platform != "linux", reason="not every platform has all of these")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change).partition("(")[0])
def test_what_cannot_be_undone(change: str) -> None:
    """In an interpreter of its own."""
    if "setuid" in change and os.getuid():
        pytest.skip("only root may become somebody else")
    if "affinity" in change and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one CPU only")
    program = f"""
        import multiprocessing, os, resource
        from unirun.fresh import Birth
        resource.setrlimit(resource.RLIMIT_CORE, (1, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        birth = Birth()
        assert not birth.is_over()
        {change}
        assert birth.is_over()
        """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        timeout=60,
    )


def test_another_standard_output(tmp_path: Path) -> None:
    """Spawned workers write to the one that there was; those of a fork server, to that server's."""
    spawned, served = Birth("spawn"), Birth("forkserver")
    before = os.dup(1)
    file = os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT)
    try:
        os.dup2(file, 1)
        assert spawned.is_over()
        assert not served.is_over()
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(file)
    assert not spawned.is_over()


def test_a_fork_server_that_another_thread_is_importing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is there, and has nothing in it yet."""
    monkeypatch.setitem(sys.modules, "multiprocessing.forkserver", ModuleType("multiprocessing.forkserver"))
    assert not Birth("forkserver").is_over()


def test_a_sandbox_may_forbid_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not told to this process, workers would not be told either; and no question changes anything."""

    def forbidden(*_: object) -> Any:
        raise PermissionError(1, "Operation not permitted")

    for name in ("nice", "setpriority", "getpriority", "sched_getaffinity", "getgroups"):
        monkeypatch.setattr(os, name, forbidden, raising=False)
    birth = Birth()
    assert not birth.is_over()


def test_a_module_with_an_impossible_file(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("impossible")
    module.__file__ = "no\0path.py"
    monkeypatch.setitem(sys.modules, "impossible", module)
    assert not Birth().is_over()


def test_the_deadline_of_a_signal_handler_is_no_forbidden_question(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> Any:
        raise TimeoutError("the program's own")

    monkeypatch.setattr(os, "getpriority", late)
    with pytest.raises(TimeoutError, match="the program's own"):
        Birth()

"""What users install is what they asked for: unirun alone never a startup file, its extra one, by whatever installer.

Each install is into a fresh environment. Nearly all are from local files alone, with what builds need beside them: to
fetch every build's needs anew would be no better test.
"""

import email
import email.message
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import unirun
from tests.autopatch import venvs
from tests.autopatch.venvs import ROOT, Venv

HOOK = ["unirun_autopatch.pth"]
FILES = {"_unirun_autopatch.py": "unirun/autopatch/hook.py", "unirun_autopatch.pth": "unirun_autopatch.pth"}

#: A program that works with all that the hook is about, and tells whose thread pool it got. Also for Pythons of old.
PROGRAM = """
import concurrent.futures, multiprocessing.pool
if __name__ == "__main__":
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(len, ["a", "bc"])) == [1, 2]
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        assert pool.submit(pow, 2, 5).result() == 32
    with multiprocessing.pool.ThreadPool(1) as pool:
        assert pool.map(len, ["abc"]) == [3]
    print(concurrent.futures.ThreadPoolExecutor.__module__)
"""
OURS, STDLIB = "unirun.thread\n", "concurrent.futures.thread\n"

Install = Callable[..., None]


def works(venv: Venv, *options: str, program: str = PROGRAM) -> str:
    """Return whose pool a program got, after it and a bare start were seen to work and say nothing."""
    for code, silent in (("pass", True), (program, False)):
        done = venv.run(*options, "-c", code)
        assert (done.returncode, done.stderr) == (0, "")
        assert not (silent and done.stdout)
    return done.stdout


def metadata(text: bytes) -> email.message.Message:
    return email.message_from_bytes(text)


def requirements(metadata: email.message.Message) -> set[str]:
    return {line for line in metadata.get_all("Requires-Dist", []) if "unirun" in line}


@pytest.fixture(scope="session")
def installers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the command of each installer that the contract names."""
    folder = tmp_path_factory.mktemp("installers")
    commands = {}
    for name in ("pip==23.2", "pip", "uv"):
        target = folder / name
        venvs.install(venvs.builder(), "--target", str(target), "--upgrade", name)
        # pip's own folder is a program: what it is run by is what it installs into.
        commands[name] = [str(target / "pip")] if name != "uv" else [str(target / "bin" / "uv")]
    return commands


@pytest.fixture(params=["pip==23.2", "pip", "uv"])
def installer(request: pytest.FixtureRequest, installers: dict[str, list[str]]) -> Install:
    """Return a function that installs from local files alone, without an environment for each build."""
    name: str = request.param
    if name == "pip==23.2" and sys.version_info >= (3, 15):
        pytest.skip("pip 23.2 cannot install anything on Python 3.15: its WheelDistribution is abstract there")
    local = ["--no-index", "--no-build-isolation"]

    def install(venv: Venv, *arguments: str) -> None:
        if name == "uv":
            command = [*installers[name], "pip", "install", "-q", "--python", str(venv.python), *local, *arguments]
        else:
            quiet = ["-q", "--disable-pip-version-check", "--no-input"]
            command = [str(venv.python), *installers[name], "install", "--no-compile", *quiet, *local, *arguments]
        environment = venvs.clean_environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert not done.returncode, done.stdout + done.stderr

    return install


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """Return an environment with what builds need, and what the extra requires beside the companion."""
    venv = venvs.create(tmp_path_factory.mktemp("stock") / "venv")
    shutil.copytree(venvs.builder().site, venv.site, dirs_exist_ok=True)
    venvs.install(venv, "wrapt")
    for path in venv.site.glob("pip*"):
        shutil.rmtree(path)
    return venv


@pytest.fixture
def fresh(stock: Venv, tmp_path: Path) -> Callable[[], Venv]:
    """Return a function that makes an environment that has never had unirun."""
    count = iter(range(9))
    return lambda: copy(stock, tmp_path / f"venv{next(count)}")


def copy(venv: Venv, to: Path) -> Venv:
    """Copy an environment. An interpreter finds its packages by where it is started."""
    shutil.copytree(venv.root, to, symlinks=True)
    return replace(
        venv, root=to, python=to / venv.python.relative_to(venv.root), site=to / venv.site.relative_to(venv.root)
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the checkout, in a folder whose name is not plain ASCII, and has a space."""
    return venvs.copy_checkout(tmp_path / "my prøjects" / "unirun")


@pytest.mark.parametrize("editable", [[], ["--editable"]], ids=["checkout", "editable"])
def test_from_a_checkout(installer: Install, fresh: Callable[[], Venv], checkout: Path, editable: list[str]) -> None:
    plain, hooked = fresh(), fresh()
    before = plain.startup_files()
    path_file = ["_editable_impl_unirun.pth"] if editable else []
    installer(plain, *editable, str(checkout))
    assert plain.startup_files() == sorted(before + path_file)
    assert works(plain) == STDLIB
    installer(hooked, *editable, f"{checkout}[autopatch]")
    assert hooked.startup_files() == sorted(before + path_file + HOOK)
    assert works(hooked) == OURS
    written = (hooked.site / f"unirun-{unirun.__version__}.dist-info" / "METADATA").read_bytes()
    assert requirements(metadata(written)) == {f"unirun-autopatch=={unirun.__version__}; extra == 'autopatch'"}


@pytest.mark.parametrize("kind", ["wheels", "sdists"])
def test_from_a_folder(
    installer: Install, fresh: Callable[[], Venv], request: pytest.FixtureRequest, kind: str
) -> None:
    plain, hooked = fresh(), fresh()
    before = plain.startup_files()
    folder = ["--find-links", str(request.getfixturevalue(kind))]
    installer(plain, *folder, "unirun")
    assert plain.startup_files() == before
    assert works(plain) == STDLIB
    installer(hooked, *folder, "unirun[autopatch]")
    assert hooked.startup_files() == sorted(before + HOOK)
    assert works(hooked) == OURS


def test_as_the_readme_says(checkout: Path, tmp_path: Path, wheels: Path) -> None:
    """With an index, on which `unirun` is another's, and an environment for each build."""
    venv = venvs.create(tmp_path / "venv")
    before = venv.startup_files()
    venvs.install(venv, f"{checkout}[autopatch]")
    assert venv.startup_files() == sorted(before + HOOK)
    assert works(venv) == OURS
    assert venv.run("-m", "pip", "check").returncode == 0


def test_an_editable_companion(wheels: Path, checkout: Path, tmp_path: Path) -> None:
    venv = copy(venvs.builder(), tmp_path / "venv")
    venvs.install(venv, "--no-index", "unirun", find_links=wheels)
    venvs.install(venv, "--no-index", "--no-build-isolation", "--editable", str(checkout / "autopatch"))
    assert works(venv) == OURS


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    companion = tomllib.loads((ROOT / "autopatch" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == companion["version"] == unirun.__version__
    assert f"unirun-autopatch=={unirun.__version__}" in project["optional-dependencies"]["autopatch"]
    assert companion["dependencies"] == [f"unirun=={unirun.__version__}"]
    assert companion["requires-python"] == project["requires-python"]
    assert (ROOT / "autopatch" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def contents(wheels: Path, name: str) -> dict[str, bytes]:
    """Return the files of a wheel."""
    with zipfile.ZipFile(next(wheels.glob(f"{name}-*.whl"))) as wheel:
        return {file: wheel.read(file) for file in wheel.namelist()}


@pytest.fixture(scope="session", params=["checkout", "sdist"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the wheels that were built from the checkout, or from the sdists of that."""
    if request.param == "checkout":
        return request.getfixturevalue("wheels")  # type: ignore[no-any-return]
    sdists, folder = request.getfixturevalue("sdists"), tmp_path_factory.mktemp("from_sdists")
    options = ("--no-build-isolation", "--no-deps", "--wheel-dir", str(folder))
    done = venvs.builder().run(*venvs.PIP, "wheel", *options, *map(str, sorted(sdists.iterdir())), timeout=280)
    assert not done.returncode, done.stdout + done.stderr
    return folder


def test_what_the_wheels_have(built: Path) -> None:
    ours, companion = contents(built, "unirun"), contents(built, "unirun_autopatch")
    assert not [file for file in ours if file.endswith((".pth", ".start"))]
    assert {file.split("/")[0] for file in ours} == {"unirun", f"unirun-{unirun.__version__}.dist-info"}
    assert {file for file in companion if ".dist-info/" not in file} == FILES.keys()
    for file, source in FILES.items():
        assert companion[file] == (ROOT / source).read_bytes()
    for files, pin in (
        (ours, f"unirun-autopatch=={unirun.__version__}; extra == 'autopatch'"),
        (companion, "unirun=="),
    ):
        written = metadata(next(files[file] for file in files if file.endswith(".dist-info/METADATA")))
        assert [line for line in requirements(written) if not line.startswith(pin)] == []
        assert len(requirements(written)) == 1


def test_sdists_name_the_companion_plainly(sdists: Path) -> None:
    with tarfile.open(next(sdists.glob("unirun-*"))) as sdist:
        written = sdist.extractfile(f"unirun-{unirun.__version__}/PKG-INFO")
        assert written is not None
        assert requirements(metadata(written.read())) == {
            f"unirun-autopatch=={unirun.__version__}; extra == 'autopatch'"
        }


def test_an_unpacked_sdist_prepares_the_wheels_metadata(sdists: Path, tmp_path: Path) -> None:
    """Else pip would refuse it: what an index has must not require a folder."""
    shutil.unpack_archive(next(sdists.glob("unirun-*")), tmp_path, filter="data")
    source = tmp_path / f"unirun-{unirun.__version__}"
    code = "import sys; sys.path[:0] = ['autopatch/backend']; import unirun_build as build; build."
    for prepare in ("prepare_metadata_for_build_wheel", "prepare_metadata_for_build_editable"):
        target = tmp_path / prepare
        done = venvs.builder().run("-c", f"{code}{prepare}({str(target)!r})", cwd=source)
        assert not done.returncode, done.stderr
        assert "file:" not in (target / f"unirun-{unirun.__version__}.dist-info" / "METADATA").read_text()


@pytest.fixture
def installed(hooked: Venv, tmp_path: Path) -> Venv:
    """Return an environment with the hook that a test may spoil."""
    return copy(hooked, tmp_path / "venv")


def test_uninstalled_alone(installed: Venv) -> None:
    """The companion stays, and has nobody to tell."""
    assert installed.run(*venvs.PIP, "uninstall", "-y", "unirun").returncode == 0
    assert HOOK[0] in installed.startup_files()
    assert works(installed) == STDLIB


def test_uninstalled_with_the_companion(installed: Venv) -> None:
    assert works(installed) == OURS
    assert installed.run(*venvs.PIP, "uninstall", "-y", "unirun", "unirun-autopatch").returncode == 0
    assert not [path.name for path in installed.site.rglob("*unirun*")]
    assert works(installed) == STDLIB


BROKEN = {
    "a syntax error": {"unirun/__init__.py": "def ("},
    "an error when it is imported": {"unirun/__init__.py": "1 / 0"},
    "another distribution of that name": {"unirun/__init__.py": "", "unirun/autopatch": None},
    "no hook in it": {"unirun/autopatch": None},
    "a hook that raises": {"unirun/autopatch/__init__.py": "raise RuntimeError('broken')"},
    "a substitution that raises": {"unirun/autopatch/substitution.py": "raise RuntimeError('broken')"},
    "an older substitution": {"unirun/autopatch/substitution.py": ""},
    "no thread pool": {"unirun/thread.py": "import nothing_of_that_name", "unirun/process.py": "import nothing"},
    "only folders left": {"unirun/__init__.py": None, "unirun/autopatch": None},
    "half a companion": {"_unirun_autopatch.py": None},
}


@pytest.mark.parametrize("files", BROKEN.values(), ids=BROKEN.keys())
def test_broken(installed: Venv, files: dict[str, str | None]) -> None:
    for name, text in files.items():
        path = installed.site / name
        if text is not None:
            path.write_text(text)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    assert works(installed) == STDLIB


def others() -> dict[str, bool]:
    """Find the Pythons 3 of this host, on its PATH and where the running one came from; tell which are new enough."""
    base = Path(getattr(sys, "_base_executable", sys.executable))
    names = [f"python3.{minor}" for minor in (*range(6, 17), "13t", "14t", "15t")] + ["pypy3", "pypy3.11"]
    folders = [*map(Path, os.environ.get("PATH", "").split(os.pathsep)), base.parent]
    folders += base.resolve().parents[2].glob("*/bin")  # version managers have a folder for each
    new_enough = {}
    for python in {path.resolve(): path for folder in folders for name in names if (path := folder / name).is_file()}:
        ask = "import sys; print(sys.version_info >= (3, 11))"  # some files of such a name only look for a Python
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False, timeout=120)
        if done.returncode == 0:
            new_enough[str(python)] = done.stdout == "True\n"
    return new_enough


def test_other_interpreters_over_the_same_packages(hooked: Venv) -> None:
    """Files that another version has installed are as good; a Python too old for unirun keeps its own pools."""
    program = f"import site; site.addsitedir({str(hooked.site)!r})\n{PROGRAM}"
    pythons = others()
    assert pythons, "not even the running interpreter was found"
    for python, new_enough in pythons.items():
        assert works(replace(hooked, python=Path(python)), program=program) == (OURS if new_enough else STDLIB), python


@pytest.mark.parametrize("options", ["-S", "-I", "-E", "-s", "-O", "-OO", "-P", "-X frozen_modules=off"])
def test_options_of_the_interpreter(hooked: Venv, options: str) -> None:
    assert works(hooked, *options.split()) == (STDLIB if options == "-S" else OURS)


def test_packages_off_the_path(hooked: Venv) -> None:
    """A program that leaves itself only the stdlib gets the stdlib's pools, unless it has asked for one before."""
    leave = "import sys; sys.path[:] = [path for path in sys.path if 'site-packages' not in path]\n"
    assert works(hooked, program=leave + PROGRAM) == STDLIB
    assert works(hooked, program="import concurrent.futures.thread\n" + leave + PROGRAM) == OURS


def test_processed_twice(hooked: Venv) -> None:
    program = f"""
import site, sys
before = len(sys.meta_path)
site.addsitedir({str(hooked.site)!r})
site.addsitedir({str(hooked.site)!r})
assert len(sys.meta_path) == before, sys.meta_path
"""
    assert works(hooked, program=program + PROGRAM) == OURS

"""Virtual environments, in which tests see the hook as users have it: installed from wheels, in a fresh interpreter."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "-q")
#: Compiling all that is installed takes as long as installing it, and little of it is used.
INSTALL = (*PIP, "install", "--no-compile")
#: What it takes to build both distributions: with it, no build makes an environment of its own.
BUILD = ("hatchling", "editables", "build")


@dataclass(frozen=True)
class Venv:
    """A virtual environment and its folder of installed packages."""

    root: Path
    python: Path
    site: Path

    def run(
        self, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python, under no variables that change it or unirun but those of ``env``."""
        command = [str(self.python), *args]
        environment = clean_environment() | dict(env or {})
        # Not in the caller's folder: that is the checkout, and `python -c` would import unirun from it.
        return subprocess.run(
            command, env=environment, cwd=cwd or self.root, timeout=timeout, capture_output=True, text=True, check=False
        )

    def startup_files(self) -> list[str]:
        """Name what an interpreter would process at its start."""
        return sorted(path.name for path in self.site.iterdir() if path.suffix in {".pth", ".start"})


def clean_environment() -> dict[str, str]:
    """Return this process' environment without what changes an interpreter, unirun, or where packages go."""
    away = ("PYTHON", "UNIRUN_", "PYTEST_", "COVERAGE_", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    return {name: value for name, value in os.environ.items() if not name.startswith(away)}


def create(folder: Path, python: str = sys.executable) -> Venv:
    """Make an environment with pip in a folder that does not exist yet."""
    template = _template(python)
    venv = _bare(folder, python)
    for path in template.site.iterdir():  # bootstrapping pip takes seconds, a copy of what that yields does not
        if path.name.startswith("pip"):
            shutil.copytree(path, venv.site / path.name)
    return venv


def install(venv: Venv, *requirements: str, find_links: Path | None = None) -> None:
    """Install with pip, from an index and also from a folder: pip takes the newer, and PyPI's is a stranger's 0.1.0."""
    arguments = [*requirements, "--find-links", str(find_links)] if find_links else requirements
    done = venv.run(*INSTALL, *arguments, timeout=280)
    if done.returncode:
        pytest.fail(f"pip install {' '.join(arguments)}\n{done.stdout}{done.stderr}")


def build_wheels(folder: Path) -> Path:
    """Build unirun and unirun-autopatch in a clean copy of the checkout; return the folder with the two wheels."""
    source = copy_checkout(folder.absolute() / "checkout")
    wheels = folder.absolute() / "wheels"
    options = ("--no-build-isolation", "--no-deps", "--wheel-dir", str(wheels))
    done = builder().run(*PIP, "wheel", *options, str(source), str(source / "autopatch"), timeout=280)
    if done.returncode:
        pytest.fail(f"pip wheel\n{done.stdout}{done.stderr}")
    return wheels


def build_sdists(folder: Path) -> Path:
    """Build both sdists in a clean copy of the checkout; return the folder they are in."""
    source = copy_checkout(folder.absolute() / "checkout")
    for project in (source, source / "autopatch"):
        done = builder().run(
            "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder / "sdists"), str(project)
        )
        if done.returncode:
            pytest.fail(f"python -m build\n{done.stdout}{done.stderr}")
    return folder / "sdists"


def copy_checkout(target: Path) -> Path:
    """Copy the checkout as it is, but for what is not the project's."""
    away = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "uv.lock", "PKG-INFO")
    shutil.copytree(ROOT, target, ignore=away)
    shutil.copy(ROOT / ".gitignore", target)  # which names what is not packaged
    return target


def registry_reachable() -> bool:
    """Tell whether pip finds packages at all."""
    return _builder() is not None


def builder() -> Venv:
    """Return the environment in which wheels are built; it can build while ``registry_reachable()``."""
    venv = _builder()
    if venv is None:
        pytest.skip("no registry can be reached, and wheels are built with hatchling")
    return venv


@functools.cache
def _builder() -> Venv | None:
    venv = create(_scratch() / "builder")
    done = venv.run(*INSTALL, "--retries", "0", "--timeout", "15", *BUILD, timeout=280)
    return None if done.returncode else venv


@functools.cache
def _template(python: str) -> Venv:
    folder = Path(tempfile.mkdtemp(dir=_scratch()), "template")
    venv = _bare(folder, python)
    done = venv.run("-m", "ensurepip", "--default-pip", timeout=280)
    if done.returncode:
        pytest.skip(f"{python} cannot make environments: {done.stderr.strip()}")
    return venv


def _bare(folder: Path, python: str) -> Venv:
    folder = folder.absolute()
    command = [python, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, env=clean_environment(), check=True, capture_output=True, timeout=120)
    executable = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ask = [str(executable), "-I", "-c", script]
    site = subprocess.run(ask, check=True, capture_output=True, text=True, timeout=120).stdout.strip()
    return Venv(root=folder, python=executable, site=Path(site))


@functools.cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="unirun-venvs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

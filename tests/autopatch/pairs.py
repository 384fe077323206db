"""Programs from the registry, and two environments for them, with the hook and without: what differs is its doing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.autopatch import venvs
from tests.autopatch.venvs import Venv

__all__ = ["PACKAGES", "PROGRAMS", "Pair", "Program", "create", "prepare", "settings", "sources"]

#: The newest of each: it is as well to hear of it when one has changed what it does about pools.
PACKAGES: Final = ("black", "elasticsearch", "tqdm", "yapf")
USERS: Final = Path(__file__).parent / "programs"
SOURCE: Final = """
def function_{0}(first,second = {0}):
    return {{ 'first':first,'second' : second  }}
class Class{0}( object ):
    number={0}; numbers = [ {0},
       1 ]
"""
BROKEN: Final = "def function(:\n"
#: Of the sources: compiled files hold it.
MODIFIED: Final = 1_700_000_000


@dataclass(frozen=True)
class Program:
    """A program that opens a pool.

    Attributes:
        argv: The arguments for Python.
        returncode: The exit status.
        broken: Whether one of its files is no Python, which it has to report.
        managed: Whether its pool is one of ``concurrent.futures``.
    """

    argv: tuple[str, ...]
    returncode: int = 0
    broken: bool = False
    managed: bool = True


PROGRAMS: Final[Mapping[str, Program]] = {
    "black": Program(("-m", "black", "--workers", "2", "tree"), returncode=123, broken=True),
    "compileall": Program(("-m", "compileall", "-j", "2", "-q", "tree"), returncode=1, broken=True),
    "tqdm": Program(("bars.py",)),
    "tqdm-own-lock": Program(("bars.py", "--own-lock")),
    "yapf": Program(("-m", "yapf", "--parallel", "--in-place", "--recursive", "tree")),
    # Its users met this on AWS Lambda: elastic/elasticsearch-py#2319. The pool is a ThreadPool.
    "elasticsearch": Program(("bulk.py",), managed=False),
}


@dataclass(frozen=True)
class Pair:
    """Two environments with the same packages; that the hook is on in the one and off in the other was checked."""

    hooked: Venv
    plain: Venv


def create(folder: Path, wheels: Path) -> Pair:
    """Make both environments, with the packages from the registry."""
    hooked = venvs.create(folder / "hooked")
    venvs.install(hooked, "unirun[autopatch]", *PACKAGES, find_links=wheels)
    plain = venvs.create(folder / "plain")
    # The very same packages. A folder that comes so is searched for modules, not for startup files.
    (plain.site / "packages.pth").write_text(f"{hooked.site}\n", encoding="utf-8")
    ask = "import black; from concurrent.futures import ProcessPoolExecutor; print(ProcessPoolExecutor.__module__)"
    homes = [venv.run("-c", ask).stdout.strip() for venv in (hooked, plain)]
    assert homes == ["unirun.process", "concurrent.futures.process"]
    return Pair(hooked, plain)


def sources(program: Program, files: int) -> dict[str, str]:
    """Return by name what a program works on, as it is before."""
    good = {f"module{number}.py": SOURCE.format(number) for number in range(files)}
    return good | ({"broken.py": BROKEN} if program.broken else {})


def prepare(folder: Path, program: Program, files: int) -> None:
    """Put the program's files into a folder."""
    for number, (name, text) in enumerate(sources(program, files).items()):
        path = folder / "tree" / f"package{number % 10}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (MODIFIED, MODIFIED))
    for user in ("bars.py", "bulk.py"):
        shutil.copy(USERS / user, folder)


def settings(folder: Path) -> dict[str, str]:
    """Return the environment's variables for a run in that folder."""
    return venvs.clean_environment() | {"BLACK_CACHE_DIR": str(folder / "cache"), "PYTHONUTF8": "1"}

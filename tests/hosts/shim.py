"""Compiles shim.c once per user and machine, so that every test process may ask for it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
FLAGS = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread")


class CannotBuildError(RuntimeError):
    """The shim cannot be compiled on this machine; the message says why."""


def build_shim() -> Path:
    """Return the path of the compiled shim, compiling it when this source has not been compiled yet.

    Raises:
        CannotBuildError: there is no compiler, or it refuses the source.
    """
    key = hashlib.sha256(SOURCE.read_bytes() + repr((FLAGS, platform.machine())).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"unirun-hosts-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise CannotBuildError(f"{folder} belongs to another user, and what it holds would be loaded")
    library = folder / f"refuse-{key}.so"
    if not library.exists():
        _compile(library)
    return library


def _compile(library: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotBuildError("no C compiler (cc, gcc)")
    # Test processes may compile at the same time: each writes a file of its own, and the rename is atomic.
    handle, name = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    try:
        done = subprocess.run(
            [compiler, *FLAGS, str(SOURCE), "-o", name, "-ldl"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CannotBuildError(f"{compiler} refuses {SOURCE.name}: {done.stderr.strip()}")
        os.replace(name, library)
    finally:
        Path(name).unlink(missing_ok=True)

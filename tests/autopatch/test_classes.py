"""The classes that the hook puts in place, in every way in which programs use classes; without the hook as control."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.autopatch import classes, first_pools, liberties, odd_pools

ROOT = Path(__file__).parents[2]
CHECKS = [
    (module.__name__, name.removeprefix("check_"))
    for module in (classes, first_pools, liberties, odd_pools)
    for name in vars(module)
    if name.startswith("check_")
]
#: `site` itself reads the `.pth` file, as it would in site-packages.
UNDER_HOOK = "import site; site.addsitedir({!r}); "
RUN = "import runpy; runpy.run_module({!r}, run_name='__main__', alter_sys=True)"


@pytest.fixture(scope="session")
def companion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the companion distribution puts into site-packages."""
    folder = tmp_path_factory.mktemp("companion")
    shutil.copy(ROOT / "unirun_autopatch.pth", folder)
    shutil.copy(ROOT / "unirun" / "autopatch" / "hook.py", folder / "_unirun_autopatch.py")
    return folder


def clean_environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")}
    return {**clean, "PYTHONPATH": str(ROOT)}


def run(module: str, check: str, before: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", before + RUN.format(module), check],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(("module", "check"), CHECKS)
def test_under_the_hook(module: str, check: str, companion: Path) -> None:
    assert run(module, check, UNDER_HOOK.format(str(companion))) == "checked True"


@pytest.mark.parametrize(("module", "check"), CHECKS)
def test_without_it(module: str, check: str) -> None:
    assert run(module, check, "") == "checked False"

"""doctor says whether the hook is on, through which file, and what is replaced."""

import json
from pathlib import Path

from tests.autopatch.test_classes import UNDER_HOOK
from tests.autopatch.test_classes import companion as companion  # the fixture
from tests.autopatch.test_control import run

DOCTOR = "import sys; from unirun.cli import main; sys.exit(main(['doctor', *{}]))"


def test_on_through_the_pth(companion: Path) -> None:
    done = run(DOCTOR.format([]), before=UNDER_HOOK.format(str(companion)))
    assert done.returncode == 0, done.stderr
    section = done.stdout.partition("The hook")[2].partition("\n\n")[0]
    assert f"through {companion / 'unirun_autopatch.pth'}" in section
    assert "concurrent.futures.process.ProcessPoolExecutor by unirun.process.ProcessPoolExecutor" in section
    assert "concurrent.futures.thread.ThreadPoolExecutor by unirun.thread.ThreadPoolExecutor" in section


def test_what_was_loaded_before_the_pth_was_read(companion: Path) -> None:
    """As by an earlier one. Doctor itself, which imports unirun, has what programs have not."""
    before = "import concurrent.futures.thread\n" + UNDER_HOOK.format(str(companion))
    done = run(DOCTOR.format([]), before=before)
    section = done.stdout.partition("The hook")[2].partition("\n\n")[0]
    assert "Too late  concurrent.futures.thread was loaded before the hook was on" in section
    assert "concurrent.futures.process.ProcessPoolExecutor by unirun.process.ProcessPoolExecutor" in section
    assert "by unirun.thread.ThreadPoolExecutor" not in section
    program = "from unirun import autopatch; print(autopatch.status().early); autopatch.install();"
    done = run(program + "print(autopatch.status().early)", before=before)
    assert done.stdout == "('concurrent.futures.thread',)\n()\n"


def test_installed_and_switched_off(companion: Path) -> None:
    done = run(DOCTOR.format(["--json"]), before=UNDER_HOOK.format(str(companion)), UNIRUN_AUTOPATCH="0")
    hook = json.loads(done.stdout)["hook"]
    assert (hook["active"], hook["by"], hook["off_because"]) == (False, "pth", "UNIRUN_AUTOPATCH=0")
    assert hook["file"] == str(companion / "unirun_autopatch.pth")
    assert hook["replaced"] == {}


def test_not_installed() -> None:
    done = run(DOCTOR.format([]))
    section = done.stdout.partition("The hook")[2].partition("\n\n")[0]
    assert "Off" in section
    assert "Replaced" not in section


def test_what_failed_is_named(companion: Path) -> None:
    """Here unirun itself is whole, and what the hook calls is not."""
    broken = "import sys; sys.modules['unirun.autopatch.substitution'] = None\n"
    mend = "del sys.modules['unirun.autopatch.substitution']\n"
    code = f"{broken}from concurrent.futures import ThreadPoolExecutor\n{mend}"
    done = run(DOCTOR.format([]), before=UNDER_HOOK.format(str(companion)) + "\n" + code)
    assert done.returncode == 0, done.stderr
    assert "Failed" in done.stdout
    assert "concurrent.futures.thread: ImportError" in done.stdout or "ModuleNotFoundError" in done.stdout

"""The examples run as a reader would run them, and do what their docstrings say."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import unirun
from tests.hosts.fixtures import OnHost

EXAMPLES = Path(__file__).parents[1] / "examples"
#: Files that the reports read: enough for several workers, and quick on a slow machine.
FEW = ("--limit", "24", "--workers", "2")
#: Seconds after which an example counts as hanging.
TIMEOUT = 60


def environment(**variables: str) -> dict[str, str]:
    """Return the environment for an example: none of the caller's settings, and the package under test."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")}
    return env | {"PYTHONPATH": str(Path(unirun.__file__).parents[1])} | variables


def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, which must be a good one."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def report() -> str:
    """The report of the main example, as it comes from one thread."""
    return run("stdlib_report.py", *FEW, UNIRUN_LADDER="inline").stdout


@pytest.mark.parametrize(
    "command",
    [
        ("stdlib_report.py",),
        ("stdlib_report.py", "--old"),
        ("async_report.py",),
        ("async_report.py", "--scope"),
        ("async_report.py", "--in-flight", "1"),
    ],
    ids=" ".join,
)
def test_reports_are_the_same_however_they_are_made(command: tuple[str, ...], report: str) -> None:
    """Old and new code, processes and one thread, with and without asyncio: one report."""
    done = run(*command, *FEW)
    assert done.stdout == report
    assert "time: " in done.stderr


def test_report_counts_what_it_read(report: str) -> None:
    """The totals are those of the files asked for, and all of them parse."""
    [total] = [line.split() for line in report.splitlines() if line.startswith("all ")]
    assert total[1] == "24"
    assert int(total[2]) > 24
    assert "files that could not be parsed: 0" in report


def test_main_example_says_what_was_decided() -> None:
    """Which backend, and why."""
    assert "decision: Run runs in threads (2 workers); processes asked for; the ladder is the user's own" in (
        run("stdlib_report.py", *FEW, UNIRUN_LADDER="threads").stderr
    )


def test_main_example_reports_files_that_do_not_parse(tmp_path: Path) -> None:
    """A file that cannot be read is counted and named, and stops nothing."""
    (tmp_path / "good.py").write_text("def f():\n    return 1\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "latin.py").write_bytes(b"name = '\xe9'\n")
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere.py")
    program = (
        "import pathlib, sys, stdlib_report as it; root = pathlib.Path(sys.argv[1]);"
        "print(it.render([it.measure(root, path) for path in sorted(root.glob('*.py'))]))"
    )
    paths = os.pathsep.join([str(EXAMPLES), environment()["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=environment(PYTHONPATH=paths),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stdout.splitlines()[-4:] == [
        "files that could not be parsed: 3",
        "broken.py (SyntaxError)",
        "dangling.py (FileNotFoundError)",
        "latin.py (SyntaxError)",
    ]


def test_async_example_keeps_the_loop_responsive() -> None:
    """The heart beats while the workers parse."""
    [line] = [line for line in run("async_report.py", *FEW).stderr.splitlines() if line.startswith("heartbeats: ")]
    assert int(line.split()[1].rstrip(",")) > 0


def check_keys(stdout: str, *backends: str) -> None:
    """Check what the Lambda example prints."""
    body = json.loads(stdout)
    assert body["backend"] in backends
    assert len(body["keys"]) == 8
    expected = hashlib.pbkdf2_hmac("sha256", b"correct horse 3", b"battery staple 3", 50_000)
    assert body["keys"]["item-3"] == expected.hex()


def test_lambda_example() -> None:
    """The handler answers the sample event."""
    check_keys(run("lambda_handler.py").stdout, "processes", "pipes", "threads", "inline")


def test_lambda_example_where_the_stdlib_would_fail(on_host: OnHost) -> None:
    """It answers on a host without semaphores as well, and says in what it ran."""
    program = [sys.executable, str(EXAMPLES / "lambda_handler.py")]
    outcome = on_host("sem-enosys", program, env=environment(), timeout=TIMEOUT)
    assert outcome.returncode == 0, outcome.stderr
    check_keys(outcome.stdout, "pipes")
    assert outcome.stderr == ""
    strict = on_host("sem-enosys", program, env=environment(UNIRUN_COMPAT_MODE="passthrough"), timeout=TIMEOUT)
    assert "OSError: [Errno 38]" in strict.stderr

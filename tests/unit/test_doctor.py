"""The command line: what `doctor` says of this host, of refusing ones and of made ones, and its exit status."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import unirun
from tests.hosts.catalog import HOSTS
from tests.hosts.fixtures import OnHost
from tests.lower import INTERPRETERS
from unirun import cli, doctor, host
from unirun.config import FLAVORS, RuntimeConfig, resolve
from unirun.host import Host
from unirun.ladder import Request, decide
from unirun.refusal import Failure, failure
from unirun.trace import DecisionTrace

if TYPE_CHECKING:
    from unirun.refusal import Stage

METHOD = multiprocessing.get_all_start_methods()[0]
COMMAND = [sys.executable, "-m", "unirun"]
#: A computer that refuses nothing, whichever one the tests run on.
HEALTHY = Host(
    implementation="cpython",
    version="3.13.0",
    platform="linux",
    gil=True,
    usable_cpus=3,
    start_methods=("fork", "spawn", "forkserver"),
    default_start_method="fork",
    no_processes=None,
    daemonic=False,
    bootstrapping=False,
    subinterpreter=False,
    interpreters=False,
    main="importable",
    executable=True,
)
NO_WORKERS = replace(HEALTHY, main="missing", default_start_method="spawn")
NO_SEMAPHORES = replace(HEALTHY, no_processes=failure("processes", "construct", OSError(errno.ENOSYS, "no such thing")))


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a run of this very unirun."""
    return {**os.environ, "PYTHONPATH": str(Path(unirun.__file__).parents[1]), **variables}


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line as a user does."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )


def report_on(monkeypatch: pytest.MonkeyPatch, facts: Host, **variables: str) -> doctor.Report:
    """Return the report on a made host."""
    monkeypatch.setattr(host, "probe", lambda **_: facts)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return doctor.examine(start=False)


# The command line


def test_a_program_that_asks_keeps_its_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout.errors
    assert cli.main(["doctor"]) == 0
    assert sys.stdout.errors == before
    assert capfd.readouterr().out


def test_without_arguments_it_prints_its_help() -> None:
    bare, helped = run(), run("--help")
    assert (bare.returncode, bare.stdout, bare.stderr) == (0, helped.stdout, "")
    assert "doctor" in bare.stdout


def test_a_bad_argument_is_left_to_argparse() -> None:
    done = run("doctor", "--nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: python -m unirun")


def test_help_imports_no_pool() -> None:
    code = (
        "import sys, unirun.cli; print([m for m in sys.modules if m.startswith(('unirun.', 'concurrent', 'multip'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['unirun.cli']"


# On this host


def test_a_healthy_host_in_words() -> None:
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Nothing is known to stop process pools here; nothing was tried. Requests for")
    for words in (*FLAVORS, "ThreadPoolExecutor (compat)", "doctor --try", "all defaults: no UNIRUN_* variable"):
        assert words in done.stdout


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"UNIRUN_FORCE_PROCESS": "1", "UNIRUN_MAX_WORKERS": "7"},
        {"UNIRUN_LADDER": "threads,inline"},
        {"UNIRUN_CPU_BOUND": "1", "UNIRUN_START_METHOD": "spawn"},
    ],
)
def test_json_says_what_decide_says(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    done = run("doctor", "--json", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    facts, config = host_of(said["facts"]), resolve()
    assert said["settings"]["variables"].keys() == variables.keys()
    assert RuntimeConfig(**said["settings"]["in_force"]) == config
    assert list(said["decisions"]) == [*FLAVORS, *doctor.COMPAT]
    for subject, decision in said["decisions"].items():
        flavor = doctor.COMPAT.get(subject, subject)
        plan = decide(Request(flavor=flavor, origin=subject, dropin=subject in doctor.COMPAT), config, facts)
        assert (decision["flavor"], decision["ladder"], decision["reason"]) == (
            plan.flavor,
            list(plan.ladder),
            plan.reason,
        )
        assert decision["backend"] == plan.rungs[0]
        assert [each["backend"] for each in decision["refused"]] == [each.backend for each in plan.rejected]
        assert decision["workers"] == (None if plan.rungs[0] == "inline" else plan.workers)
        assert not decision["settled"]
    assert said["tries"] == []


def host_of(facts: dict[str, Any]) -> Host:
    """Return the host facts that were written as JSON."""
    refused = facts["no_processes"]
    return Host(
        **{
            **facts,
            "start_methods": tuple(facts["start_methods"]),
            "no_processes": None if refused is None else Failure(**refused),
        }
    )


def test_without_try_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(os, "fork", refuse, raising=False)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    doctor.examine(start=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UNIRUN_MAX_WORKERS", "many"),
        ("UNIRUN_LADDER", "rockets"),
        ("UNIRUN_COMPAT_MODE", "off"),
        ("UNIRUN_AUTOPATCH", "perhaps"),
        ("UNIRUN_AUTOPATCH_EXCLUDE", "a;b"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"], ["--try"]])
def test_a_bad_variable_is_one_line_and_status_2(name: str, value: str, more: list[str]) -> None:
    done = run("doctor", *more, **{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"unirun: {name}=")
    assert done.stderr.count("\n") == 1


def test_the_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"unirun {unirun.__version__}\n", "")


def test_a_variable_that_means_nothing_is_noted() -> None:
    done = run("doctor", UNIRUN_DOWNGRAD="error")
    assert (done.returncode, done.stderr) == (0, "")
    assert "UNIRUN_DOWNGRAD means nothing to unirun; did you mean UNIRUN_DOWNGRADE?" in done.stdout
    done = run("doctor", UNIRUN_TASK_TIMEOUT="3", UNIRUN_DEBUG="1", UNIRUN_Max_Workers="2")
    assert "UNIRUN_Max_Workers means nothing to unirun; did you mean UNIRUN_MAX_WORKERS?" in done.stdout
    assert "UNIRUN_DEBUG means nothing to unirun\n" in done.stdout
    assert "UNIRUN_TASK_TIMEOUT means nothing to unirun; task_timeout has none, set RuntimeConfig(" in done.stdout


def test_a_variable_that_means_nothing_is_noted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that asks has perhaps been warned by a pool of its own."""
    monkeypatch.setenv("UNIRUN_TRCE", "1")
    for _ in range(2):
        assert any("did you mean UNIRUN_TRACE?" in note for note in doctor.examine(start=False).notes)


def test_a_ladder_of_the_users_own_is_named() -> None:
    done = run("doctor", UNIRUN_LADDER="threads, processes")
    assert done.returncode == 0
    assert done.stdout.startswith("Process pools are left out: UNIRUN_LADDER")
    assert "UNIRUN_LADDER=threads, processes\n" in done.stdout


def test_passthrough_leaves_the_compat_classes_to_the_stdlib() -> None:
    assert "the stdlib's own classes" in run("doctor", UNIRUN_COMPAT_MODE="passthrough").stdout
    said = json.loads(run("doctor", "--json", UNIRUN_COMPAT_MODE="passthrough").stdout)
    assert list(said["decisions"]) == list(FLAVORS)


def test_try_starts_everything_there_is() -> None:
    done = run("doctor", "--try", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    alone = {each["subject"]: each for each in said["tries"] if each["alone"]}
    pools = [f"{rung} by {method}" for rung in ("processes", "pipes") for method in said["facts"]["start_methods"]]
    assert list(alone) == [*pools, *(["interpreters"] if INTERPRETERS else []), "threads", "inline"]
    for subject, each in alone.items():
        assert each["worked"], each
        assert each["own_process"] == (subject in pools)
        assert each["first"] > 0
        assert each["again"] > 0
        assert each["stderr"] == ""
    served = {each["subject"]: each["decision"] for each in said["tries"] if not each["alone"]}
    assert served == said["decisions"]
    assert all(decision["settled"] for decision in served.values())
    assert said["conclusion"][0] == "Process pools work here."


def test_the_output_is_ascii_where_only_ascii_can_be_written() -> None:
    done = run("doctor", PYTHONIOENCODING="ascii", UNIRUN_TRACE="protok\N{LATIN SMALL LETTER O WITH DIAERESIS}ll")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert r"UNIRUN_TRACE=protok\xf6ll" in done.stdout


def test_a_reader_that_leaves_is_no_error() -> None:
    with subprocess.Popen(
        [*COMMAND, "doctor"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this platform")
def test_a_full_disk_is_one_line_and_status_2() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "doctor"], env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("unirun: the report cannot be written: [Errno 28]")
    assert done.stderr.count("\n") == 1


CALLED = """
import contextlib, io, os, signal, sys
from unirun import cli

if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.alarm(100)
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["doctor", "--try"]) == 0
    assert 0 < signal.alarm(0) <= 100
    kept, full = os.dup(1), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    status = cli.main(["doctor"])
    assert os.path.samestat(os.fstat(1), os.fstat(full))
    os.dup2(kept, 1)
    print("then", status)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this platform")
def test_a_program_that_calls_it_keeps_its_alarm_and_its_output(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(CALLED)
    done = subprocess.run(
        [sys.executable, str(program)], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["then 2"]), done.stderr
    assert done.stderr.startswith("unirun: the report cannot be written: [Errno 28]")


# On refusing hosts


@pytest.mark.parametrize("name", sorted(HOSTS))
def test_every_host_gets_a_report_that_leaves_nothing_behind(on_host: OnHost, name: str) -> None:
    outcome = on_host(name, [*COMMAND, "doctor", "--try"], env=environment(), timeout=100)
    assert (outcome.returncode, outcome.stderr, outcome.left_behind) == (0, "", ())
    assert "Traceback" not in outcome.stdout
    assert "failed:" not in outcome.stdout
    assert "inline" in outcome.stdout


@pytest.mark.parametrize("more", [[], ["--try"]])
def test_a_host_without_semaphores_in_words(on_host: OnHost, more: list[str]) -> None:
    outcome = on_host("sem-enosys", [*COMMAND, "doctor", *more], env=environment(UNIRUN_MAX_WORKERS="2"))
    settled = "" if more else " if they can start; nothing was tried"
    assert " ".join(outcome.stdout.split()).startswith(
        "The stdlib's process pools cannot start here: semaphores are refused ([Errno 38] Function not implemented). "
        f"Requests for processes run in pipes by {METHOD} (2 workers), which are real processes{settled}. What "
    )


HANGS = """
import subprocess, sys, time
from unirun import cli, doctor
from unirun.backends import processes
from unirun.backends.pipes.manager import Manager

if __name__ == "__main__":
    doctor.PATIENCE = 1.0
    processes.Ready.wait = Manager._hear = lambda *_: time.sleep(60)
    subprocess.Popen(["sh", "-c", sys.argv[1]])
    sys.exit(cli.main(["doctor", "--try"]))
"""


@pytest.mark.parametrize(
    "meanwhile",
    ["", "while kill -STOP $PPID; do sleep 0.2; kill -CONT $PPID; sleep 0.1; done 2> /dev/null"],
    ids=["", "that is stopped and goes on"],  # as by Ctrl-Z: any of its threads may hear that the time is up
)
def test_a_pool_that_gives_no_answer_is_given_up(on_host: OnHost, tmp_path: Path, meanwhile: str) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    outcome = on_host("healthy", [sys.executable, str(script), meanwhile], env=environment(), timeout=50)
    assert (outcome.returncode, outcome.stderr, outcome.left_behind) == (0, "", ())
    assert outcome.stdout.startswith("A process pool was opened here, and failed: no answer within 1 seconds.")


def test_where_nothing_runs_the_status_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_on(monkeypatch, HEALTHY)
    tries = tuple(tried(subject, decision, error="it broke") for subject, decision in report.decisions.items())
    monkeypatch.setattr(doctor, "examine", lambda *, start: replace(report, tries=tries))
    assert cli.main(["doctor", "--try"]) == 1
    assert "failed: it broke" in capsys.readouterr().out
    worked = replace(tries[-1], first=0.1, again=0.1, error=None)
    monkeypatch.setattr(doctor, "examine", lambda *, start: replace(report, tries=(*tries, worked)))
    assert cli.main(["doctor", "--try"]) == 0


def tried(
    subject: str, decision: DecisionTrace, *, alone: bool = False, error: str | None = None, stderr: str = ""
) -> doctor.Try:
    """Return a made try that worked, or failed with an error."""
    return doctor.Try(
        subject=subject,
        alone=alone,
        decision=decision,
        own_process=None if error else True,
        first=None if error else 1.234,
        again=None if error else 0.000056,
        error=error,
        gave_up=False,
        stderr=stderr,
    )


# In words, on made hosts


def test_no_semaphores(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(monkeypatch, NO_SEMAPHORES)
    assert " ".join(cli.conclusion(report)) == (
        "The stdlib's process pools cannot start here: semaphores are refused ([Errno 38] no such thing). Requests for "
        "processes run in pipes by fork (3 workers), which are real processes if they can start; nothing was tried."
    )
    text = cli.render(report)
    assert text.index("What to do") < text.index("What each request gets") < text.index("This host")
    assert "UNIRUN_DOWNGRADE=error" not in text
    assert "not in processes: semaphores are refused" in text


def test_what_keeps_pipes_from_starting_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """They need less than the stdlib's pools, so that is what has to be changed."""
    report = report_on(monkeypatch, NO_SEMAPHORES)
    semaphores = failure("processes", "construct", OSError(errno.ENOSYS, "Function not implemented"))
    forks = failure("pipes", "start", OSError(errno.EAGAIN, "not now"))
    served = replace(report.decisions["processes"], refused=(semaphores, forks), backend="threads", start_method=None)
    report = replace(report, decisions={**report.decisions, "processes": served})
    assert (
        cli.conclusion(report)[0] == "Process pools cannot start here: new processes are refused ([Errno 11] not now)."
    )
    assert cli.advice(report)[0].startswith("Look at the limits")


def test_a_drop_in_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(monkeypatch, HEALTHY)
    tries = tuple(
        tried(subject, decision, error="it broke" if subject == "ProcessPoolExecutor" else None)
        for subject, decision in report.decisions.items()
    )
    assert cli.conclusion(replace(report, tries=tries)) == [
        "A drop-in for processes was opened here, and failed: it broke."
    ]


def test_no_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(monkeypatch, NO_WORKERS)
    assert " ".join(cli.conclusion(report)) == (
        "Process pools cannot start here: no worker got as far as its first task (a worker started by 'spawn' cannot "
        "import the main module: its file does not exist). Requests for processes run in threads (3 workers)."
    )
    text = cli.render(report)
    assert "(GIL)" in text
    assert "UNIRUN_DOWNGRADE=error" in text


def test_without_a_gil_threads_compute_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(monkeypatch, replace(NO_WORKERS, gil=False), UNIRUN_CPU_BOUND="1")
    text = cli.render(report)
    assert "in threads (3 workers); auto: CPU-bound, and there is no GIL" in text
    assert "without a GIL" in text
    assert "(GIL)" not in text


def test_a_daemonic_process(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(monkeypatch, replace(HEALTHY, daemonic=True))
    assert cli.conclusion(report)[0].startswith(
        "The stdlib's process pools cannot start here: this process is a daemonic worker (Asser"
    )
    assert "Open the pool in the program that started it." not in cli.advice(report)
    alone = report_on(monkeypatch, replace(HEALTHY, daemonic=True), UNIRUN_LADDER="processes,threads")
    assert "Open the pool in the program that started it." in cli.advice(alone)


def test_no_multiprocessing_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = failure("processes", "import", ImportError("No module named '_multiprocessing'"))
    bare = replace(HEALTHY, start_methods=(), default_start_method=None, no_processes=missing)
    text = cli.render(report_on(monkeypatch, bare, UNIRUN_LADDER="processes,threads"))
    assert text.startswith("Process pools cannot start here: what they are made of is missing (ImportError: No module")
    assert "none: this Python has no multiprocessing" in text


def test_a_ladder_without_what_would_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    no_semaphores = failure("processes", "construct", OSError(errno.ENOSYS, "Function not implemented"))
    bare = replace(HEALTHY, no_processes=no_semaphores)
    text = cli.render(report_on(monkeypatch, bare, UNIRUN_LADDER="processes,threads"))
    assert text.startswith("The stdlib's process pools cannot start here: semaphores are refused")
    assert "UNIRUN_LADDER leaves out pipes, which may." in text


def test_downgrades_that_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(monkeypatch, NO_WORKERS, UNIRUN_DOWNGRADE="error")
    assert cli.conclusion(report)[1] == "Requests for processes run nowhere: they raise DowngradeError."
    assert any("unset UNIRUN_DOWNGRADE=error" in tip for tip in cli.advice(report))


def test_a_start_method_that_works_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(monkeypatch, HEALTHY)
    refused = failure("processes", "start", OSError(errno.EAGAIN, "not now"))
    served = replace(report.decisions["processes"], refused=(refused,), backend="threads", start_method=None)
    spawned = replace(report.decisions["processes"], start_method="spawn", settled=True)
    tries = (tried("processes by spawn", spawned, alone=True, stderr="one\ntwo"), tried("processes", served))
    report = replace(report, decisions={**report.decisions, "processes": served}, tries=tries)
    assert cli.conclusion(report)[0] == (
        "Process pools cannot start here by fork: new processes are refused ([Errno 11] not now)."
    )
    assert cli.advice(report)[0] == "Process pools start by spawn: set UNIRUN_START_METHOD=spawn."
    text = cli.render(report)
    assert "worked in another process: first result after 1.2 s, a second one took 0.056 ms" in text
    assert "it wrote: two" in text
    for seconds, said in {0.9994: "999 ms", 0.9996: "1.0 s"}.items():
        text = cli.render(replace(report, tries=(replace(tries[0], first=seconds),)))
        assert f"first result after {said}, " in text


def test_half_a_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(monkeypatch, HEALTHY)
    short = failure("pipes", "start", OSError(errno.ENOMEM, "full"))
    served = replace(report.decisions["processes"], short=short, workers=1, settled=True)
    report = replace(report, decisions={**report.decisions, "processes": served}, tries=(tried("processes", served),))
    assert cli.conclusion(report) == [
        "Process pools work here.",
        "Requests for processes run in pipes by fork (1 worker).",
        "More workers could not be started: memory is short ([Errno 12] full).",
    ]
    assert "Give it more memory, or fewer workers (UNIRUN_MAX_WORKERS)." in cli.advice(report)


def test_no_threads_either(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(monkeypatch, NO_WORKERS)
    no_threads = failure("threads", "start", RuntimeError("can't start new thread"))
    decisions = {
        name: replace(decision, refused=(*decision.refused, no_threads), backend="inline", workers=None)
        for name, decision in report.decisions.items()
        if decision.backend == "threads"
    }
    report = replace(report, decisions={**report.decisions, **decisions})
    assert cli.conclusion(report)[1:] == [
        "Requests for processes run in the calling thread, one after the other.",
        "Threads cannot start here: refused by the system (RuntimeError: can't start new thread).",
        "Requests for threads run in the calling thread, one after the other.",
    ]


@pytest.mark.parametrize(
    ("stage", "error", "words"),
    [
        ("construct", OSError(errno.EROFS, "x"), f"semaphores are refused ([Errno {errno.EROFS}] x)"),
        ("construct", OSError(errno.EMFILE, "x"), f"too many files are open ([Errno {errno.EMFILE}] x)"),
        ("construct", NotImplementedError("x"), "semaphores are refused (NotImplementedError: x)"),
        ("start", PermissionError(errno.EPERM, "x"), f"new processes are refused ([Errno {errno.EPERM}] x)"),
        ("start", OSError(errno.EMFILE, "x"), f"too many files are open ([Errno {errno.EMFILE}] x)"),
        ("start", OSError(errno.ENOENT, "x"), f"a worker cannot be started ([Errno {errno.ENOENT}] x)"),
        (
            "start",
            OSError("AF_UNIX path too long"),
            "the path of a socket is too long (OSError: AF_UNIX path too long)",
        ),
        ("start", EOFError("x"), "new processes are refused (EOFError: x)"),
        ("start", RuntimeError("can't start new thread"), "they need a thread, and threads are refused"),
        ("bootstrap", RuntimeError("x"), "no worker got as far as its first task (RuntimeError: x)"),
    ],
)
def test_each_refusal_has_its_words(stage: "Stage", error: Exception, words: str) -> None:
    assert cli.cause(failure("processes", stage, error)).startswith(words)


def test_pipes_are_not_said_to_need_semaphores() -> None:
    why = failure("pipes", "construct", OSError(errno.EPERM, "x"))
    assert cli.cause(why) == f"pipes or memory for them are refused ([Errno {errno.EPERM}] x)"

"""The command line ``python -m unirun``: its arguments, and the words in which ``doctor`` reports."""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False  # nothing else is imported before a command needs it, so that `run` and --help are quick
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Final

    from unirun.autopatch.control import Status
    from unirun.doctor import Report, Try
    from unirun.host import Host
    from unirun.refusal import Failure
    from unirun.trace import DecisionTrace

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; ``argv`` is by default this process's own."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["run"]:
        from unirun import runner

        # Without argparse, which would read options of the program's, and takes longer than all the rest.
        if runner.is_program(runner.split(words[1:])[1]):
            return runner.run(words[1:])
    import argparse

    from unirun import __version__

    parser = argparse.ArgumentParser(
        prog="python -m unirun", description="Runs tasks in the best way that this host allows, and says which that is."
    )
    parser.add_argument("--version", action="version", version=f"unirun {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    # Each command is added by a function of its own, which sets `command`: from the arguments to an exit status.
    _add_doctor(commands)
    _add_run(commands)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:  # said with the usage of the command, which the parser of all would not do
        getattr(arguments, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if not hasattr(arguments, "command"):
        parser.print_help()
        return 0
    status = int(arguments.command(arguments))
    if argv is None:
        _settle_output()
    return status


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "Say what this host can run, what each flavor gets here and why, and which settings are in force."
    status = "Exit status: 0 with a report; 2 for a bad setting or argument; 1 if --try finds that nothing can run."
    parser = commands.add_parser("doctor", help=about, description=about, epilog=status)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--try", action="store_true", dest="start", help="really start each kind of worker")
    parser.set_defaults(command=_doctor, parser=parser)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add what is said of `run`: its help, and what is wrong with a command line that names no program."""
    from unirun.runner import OPTIONS

    about = "Run a program as python does, with unirun's pools in place of the stdlib's, in all Pythons that it starts."
    program = "FILE | -m MODULE | -c CODE | -"
    parser = commands.add_parser(
        "run",
        help=about,
        description=about,
        usage=f"python -m unirun run [-h] [{'] ['.join(OPTIONS)}] ({program}) [ARGUMENT ...]",
        epilog="Exit status: the program's; 2 if it cannot be run. Options of Python itself go before -m unirun.",
        allow_abbrev=False,
    )
    for option, meaning in OPTIONS.items():
        parser.add_argument(option, action="store_true", help=meaning)
    # Of what is no option, nothing gets here but a lone "--": `main` runs the rest.
    parser.add_argument("program", nargs="...", metavar=program, help="as python takes it, with its arguments")
    parser.set_defaults(command=lambda _: parser.error("which program?"), parser=parser)


def _doctor(arguments: argparse.Namespace) -> int:
    from unirun.doctor import examine
    from unirun.errors import UnirunError

    try:
        report = examine(start=arguments.start)
    except UnirunError as error:
        print(f"unirun: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        import json

        text = json.dumps({"conclusion": conclusion(report), "advice": advice(report), **report.as_dict()}, indent=2)
    else:
        text = render(report)
    status = 1 if report.tries and not any(each.worked for each in report.tries) else 0
    if not _write(text):
        status = 2
    if any(each.gave_up for each in report.tries):
        os._exit(status)  # at its normal exit the interpreter would wait for what gave no answer
    return status


def _write(text: str) -> bool:
    """Print ``text``, in whatever encoding standard output has, to whoever still reads it; return whether that went."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        pass  # a reader that is gone has read enough
    except OSError as error:
        if sys.stderr is not None:
            print(f"unirun: the report cannot be written: {error}", file=sys.stderr)
        return False
    return True


def _settle_output() -> None:
    """Let the exit of the interpreter, which flushes again, not fail where nothing can be written any more."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def render(report: Report) -> str:
    """Return a report in words, the conclusion first."""
    import textwrap

    sections = {
        "What to do": [textwrap.fill(f"- {tip}", 98, subsequent_indent="    ") for tip in advice(report)],
        "What each request gets": _table(_request_rows(report)),
        "What was started to find out": _table([_try_row(each) for each in report.tries if each.alone]),
        "This host": _table(_host_rows(report.facts)),
        "The hook (concurrent.futures in code that does not know unirun)": _table(_hook_rows(report.hook)),
        "Settings": [*map("=".join, report.variables.items()), *report.notes] or ["all defaults: no UNIRUN_* variable"],
    }
    parts = ["\n  ".join([title, *lines]) for title, lines in sections.items() if lines]
    return "\n\n".join([textwrap.fill(" ".join(conclusion(report)), 100), *parts])


def conclusion(report: Report) -> list[str]:
    """Return what a tired reader needs to know, in sentences, process pools first."""
    from unirun.trace import PROCESSES

    processes, threads = report.decisions["processes"], report.decisions["threads"]
    for subject, what in {"processes": "A process pool", "ProcessPoolExecutor": "A drop-in for processes"}.items():
        failed = [each.error for each in report.tries if each.subject == subject and each.error and not each.alone]
        if failed:
            return [f"{what} was opened here, and failed: {failed[0]}."]
    stdlib = report.decisions.get("ProcessPoolExecutor", processes)
    why = _refusal(stdlib, "processes") or _refusal(processes, "processes") or _refusal(processes, "pipes")
    if processes.backend not in PROCESSES:
        why = _refusal(processes, "pipes") or why  # which needs less, and so says what has to be changed
    run = f"Requests for processes run {_place(processes)}"
    if processes.backend in PROCESSES and why is not None and why.backend == "processes":
        real = "which are real processes" + ("" if processes.settled else " if they can start; nothing was tried")
        said = [f"The stdlib's process pools cannot start here: {cause(why)}.", f"{run}, {real}."]
    elif processes.backend in PROCESSES:
        untried = "Nothing is known to stop process pools here; nothing was tried."
        works = "Process pools work here." if processes.settled else untried
        said = [works, f"{run}."]
    elif why is not None and why.stage == "construct" and "pipes" not in processes.ladder:
        said = [
            f"The stdlib's process pools cannot start here: {cause(why)}.",
            "UNIRUN_LADDER leaves out pipes, which may.",
            f"{run}.",
        ]
    elif why is not None:
        by = f" by {_method(report)}" if _other_methods(report) else ""
        said = [f"Process pools cannot start here{by}: {cause(why)}.", f"{run}."]
    else:
        left_out = "Process pools are left out: UNIRUN_LADDER does not name them, or names something else first."
        said = [left_out, f"{run}."]
    if processes.short is not None:
        said.append(f"More workers could not be started: {cause(processes.short)}.")
    if (why := _refusal(threads, "threads")) is not None:
        said += [f"Threads cannot start here: {cause(why)}.", f"Requests for threads run {_place(threads)}."]
    return said


def advice(report: Report) -> list[str]:
    """Return what the reader can do about it, in sentences."""
    from unirun.trace import PROCESSES

    processes, threads = report.decisions["processes"], report.decisions["threads"]
    tips = [f"Process pools start by {each}: set UNIRUN_START_METHOD={each}." for each in _other_methods(report)[:1]]
    refused = () if processes.backend in PROCESSES else processes.refused  # then nothing is to be done about these
    refused = tuple(sorted(refused, key=lambda why: why.backend != "pipes"))  # these need less than the stdlib's
    for why in (*refused, *threads.refused, processes.short):
        tips += _explain(why)[1:] if why is not None else ()
    if processes.backend is None:
        tips.append("To let a lower rung serve: unset UNIRUN_DOWNGRADE=error, and UNIRUN_LADDER if it is set.")
    elif processes.downgraded:
        if processes.backend == "inline":
            tips.append("As it is, tasks run one after the other, with the same results.")
        elif processes.backend == "interpreters":
            tips.append("As it is, tasks run in parallel, and one that crashes ends the program.")
        elif report.facts.gil:
            tips.append("As it is, Python code waits in parallel here, but does not compute in parallel (GIL).")
        tips.append("To get an error instead of a lower rung: UNIRUN_DOWNGRADE=error.")
    if not report.tries:
        tips.append("Nothing was started to find this out. To start each kind once: python -m unirun doctor --try")
    return list(dict.fromkeys(tips))


def cause(why: Failure) -> str:
    """Return in words what refused, with the error."""
    return f"{_explain(why)[0]} ({why.message if why.errno is not None else f'{why.error}: {why.message}'})"


_EARLY: Final = (
    "was loaded before the hook was on, as by an earlier .pth file: "
    "programs get the stdlib's class until they use unirun's pools, or call unirun.autopatch.install()"
)
_FORK: Final = "new processes are refused"
_FILES: Final = ("too many files are open", "Raise the limit on open files (ulimit -n).")
_ALL_FILES: Final = ("the system has too many files open", "Close files in other programs.")
_SEM: Final = "semaphores are refused"
_MOUNT: Final = "Mount a writable tmpfs on /dev/shm (docker run --tmpfs /dev/shm)."
_LIMITS: Final = "Look at the limits (ulimit -u; the container's pids.max, docker run --pids-limit)."
#: What refused, then what can be done about it, by stage and by the number or the name of the error.
_WORDS: Final = {
    ("construct", "ENOSYS"): (_SEM, "This system has no semaphores (as on AWS Lambda). Pipes need none."),
    ("construct", "ENOENT"): (_SEM, _MOUNT),
    ("construct", "EROFS"): (_SEM, _MOUNT),
    ("construct", "EACCES"): (_SEM, "Let this user write to /dev/shm: see its mode (1777) and the sandbox's rules."),
    ("construct", "EPERM"): (_SEM, "Allow semaphores in the sandbox's rules (seccomp, AppArmor, seatbelt)."),
    ("construct", "ENOSPC"): (_SEM, "Free /dev/shm (df /dev/shm; sem.* files of killed programs) or enlarge it."),
    ("construct", "EMFILE"): _FILES,
    ("construct", "ENFILE"): _ALL_FILES,
    ("start", "EAGAIN"): (_FORK, _LIMITS),
    ("start", "EPERM"): (_FORK, "Allow fork and exec in the sandbox's rules (seccomp, AppArmor)."),
    ("start", "EMFILE"): _FILES,
    ("start", "ENFILE"): _ALL_FILES,
    ("start", "EOFError"): (_FORK,),
    ("start", "OSError"): ("the path of a socket is too long", "Set TMPDIR to a folder with a shorter name."),
    ("start", "ENOMEM"): ("memory is short", "Give it more memory, or fewer workers (UNIRUN_MAX_WORKERS)."),
    ("start", "AssertionError"): ("this process is a daemonic worker", "Open the pool in the program that started it."),
}
#: The same where the error is not among them.
_OTHERWISE: Final = {
    "import": ("what they are made of is missing", "Use a Python with multiprocessing, if this system has one."),
    "construct": (_SEM,),
    "start": ("a worker cannot be started",),
    "bootstrap": ("no worker got as far as its first task", "Workers must be able to import the main module."),
}


#: The same of interpreters.
_NO_INTERPRETERS: Final = {
    "import": "this Python has none",
    "construct": "they cannot do what is asked for",
    "start": "they cannot be made",
    "bootstrap": "they cannot be workers of this program",
}


def _explain(why: Failure) -> tuple[str, ...]:
    if why.backend == "interpreters" and "new thread" not in why.message:
        return (_NO_INTERPRETERS[why.stage],)
    if "new thread" in why.message:
        what = "refused by the system" if why.backend == "threads" else "they need a thread, and threads are refused"
        return what, _LIMITS, "An old Docker under a newer C library refuses threads too: update Docker."
    key = why.error if why.errno is None else errno.errorcode.get(why.errno, why.error)
    words = _WORDS.get((why.stage, key)) or _OTHERWISE[why.stage]
    if words[0] == _SEM and why.backend != "processes":  # which needs none
        return "pipes or memory for them are refused", "Look at the sandbox's rules (seccomp, AppArmor)."
    return words


def _refusal(decision: DecisionTrace, backend: str) -> Failure | None:
    return next((why for why in decision.refused if why.backend == backend), None)


def _method(report: Report) -> str | None:
    return report.config.start_method or report.facts.default_start_method


def _other_methods(report: Report) -> list[str]:
    """Return the start methods that work where the one in force does not."""
    from unirun.trace import PROCESSES

    decision = report.decisions["processes"]
    if decision.backend in PROCESSES or not any(why.backend in PROCESSES for why in decision.refused):
        return []
    alone = [each.decision for each in report.tries if each.alone and each.worked]
    worked = [decision.start_method for decision in alone if decision.backend in PROCESSES]
    return [method for method in worked if method not in (None, _method(report))]


def _place(decision: DecisionTrace) -> str:
    if decision.backend is None:
        return "nowhere: they raise DowngradeError"
    if decision.backend == "inline":
        return "in the calling thread, one after the other"
    by = f" by {decision.start_method}" if decision.start_method else ""
    count = "the stdlib's number of" if decision.workers is None else decision.workers
    return f"in {decision.backend}{by} ({count} worker{'' if count == 1 else 's'})"


def _table(rows: list[tuple[str, list[str]]]) -> list[str]:
    width = max((len(label) for label, _ in rows), default=0)
    return [f"{'' if i else label:{width}}  {line}" for label, lines in rows for i, line in enumerate(lines)]


def _request_rows(report: Report) -> list[tuple[str, list[str]]]:
    from unirun.doctor import COMPAT

    rows: dict[str, list[str]] = {}
    failed = {each.subject: [f"failed: {each.error}"] for each in report.tries if each.error}
    for subject, decision in report.decisions.items():
        row = [f"{_place(decision)}; {decision.reason}", *failed.get(subject, [])]
        row += [f"not in {why.backend}: {cause(why)}" for why in decision.refused]
        if subject not in COMPAT:
            rows[subject] = row
        elif row != rows[COMPAT[subject]]:
            rows[f"{subject} (compat)"] = row
    if not COMPAT.keys() & report.decisions.keys():
        rows["compat"] = ["the stdlib's own classes, because UNIRUN_COMPAT_MODE=passthrough"]
    return list(rows.items())


def _try_row(each: Try) -> tuple[str, list[str]]:
    if each.first is not None and each.again is not None and each.error is None:
        where = "another process" if each.own_process else "this process"
        row = [f"worked in {where}: first result after {_time(each.first)}, a second one took {_time(each.again)}"]
    elif each.error is not None:
        row = [f"failed: {each.error}"]
    else:
        row = [f"refused at {why.stage}: {cause(why)}" for why in each.decision.refused]
    row += [f"not all workers started: {cause(each.decision.short)}"] if each.decision.short is not None else []
    row += [f"it wrote: {each.stderr.splitlines()[-1]}"] if each.stderr else []
    return each.subject, row


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.9995 else f"{seconds * 1000:.3g} ms"


def _host_rows(facts: Host) -> list[tuple[str, list[str]]]:
    name = {"cpython": "CPython", "pypy": "PyPy"}.get(facts.implementation, facts.implementation)
    methods = [f"{m} (default)" if m == facts.default_start_method else m for m in facts.start_methods]
    excluded = facts.no_processes and f"excluded: {cause(facts.no_processes)}"
    return [
        ("Python", [f"{name} {facts.version} on {facts.platform}, {'with a GIL' if facts.gil else 'without a GIL'}"]),
        ("CPUs", [f"{facts.usable_cpus} that this process may use"]),
        ("Start methods", [", ".join(methods) or "none: this Python has no multiprocessing"]),
        ("Process pools", [excluded or "not excluded by these facts"]),
    ]


def _hook_rows(hook: Status) -> list[tuple[str, list[str]]]:
    through = {
        "pth": f"through {hook.file or 'a .pth file'}",
        "install": "by unirun.autopatch.install()",
        "run": "by run",
    }
    rows = [("On", [through[hook.by]])] if hook.active and hook.by else [("Off", [str(hook.off_because)])]
    if not hook.active and hook.file:
        rows.append(("Installed", [hook.file]))
    rows += [("Too late", [f"{name} {_EARLY}" for name in hook.early])] if hook.early else []
    here = [f"{name} by {cls}" for name, cls in hook.replaced.items() if name.rpartition(".")[0] not in hook.early]
    rows += [("Replaced", here)] if here else []
    rows += [("Left", list(hook.left))] if hook.left else []
    rows += [("Failed", [f"{name}: {error}"]) for name, error in hook.errors.items()]
    return rows

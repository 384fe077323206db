"""``python -m unirun run``: a program as ``python`` runs it, with the hook on in it and in the Pythons that it starts.

``python -O -m unirun run --trace app.py x`` becomes ``python -O app.py x``: the same process, by ``exec``, after the
environment was set. So it is not *like* a plain Python, it is one, in all that a program can see of itself
(``__main__``, its frames and tracebacks, signals, its exit) and on every version. It costs a second start of the
interpreter.

What turns the hook on in there is a ``sitecustomize``, in a folder that is put on ``PYTHONPATH``, which processes hand
down; or the ``.pth`` file, where the companion distribution is installed.

Does not promise:
    That a child has the hook that gets another environment (``env={}``), or ignores its own (``python -I``, ``-E``),
    where there is no ``.pth``; or that it has it under ``-S``, which reads none.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # neither this nor what it imports is to make a program start later
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = ["OPTIONS", "is_program", "run", "split"]

#: The options, and what each does.
OPTIONS: Final = {
    "--trace": "write each decision as one line on standard error (UNIRUN_TRACE=stderr, unless that is set)",
    "--strict": "make it an error when a pool cannot be served as asked (UNIRUN_DOWNGRADE=error)",
    "--summary": "at the end, print which pools were asked for, where they ran, and why not elsewhere",
}


def split(arguments: Sequence[str]) -> tuple[set[str], list[str]]:
    """Return the options, and the program with its arguments: all that comes after the options is the program's."""
    words = list(arguments)
    options = set()
    while words and words[0] in OPTIONS:
        options.add(words.pop(0))
    return options, words


def is_program(words: Sequence[str]) -> bool:
    """Tell whether ``python`` would find a program in these words, rather than nothing, or an option of its own."""
    if not words or words[0] == "--":
        return len(words) > 1
    return words[0] == "-" or words[0].startswith(("-c", "-m")) or not words[0].startswith("-")


def run(arguments: Sequence[str]) -> int:
    """Run a program; return only where another process does that, or where it cannot be run.

    Args:
        arguments: The words after ``run``, which name a program.

    Returns:
        An exit status: the program's, or 2 after a message.
    """
    options, program = split(arguments)
    environment = dict(os.environ)
    if wrong := _bad_setting(environment):
        return _refuse(wrong)
    if "--trace" in options and not environment.get("UNIRUN_TRACE", "").strip():
        environment["UNIRUN_TRACE"] = "stderr"
    if "--strict" in options:
        environment["UNIRUN_DOWNGRADE"] = "error"
    if "--summary" in options or not _is_on():
        folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "autopatch", "startup")
        if sys.flags.ignore_environment or sys.flags.no_site:
            flag = "-S" if sys.flags.no_site else "-I" if sys.flags.isolated else "-E"
            return _refuse(
                f"under python {flag} the program would have no hook, or no summary: they come through PYTHONPATH and "
                f"site. Leave {flag} out, or, for the hook under -I and -E, install unirun[autopatch]"
            )
        if os.pathsep in folder:
            return _refuse(f"the program would have no hook: PYTHONPATH cannot name {folder}, for its {os.pathsep!r}")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, environment.get("PYTHONPATH"))))
    return _start([*_interpreter(arguments), *program], environment, summary="--summary" in options)


def _refuse(why: str) -> int:
    print(f"unirun: {why}", file=sys.stderr)
    return 2


def _bad_setting(environment: dict[str, str]) -> str | None:
    """Say which setting is not accepted. The hook would leave the program alone, with a warning; here one is asked."""
    if not any(name.startswith("UNIRUN_") for name in environment):
        return None
    import warnings

    from unirun import config
    from unirun.errors import ConfigError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a variable that means nothing, the program's process warns as well
            config.resolve()
        config.autopatch_exclude()
        config.autopatch_enabled()
        config.compat_mode()
    except ConfigError as error:
        return str(error)
    return None


def _is_on() -> bool:
    """Tell whether each Python of this environment turns the hook on by itself, as this one did."""
    return any(
        getattr(finder, "name", None) == "unirun_autopatch" and getattr(finder, "by", None) != "install"
        for finder in sys.meta_path
    )


def _interpreter(arguments: Sequence[str]) -> list[str]:
    """Return the command line of this Python up to what it runs: of ``python -O -m unirun run x``, ``python -O``."""
    command, rest = sys.orig_argv[: -len(arguments) - 1], sys.orig_argv[-len(arguments) :]
    if not command or rest != list(arguments):
        return [sys.executable]  # called by a program, with arguments of its own
    word = command.pop()
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    by_name = spec is not None and spec.name != "__main__"  # that is the name in a folder or an archive
    if by_name or sys.argv[0] == "-c":
        # -m and -c may stand together with letters before them, and with the name after them.
        options = word if word.startswith("-") else command.pop()
        letters = options.partition("m" if by_name else "c")[0]
        command += [letters] if letters != "-" else []
    return command


def _start(command: list[str], environment: dict[str, str], *, summary: bool) -> int:
    replaces = os.name == "posix"  # on Windows exec makes another process and ends this one at once
    file = None
    if sys.stdout is not None:
        sys.stdout.flush()  # exec would drop what a program wrote that calls this itself
    try:
        if summary:
            from unirun.autopatch.summary import announce, report

            try:
                file = announce(environment, os.getpid() if replaces else 0)
            except OSError as error:
                return _refuse(f"--summary needs a folder for a temporary file ({error}); set TMPDIR, or leave it out")
        if replaces:
            os.execve(sys.executable or "", command, environment)
        status, pid = _wait(command, environment)
    except OSError as error:
        if file is not None:
            os.unlink(file)
        why = f"another Python cannot be started here, as `run` does ({error})"
        return _refuse(f"{why}; unirun.autopatch.install(), called by the program itself, needs none")
    if file is not None:
        report(file, pid)
    return status


def _wait(command: list[str], environment: dict[str, str]) -> tuple[int, int]:
    """Run a command in another process; return its exit status, as one that this process can have, and its id."""
    import subprocess

    with subprocess.Popen(command, executable=sys.executable, env=environment) as process:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                pass  # a Ctrl-C goes to both, and it is the program's to answer
    return (status - 2**32 if status >= 2**31 else status), process.pid

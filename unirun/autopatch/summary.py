"""What ``python -m unirun run --summary`` says at the end: which pools were asked for, where each ran, and why there.

Each process of the program appends its decisions to one file. The process that ``run`` became prints what is in it as
the last thing that it does, after its own handlers at exit: also when it ends by an error or by Ctrl-C, not when it is
killed. Loaded only in programs that are to have a summary.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from unirun.trace import DecisionTrace

__all__ = ["VARIABLE", "announce", "begin", "report"]

#: Tells the processes of the program, as ``PID:FILE``, who prints and from which file. No setting, so it does not begin
#: as they do.
VARIABLE: Final = "_UNIRUN_SUMMARY"


def announce(environment: dict[str, str], pid: int) -> str:
    """Make the file, name it in ``environment`` as that of the process ``pid``, and return its path.

    Raises:
        OSError: There is no folder for temporary files that can be written to.
    """
    import tempfile

    handle, file = tempfile.mkstemp(prefix="unirun-summary-")
    os.close(handle)
    environment[VARIABLE] = f"{pid}:{file}"
    return file


def begin() -> None:
    """Take note of every decision of this process from now on; print the summary at its end if that is its part."""
    import atexit
    import json

    from unirun.trace import add_listener

    pid, _, file = os.environ[VARIABLE].partition(":")

    def note(decision: DecisionTrace) -> None:
        line = json.dumps({**_row(decision), "pid": os.getpid()}) + "\n"
        try:
            # One write to a file opened for appending: lines of several processes do not mix. It is not made anew after
            # the program has ended.
            handle = os.open(file, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError:
            pass

    def end() -> None:
        from unirun.host import in_subinterpreter

        # Asked here, as a fork has these handlers too; and a sub-interpreter ends before the program does.
        if os.getpid() == int(pid) and not in_subinterpreter():
            report(file, int(pid))

    add_listener(note)
    atexit.register(end)


def _row(decision: DecisionTrace) -> dict[str, Any]:
    asked = f"{decision.origin} {decision.name!r}" if decision.name else decision.origin
    workers = "" if decision.workers is None else f" ({decision.workers} worker{'' if decision.workers == 1 else 's'})"
    by = f" by {decision.start_method}" if decision.start_method else ""
    why = [str(each) for each in decision.refused]
    if decision.short is not None:
        why.append(f"fewer workers than asked for started: {decision.short.error}: {decision.short.message}")
    if not decision.settled:
        why.append("never had a task")
    return {
        "asked": f"{asked}, {decision.where}" if decision.where else asked,
        "served": "nowhere" if decision.backend is None else f"{decision.backend}{by}{workers}",
        "why": "; ".join(why),
    }


def report(file: str, pid: int) -> None:
    """Print the summary on standard error, and remove ``file``; ``pid`` is that of the program's first process."""
    import json

    try:
        with open(file, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        try:
            os.unlink(file)
        except PermissionError:
            pass  # on Windows a process that the program started may have it open
        if sys.stdout is not None:
            sys.stdout.flush()  # what the program wrote comes first
    except (OSError, ValueError):
        return
    if sys.stderr is not None:
        try:
            print(_render(rows, pid), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass


def _render(rows: list[dict[str, Any]], pid: int) -> str:
    from unirun.autopatch import hook

    off = hook.switched_off()
    counted = {0: "no pool was", 1: "1 pool was"}.get(len(rows), f"{len(rows)} pools were")
    title = f"unirun: {counted} asked for" + (f"; the hook is off ({off})" if off else "")
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        groups.setdefault((row["asked"], row["served"], row["why"]), []).append(row["pid"])
    wide = [max((len(key[i]) for key in groups), default=0) for i in range(2)]
    lines = [title]
    for (asked, served, why), pids in groups.items():
        others = len({*pids} - {pid})
        more = [why] if why else []
        if others:
            more.append(f"in {others} process{'' if others == 1 else 'es'} that the program started")
        lines.append(f"{len(pids):4} x {asked:{wide[0]}}  {served:{wide[1]}}  {'; '.join(more)}".rstrip())
    return "\n".join(lines)

"""Random programs on the stdlib's process pool and on the managed one, healthy and lowered: the same outcome.

Where the stdlib itself leaves two outcomes open, as when a task is cancelled that a worker may already have, each of
them is accepted from everybody; what must hold in either case, such as that a cancelled task never ran, is checked.
"""

import tempfile
import threading
from concurrent.futures import (
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    as_completed,
    wait,
)
from dataclasses import dataclass
from functools import partial
from pickle import PicklingError
from typing import Any, Final, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance import tasks
from tests.conformance.columns import COLUMNS, FORKING, Column
from tests.conformance.quiet import await_quiet, light_main
from tests.conformance.tasks import PATIENCE, Gate, Journal, Unpicklable

BY_NAME: Final = {column.name: column for column in COLUMNS}

#: How many tasks more than it has workers the call queue of a process pool takes. They cannot be cancelled.
QUEUED: Final = 1

Ending = Literal["stay open", "shut down", "cancel"]
Collecting = Literal["one by one", "wait", "first exception", "as completed"]

#: What a task does. The first of them is what hypothesis shrinks to.
KINDS: Final = ("return", "raise", "exit", "change", "slow", "unpicklable result", "unpicklable argument")


# ---------------------------------------------------------------------------------------------------------- programs


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit one task."""

    kind: str


@dataclass(frozen=True, slots=True)
class Map:
    """Map over tasks."""

    kinds: tuple[str, ...]
    chunksize: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel one of the tasks submitted so far, counted around."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is done to a pool.

    Attributes:
        workers: How many workers it has.
        held: All of them are held at a gate while the steps are made.
        full: The queue behind them is filled up first, so that every task of the steps is certainly pending.
        steps: What is done then.
        ending: What is done after the steps, before the gate is opened.
        collecting: How the tasks are waited for after that.
    """

    workers: int
    held: bool
    full: bool
    steps: tuple[Submit | Map | Cancel, ...]
    ending: Ending
    collecting: Collecting


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Draw a program."""
    ending = draw(st.sampled_from(("stay open", "shut down", "cancel")))
    # A pool that shuts down with what cannot be pickled in its queue hangs, in several versions of the stdlib.
    kind = st.sampled_from(KINDS if ending == "stay open" else KINDS[:-1])
    step = st.one_of(
        st.builds(Submit, kind),
        st.builds(Submit, kind),
        st.builds(Map, st.lists(kind, max_size=6).map(tuple), st.integers(1, 3)),
        st.builds(Cancel, st.integers(0, 30)),
    )
    # What `shutdown` cancels is never over for `wait` and `as_completed`: no worker comes upon it any more.
    collecting = ("one by one",) if ending == "cancel" else ("one by one", "wait", "first exception", "as completed")
    return Program(
        workers=draw(st.integers(1, 2)),
        held=draw(st.booleans()),
        full=draw(st.booleans()),
        steps=tuple(draw(st.lists(step, max_size=16))),
        ending=ending,  # type: ignore[arg-type]
        collecting=draw(st.sampled_from(collecting)),
    )


# ------------------------------------------------------------------------------------------------------- observations


def outcome(kind: str, number: int) -> tuple[object, ...]:
    """Return what becomes of a task that is not cancelled."""
    match kind:
        case "raise":
            return "error", "ValueError", (number,)
        case "exit":
            return "error", "SystemExit", (number,)
        case "change":
            return "result", [number]
        case "unpicklable result":
            return ("unpicklable",)
        case "unpicklable argument":
            return "error", "LookupError", (number,)
    return "result", number


def outcomes_of_map(step: Map, first: int) -> list[tuple[object, ...]]:
    """Return what a map yields if nothing is cancelled: results, and perhaps an error at their end."""
    yielded: list[tuple[object, ...]] = []
    for start in range(0, len(step.kinds), step.chunksize):
        chunk = [(kind, first + start + i) for i, kind in enumerate(step.kinds[start : start + step.chunksize])]
        ends = [outcome(kind, number) for kind, number in chunk]
        # A chunk is one task: it is pickled as a whole on the way there, runs until one fails, and is pickled again.
        for failed in (
            [end for (kind, _), end in zip(chunk, ends, strict=True) if kind == "unpicklable argument"],
            [end for end in ends if end[0] == "error"],
            [end for end in ends if end[0] == "unpicklable"],
        ):
            if failed:
                return [*yielded, failed[0]]
        yielded += ends
    return yielded


def observed(get: Any) -> tuple[object, ...]:
    """Return what became of a task or an item, in the words of ``outcome``."""
    try:
        return "result", get()
    except CancelledError:
        return ("cancelled",)
    except StopIteration:
        return ("end",)
    except (ValueError, SystemExit, LookupError) as error:
        return "error", type(error).__name__, error.args
    except (PicklingError, AttributeError, TypeError):  # which one differs between versions
        return ("unpicklable",)


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """A task that was submitted.

    Attributes:
        kind: What it does.
        number: The number that it notes when it runs.
        future: Its future.
        items: The list that it is given, and may change.
        cancelled: What ``cancel`` returned, or ``None``.
        certain: It was cancelled while no worker could have it: there is but one outcome.
    """

    kind: str
    number: int
    future: Future[Any]
    items: list[int]
    cancelled: bool | None = None
    certain: bool = False


class Play:
    """One performance of a program."""

    def __init__(self, program: Program, column: Column, folder: str) -> None:
        self.program = program
        self.gate = Gate(folder)
        self.journal = Journal(f"{folder}/journal")
        self.pool = column.open(program.workers)
        self.holders: list[Future[str]] = []
        self.jobs: list[Job] = []
        self.maps: list[tuple[Map, int, Any]] = []
        #: What certainly stands before the next task: tasks that are held or that wait, and will not go away.
        self.ahead: list[Job | None] = []
        self.numbers = 0
        #: What was seen, without what may differ.
        self.seen: list[object] = []

    def run(self) -> list[object]:
        """Perform it; return what was seen."""
        workers = self.program.workers
        if self.program.held:
            for name in map(str, range(workers + QUEUED + workers if self.program.full else workers)):
                self.holders.append(self.pool.submit(tasks.hold, self.gate, name))
                self.ahead.append(None)
            for name in map(str, range(workers)):
                self.gate.await_arrival(name)
        for step in self.program.steps:
            self.step(step)
        self.end()
        self.gate.open()
        self.collect()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            self.pool.submit(tasks.add, 2, 3)
        return self.seen

    def step(self, step: Submit | Map | Cancel) -> None:
        match step:
            case Submit(kind):
                number = self.number(1)
                items: list[int] = []
                future = self.pool.submit(tasks.perform, self.journal, number, kind, argument(kind, number, items))
                self.jobs.append(Job(kind=kind, number=number, future=future, items=items))
                if kind != "unpicklable argument":  # it leaves the queue without a worker
                    self.ahead.append(self.jobs[-1])
            case Map(kinds, chunksize):
                first = self.number(len(kinds))
                numbers = range(first, first + len(kinds))
                lists = [argument(kind, number, []) for kind, number in zip(kinds, numbers, strict=True)]
                perform = partial(tasks.perform, self.journal)
                results = self.pool.map(perform, numbers, kinds, lists, chunksize=chunksize)
                self.maps.append((step, first, results))
                self.ahead += [None] * (0 if "unpicklable argument" in kinds else -(-len(kinds) // chunksize))
            case Cancel(index) if self.jobs:
                job = self.jobs[index % len(self.jobs)]
                certain = self.certainly_pending(job) or job.certain
                job.cancelled = job.future.cancel() or bool(job.cancelled)
                if certain:
                    assert job.cancelled
                    job.certain = True
                if job in self.ahead:
                    self.ahead.remove(job)

    def number(self, count: int) -> int:
        self.numbers += count
        return self.numbers - count

    def certainly_pending(self, job: Job) -> bool:
        """Tell whether no worker can have a task: all are held, and the queue behind them is full without it."""
        workers = self.program.workers
        return self.program.held and job in self.ahead and self.ahead.index(job) >= workers + workers + QUEUED

    def end(self) -> None:
        """Shut down while the gate is closed, if the program says so."""
        if self.program.ending == "stay open":
            return
        cancel = self.program.ending == "cancel"
        pending = [job for job in self.jobs if self.certainly_pending(job)] if cancel else []
        self.pool.shutdown(wait=False, cancel_futures=cancel)
        for job in pending:
            with pytest.raises(CancelledError):  # before the gate opens: the pool's thread does it in its own time
                job.future.result(PATIENCE)
            job.certain = True

    def collect(self) -> None:
        """Wait for everything, and note what is to be compared."""
        futures = [job.future for job in self.jobs]
        match self.program.collecting:
            case "wait":
                assert wait(futures, PATIENCE).done == set(futures)
            case "first exception":
                done, rest = wait(futures, PATIENCE, return_when=FIRST_EXCEPTION)
                assert not rest or any(not future.cancelled() and future.exception() for future in done)
            case "as completed":
                assert sorted(map(id, as_completed(futures, PATIENCE))) == sorted(map(id, futures))
        may_be_cancelled = self.program.ending == "cancel"
        for number, holder in enumerate(self.holders):
            end = observed(partial(holder.result, PATIENCE))
            was_queued = number >= self.program.workers
            assert end == ("result", str(number)) or (was_queued and may_be_cancelled and end == ("cancelled",))
        for job in self.jobs:
            self.compare_job(job, observed(partial(job.future.result, PATIENCE)), may_be_cancelled)
        for step, first, results in self.maps:
            self.compare_map(step, first, results, may_be_cancelled)
        if self.program.ending == "stay open":
            # What a failed map has left may be in the queue still, and see `programs`: this is behind it.
            assert self.pool.submit(tasks.add, 2, 3).result(PATIENCE) == 5
        # Only now has all that will ever run done so.
        self.pool.shutdown(wait=True)
        self.check_journal()

    def compare_job(self, job: Job, end: tuple[object, ...], may_be_cancelled: bool) -> None:
        own = outcome(job.kind, job.number)
        if job.certain:
            self.seen.append(("job", job.number, end))
            assert end == ("cancelled",)
        elif job.cancelled is None and not may_be_cancelled:
            self.seen.append(("job", job.number, end))
            assert end == own
        else:
            assert end in (own, ("cancelled",))
            assert not job.cancelled or end == ("cancelled",)
            assert job.cancelled is not False or end == own or may_be_cancelled

    def compare_map(self, step: Map, first: int, results: Any, may_be_cancelled: bool) -> None:
        expected = outcomes_of_map(step, first)
        ends: list[tuple[object, ...]] = []
        while not ends or ends[-1][0] == "result":
            ends.append(observed(partial(next, results)))
        if ends[-1] == ("end",):
            ends.pop()
        if may_be_cancelled:
            if ends and ends[-1] == ("cancelled",):
                ends.pop()
            assert ends == expected[: len(ends)]
        else:
            self.seen.append(("map", first, ends))
            assert ends == expected

    def check_journal(self) -> None:
        """At most once, once where there is an end that only the task itself can have brought, never if cancelled."""
        noted = self.journal.read()
        assert len(noted) == len(set(noted)), "a task ran twice"
        for job in self.jobs:
            ran = not job.future.cancelled() and job.kind != "unpicklable argument"
            assert (str(job.number) in noted) == ran
            assert job.items == [], "a task changed what its caller has"


def argument(kind: str, number: int, items: list[int]) -> object:
    return Unpicklable(LookupError(number)) if kind == "unpicklable argument" else items


def perform(program: Program, name: str) -> list[object]:
    """Return what is seen of a program on a column."""
    before = set(threading.enumerate())
    with tempfile.TemporaryDirectory() as folder:
        play = Play(program, BY_NAME[name], folder)
        try:
            seen = play.run()
        finally:
            play.gate.open()
            play.pool.shutdown(wait=True, cancel_futures=True)
            # A second shutdown of the stdlib's waits for nothing, and what a map left running writes in the folder.
            await_quiet(before)
    return seen


# ------------------------------------------------------------------------------------------------------------- tests


@FORKING
@settings(max_examples=80)
@given(programs())
def test_a_forked_pool_does_what_the_stdlib_s_does(program: Program) -> None:
    """Where the stdlib's pool starts, the managed one is that pool."""
    assert perform(program, "compat-processes-fork") == perform(program, "stdlib-processes-fork")


@FORKING
@settings(max_examples=120)
@given(programs())
def test_threads_do_what_the_stdlib_s_processes_do(program: Program) -> None:
    """A lower rung keeps process semantics."""
    assert perform(program, "compat-processes-on-threads") == perform(program, "stdlib-processes-fork")


@settings(max_examples=8)
@given(programs())
def test_a_pool_of_a_fork_server_does_what_the_stdlib_s_does(program: Program) -> None:
    """Few, since each starts new interpreters' worth of modules."""
    with light_main():
        assert perform(program, "compat-processes-forkserver") == perform(program, "stdlib-processes-forkserver")


@settings(max_examples=100)
@given(programs())
def test_inline_gives_the_same_results(program: Program) -> None:
    """Without a gate to hold anybody, and without anything to cancel, since all has run at the call."""
    steps = tuple(step for step in program.steps if not isinstance(step, Cancel))
    plain = Program(workers=1, held=False, full=False, steps=steps, ending="stay open", collecting=program.collecting)
    assert perform(plain, "compat-processes-on-inline") == perform(plain, "compat-processes-on-threads")

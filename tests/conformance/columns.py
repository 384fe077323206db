"""The columns of the matrix: every way of getting an executor, and the decorator that runs a test on each of them.

A column is what is asked for, by whom, and which rung serves it:

    stdlib-processes-fork  stdlib-processes-spawn  stdlib-processes-forkserver  stdlib-threads     the control group
    compat-processes-fork  compat-processes-spawn  compat-processes-forkserver                     a drop-in, healthy
    compat-processes-on-pipes-fork  compat-processes-on-pipes-spawn  compat-processes-on-pipes-forkserver
    compat-processes-on-threads  compat-processes-on-inline                                        the same, lowered
    compat-processes-on-interpreters  run-interpreters                                             from 3.14 on
    compat-threads  compat-threads-on-inline
    run-processes  run-processes-on-processes  run-threads  run-none                               the explicit API
"""

import concurrent.futures
import multiprocessing
import sys
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Executor
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import pytest

import unirun
from tests.lower import INTERPRETERS
from unirun.compat.concurrent import futures as compat_futures
from unirun.config import START_METHODS

__all__ = ["COLUMNS", "COUNTED", "FORKING", "NOTHING_PENDING", "Column", "across"]

#: Python 3.12+ warns of a fork while other threads run. Pools fork before they start threads of their own, but the test
#: before may have left one that is still ending, and a pool that serves another's tasks has company by design.
FORKING: Final = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")

#: For tests of what is gone as soon as nobody refers to it.
COUNTED: Final = pytest.mark.skipif(
    sys.implementation.name == "pypy" or not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="nobody knows when something dies here: there are no reference counts, or each thread has its own",
)

#: For tests of what can be done to a task that has not run: inline cannot have one.
NOTHING_PENDING: Final = {"on-inline": "nothing is ever pending inline: a task has run when submit returns"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One way of getting an executor."""

    maker: Literal["stdlib", "compat", "run"]
    flavor: Literal["processes", "interpreters", "threads", "none"]
    rung: Literal["processes", "pipes", "interpreters", "threads", "inline"]
    start_method: Literal["fork", "spawn", "forkserver"] | None = None

    @property
    def name(self) -> str:
        parts = [self.maker, self.flavor, f"on-{self.rung}" if self.lowered else "", self.start_method or ""]
        return "-".join(part for part in parts if part)

    @property
    def lowered(self) -> bool:
        """Whether another rung serves than the first for what was asked for."""
        first = {"none": "inline", "processes": "pipes" if self.maker == "run" else "processes"}
        return self.rung != first.get(self.flavor, self.flavor)

    @property
    def imitated(self) -> bool:
        """Whether that rung runs tasks in this process, and so only imitates processes."""
        return self.rung == "interpreters" or (self.lowered and self.rung in ("threads", "inline"))

    @property
    def traits(self) -> frozenset[str]:
        """What tests choose columns by."""
        traits = {self.maker, f"for-{self.flavor}", f"on-{self.rung}"}
        if self.flavor == "interpreters":
            traits.add("for-processes")  # where all of it holds, too
        if self.rung in ("processes", "pipes"):
            traits.add(self.start_method or multiprocessing.get_context().get_start_method())
        if self.start_method is not None:
            traits.add(f"by-{self.start_method}")  # asked for
        return frozenset(traits)

    @property
    def kind(self) -> type[Executor]:
        """The class whose constructor users call; not for the explicit API, which has none."""
        assert self.maker != "run"
        module: Any = concurrent.futures if self.maker == "stdlib" else compat_futures
        name = "ProcessPoolExecutor" if self.flavor == "processes" else "ThreadPoolExecutor"
        kind: type[Executor] = getattr(module, name)
        return kind

    @property
    def control(self) -> "Column":
        """The stdlib's own way of getting what this one stands for."""
        assert self.flavor != "none"
        return Column(maker="stdlib", flavor=self.flavor, rung=self.flavor)

    @property
    def broken(self) -> type[BrokenExecutor]:
        """The error of a pool of this flavor that is not usable any more."""
        return BrokenThreadPool if self.flavor == "threads" else BrokenProcessPool

    def open(
        self,
        max_workers: int | None = 2,
        *,
        config: unirun.RuntimeConfig | None = None,
        kind: type[Executor] | None = None,
        **arguments: Any,
    ) -> Executor:
        """Return a new executor.

        Args:
            max_workers: The number of workers.
            config: Further settings, beside the ladder that makes a column a lowered one.
            kind: A class to call instead of the column's own, such as one derived from it.
            **arguments: For the constructor.
        """
        config = config or unirun.RuntimeConfig()
        if self.lowered:
            config = replace(config, ladder=(self.rung,))
        if self.maker == "run":
            return unirun.Run(flavor=self.flavor, max_workers=max_workers, config=config, **arguments).__enter__()
        if self.start_method is not None:
            arguments.setdefault("mp_context", multiprocessing.get_context(self.start_method))
        make: Any = kind or self.kind
        if self.maker == "stdlib":
            return make(max_workers, **arguments)  # type: ignore[no-any-return]
        before = unirun.configure(config)
        try:
            return make(max_workers, **arguments)  # type: ignore[no-any-return]
        finally:
            unirun.configure(before)


COLUMNS: Final = (
    *(Column(maker="stdlib", flavor="processes", rung="processes", start_method=way) for way in START_METHODS),
    Column(maker="stdlib", flavor="threads", rung="threads"),
    *(Column(maker="compat", flavor="processes", rung="processes", start_method=way) for way in START_METHODS),
    *(Column(maker="compat", flavor="processes", rung="pipes", start_method=way) for way in START_METHODS),
    Column(maker="compat", flavor="processes", rung="threads"),
    Column(maker="compat", flavor="processes", rung="inline"),
    Column(maker="compat", flavor="threads", rung="threads"),
    Column(maker="compat", flavor="threads", rung="inline"),
    Column(maker="run", flavor="processes", rung="pipes"),
    Column(maker="run", flavor="processes", rung="processes"),
    Column(maker="run", flavor="threads", rung="threads"),
    Column(maker="run", flavor="none", rung="inline"),
    *((Column(maker="compat", flavor="processes", rung="interpreters"),) if INTERPRETERS else ()),
    *((Column(maker="run", flavor="interpreters", rung="interpreters"),) if INTERPRETERS else ()),
)


def across(
    *traits: str,
    without: tuple[str, ...] = (),
    skip: Mapping[str, str] | None = None,
) -> pytest.MarkDecorator:
    """Run a test on columns, given to it or to its fixtures as ``column``.

    Args:
        *traits: All of those that a column must have for the test to be about it.
        without: Those that it must not have.
        skip: A trait, and the reason why a column of it cannot fulfil the point although the point is about it.
    """
    chosen = []
    for column in COLUMNS:
        if not column.traits.issuperset(traits) or not column.traits.isdisjoint(without):
            continue
        reasons = [reason for trait, reason in (skip or {}).items() if trait in column.traits]
        marks: list[pytest.MarkDecorator] = [pytest.mark.skip(reason=reason) for reason in reasons]
        if "fork" in column.traits:
            marks.append(FORKING)
        chosen.append(pytest.param(column, id=column.name, marks=marks))
    return pytest.mark.parametrize("column", chosen)

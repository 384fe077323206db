"""The seed of it all: process pools that start everywhere, by `Run`, by compat and awaited.

`UNIRUN_FORCE_PROCESS=1 pytest -k map` and `UNIRUN_COMPAT_MODE=passthrough pytest -k compat` are to pass as they stand,
so these tests take the environment as it is.
"""

import asyncio
import concurrent.futures
import concurrent.futures.process
import os
from collections.abc import Iterable, Iterator

import pytest

from tests.tasks import crash, fail, pid, square
from unirun import Run, RuntimeConfig, last_decision, map, reset, to_process
from unirun.compat.concurrent import futures as compat_futures
from unirun.config import compat_mode, resolve

pytestmark = [
    pytest.mark.keeps_environment,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
PAYLOADS = [3, 1, 4, 1, 5]
SQUARES = [9, 1, 16, 1, 25]


def crunch(payloads: Iterable[int]) -> list[int]:
    config = RuntimeConfig(cpu_bound=True, force_process=True, max_workers=4)
    with Run(flavor="processes", config=config, trace=True) as executor:
        return list(map(executor, square, payloads))


def crunch_via_compat(payloads: Iterable[int]) -> list[int]:
    with compat_futures.ProcessPoolExecutor(max_workers=4) as pool:
        return list(pool.map(square, payloads))


async def crunch_async(payloads: Iterable[int]) -> list[int]:
    return await asyncio.gather(*(to_process(square, payload) for payload in payloads))


@pytest.fixture
def compat_pool() -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    with compat_futures.ProcessPoolExecutor(max_workers=2) as pool:
        yield pool


def test_map_in_a_scope() -> None:
    assert crunch(PAYLOADS) == SQUARES
    decision = last_decision()
    assert decision is not None
    assert (decision.origin, decision.backend, decision.workers) == ("Run", "pipes", 4)


def test_map_runs_elsewhere() -> None:
    with Run(flavor="processes", max_workers=2) as executor:
        pids = set(map(executor, int, [os.getpid()])) | {executor.submit(pid).result()}
    assert len(pids) == 2


def test_map_resolves_auto_by_the_environment() -> None:
    """`UNIRUN_FORCE_PROCESS=1` makes processes of a request that names no flavor."""
    with Run(max_workers=1) as executor:
        (worker,) = map(executor, abs, [executor.submit(pid).result()])
    assert (worker != os.getpid()) == bool(resolve().force_process or resolve().cpu_bound)


def test_map_with_a_cached_pool() -> None:
    assert list(map(square, PAYLOADS)) == SQUARES
    assert list(map(pow, PAYLOADS, [2] * 5, chunksize=2)) == SQUARES
    reset()
    assert list(map(square, PAYLOADS)) == SQUARES


def test_map_gives_an_error_in_its_place() -> None:
    with Run(flavor="processes", max_workers=2) as executor:
        results = map(executor, int, ["1", "2", "x", "4"])
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(ValueError, match="'x'"):
            next(results)


def test_map_of_nothing() -> None:
    with Run(flavor="processes") as executor:
        assert list(map(executor, square, [])) == []


def test_awaited() -> None:
    assert asyncio.run(crunch_async(PAYLOADS)) == SQUARES


def test_compat_crunches() -> None:
    assert crunch_via_compat(PAYLOADS) == SQUARES


def test_compat_hands_out_what_its_mode_says() -> None:
    managed = compat_futures.ProcessPoolExecutor is not concurrent.futures.ProcessPoolExecutor
    assert managed == (compat_mode() == "managed")
    assert issubclass(compat_futures.ProcessPoolExecutor, concurrent.futures.ProcessPoolExecutor)
    assert issubclass(compat_futures.ThreadPoolExecutor, concurrent.futures.ThreadPoolExecutor)
    with compat_futures.ProcessPoolExecutor(1) as pool:
        assert hasattr(pool, "decision") == managed


def test_compat_has_every_name_of_the_stdlib() -> None:
    for name in concurrent.futures.__all__:
        theirs, ours = getattr(concurrent.futures, name), getattr(compat_futures, name)
        assert ours is theirs or issubclass(ours, theirs), name
    assert set(concurrent.futures.__all__) <= set(dir(compat_futures))


@pytest.mark.parametrize("name", ["", ".process", ".thread", "._base"])
def test_compat_has_what_a_star_imports(name: str) -> None:
    ours: dict[str, object] = {}
    theirs: dict[str, object] = {}
    exec(f"from unirun.compat.concurrent.futures{name} import *", ours)
    exec(f"from concurrent.futures{name} import *", theirs)
    assert ours.keys() == theirs.keys()


def test_compat_submodules() -> None:
    from unirun.compat.concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
    from unirun.compat.concurrent.futures.thread import ThreadPoolExecutor

    assert BrokenProcessPool is concurrent.futures.process.BrokenProcessPool
    assert ProcessPoolExecutor is compat_futures.ProcessPoolExecutor
    assert ThreadPoolExecutor is compat_futures.ThreadPoolExecutor
    assert compat_futures.process.BrokenProcessPool is BrokenProcessPool


def test_compat_runs_elsewhere(compat_pool: concurrent.futures.ProcessPoolExecutor) -> None:
    assert compat_pool.submit(pid).result() != os.getpid()


def test_compat_errors_are_the_tasks_own(compat_pool: concurrent.futures.ProcessPoolExecutor) -> None:
    with pytest.raises(LookupError, match="gone"):
        compat_pool.submit(fail, "gone").result()
    with pytest.raises(concurrent.futures.process.BrokenProcessPool):
        compat_pool.submit(crash).result()


def test_compat_waits_and_completes(compat_pool: concurrent.futures.ProcessPoolExecutor) -> None:
    futures = [compat_pool.submit(square, payload) for payload in PAYLOADS]
    done, pending = compat_futures.wait(futures)
    assert not pending
    assert sorted(f.result() for f in compat_futures.as_completed(futures)) == sorted(SQUARES)
    assert done == set(futures)

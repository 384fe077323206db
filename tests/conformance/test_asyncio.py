"""The contract with asyncio: ``run_in_executor``, and a loop's default executor."""

import asyncio
import threading
from concurrent.futures import Executor

import pytest

from tests.conformance import tasks
from tests.conformance.columns import NOTHING_PENDING, Column, across
from tests.conformance.tasks import PATIENCE, Gate, Journal
from tests.conformance.test_futures import queue_up


@across()
def test_a_loop_runs_tasks_in_any_executor(pool: Executor) -> None:
    """Many at a time, and those that fail."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(pool, tasks.add, number, 1) for number in range(6)]
        assert await asyncio.wait_for(asyncio.gather(*calls), PATIENCE) == [1, 2, 3, 4, 5, 6]
        with pytest.raises(ValueError, match="of the task"):
            await loop.run_in_executor(pool, tasks.fail, ValueError("of the task"))

    asyncio.run(main())


@across(skip=NOTHING_PENDING)
def test_a_loop_goes_on_while_a_task_runs(pool: Executor, gate: Gate) -> None:
    """The gate is opened from the loop that awaits the task."""

    async def main() -> None:
        held = asyncio.get_running_loop().run_in_executor(pool, tasks.hold, gate)
        asyncio.get_running_loop().call_soon(gate.open)
        assert await asyncio.wait_for(held, PATIENCE) == "holder"

    asyncio.run(main())


@across(skip=NOTHING_PENDING)
def test_cancelling_what_a_loop_awaits_cancels_a_pending_task(single: Executor, gate: Gate, journal: Journal) -> None:
    """It never runs."""
    _, behind = queue_up(single, gate, journal)

    async def main() -> None:
        awaited = asyncio.get_running_loop().run_in_executor(single, tasks.noted, journal, "cancelled")
        awaited.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaited

    asyncio.run(main())
    gate.open()
    single.shutdown()
    assert all(future.done() for future in behind)
    assert "cancelled" not in journal.read()


@across("for-threads")
def test_a_thread_pool_may_be_a_loop_s_default(column: Column, pool: Executor) -> None:
    """Whichever rung serves; the loop shuts it down at its end."""

    async def main() -> tuple[int, int]:
        asyncio.get_running_loop().set_default_executor(pool)
        assert await asyncio.get_running_loop().run_in_executor(None, tasks.add, 2, 3) == 5
        return await asyncio.to_thread(tasks.whereabouts)

    _, thread = asyncio.run(main())
    assert (thread == threading.get_ident()) == (column.rung == "inline")
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(tasks.add, 2, 3)


@across("for-processes")
def test_a_process_pool_may_not(pool: Executor) -> None:
    """Loops insist on threads, whichever rung serves."""

    async def main() -> None:
        with pytest.raises(TypeError, match="ThreadPoolExecutor"):
            asyncio.get_running_loop().set_default_executor(pool)

    asyncio.run(main())

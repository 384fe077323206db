"""Ctrl-C, a signal handler or another thread, just between two steps of a map, of a cached pool, of a pool's start."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import unirun
from tests.conformance.columns import FORKING
from tests.unit.moments import PATIENCE, in_time, interrupted_before, until
from unirun import Run, RuntimeConfig, configure, leases
from unirun.backends.pipes import pool as pools
from unirun.backends.pipes.bell import Bell
from unirun.backends.pipes.dispatch import Dispatch
from unirun.maps.batches import Batches
from unirun.maps.executor import BatchingExecutor
from unirun.maps.pulling import Pulling
from unirun.maps.sending import Sending

PIPES = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no worker processes over pipes here")
pytestmark = FORKING
MAIN = os.getpid()


def square(number: int) -> int:
    return number * number


def nap(number: int) -> int:
    time.sleep(0.02)
    return number


def block(path: str) -> None:
    """Wait until a file is there."""
    while not os.path.exists(path):
        time.sleep(0.01)


def nap_and_block(path: str) -> None:
    nap(0)  # so long that it travels alone
    block(path)


def note(path: str, word: object) -> None:
    with open(path, "a") as file:
        file.write(f"{word} ")
    time.sleep(0.02)


def opened(rung: str = "threads", workers: int = 1) -> Any:
    config = RuntimeConfig(start_method="fork" if rung == "pipes" else None, ladder=(rung,), downgrade="silent")
    return Run(flavor="processes", max_workers=workers, config=config).__enter__()


def in_main() -> bool:
    return threading.current_thread() is threading.main_thread()


class Sized:
    """An iterable with a length, and with something that comes in the midst of it."""

    def __init__(self, count: int, place: int, what: Callable[[], object]) -> None:
        self._numbers = iter(range(count))
        self._count, self._place, self._what = count, place, what

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        number = next(self._numbers)
        if number == self._place:
            self._what()
        return number


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    configure()
    unirun.reset()


# Ctrl-C and signals in what the program gives a map.


@pytest.mark.parametrize("wait", [True, False])
def test_an_iterable_that_shutdown_reads(wait: bool) -> None:
    """What was not read is not taken for the end of it."""

    def interrupt() -> None:
        if in_main():
            raise KeyboardInterrupt

    executor, first, go_on = opened(), threading.Event(), threading.Event()
    results = unirun.map(executor, square, Sized(10, 5, interrupt), buffersize=1)
    taken: list[Any] = []

    def consume() -> None:
        for result in results:
            taken.append(result)
            first.set()
            assert go_on.wait(PATIENCE)

    ended: list[BaseException] = []

    def consume_all() -> None:
        with pytest.raises(CancelledError) as raised:
            consume()
        ended.append(raised.value)

    consumer = threading.Thread(target=consume_all, daemon=True)
    consumer.start()
    assert first.wait(PATIENCE)
    threading.Timer(0.2, go_on.set).start()
    with pytest.raises(KeyboardInterrupt):
        executor.shutdown(wait=wait)
    consumer.join(PATIENCE)
    assert taken == [n * n for n in range(len(taken))]
    assert len(taken) < 10
    assert len(ended) == 1, "it hangs, or took that for the end"


@pytest.mark.parametrize("fn", [square, nap])
@pytest.mark.parametrize("kind", ["iterator", "generator"])
@pytest.mark.parametrize("wait", [True, False])
def test_an_iterable_that_shuts_its_own_pool_down(wait: bool, kind: str, fn: Callable[[int], int]) -> None:
    """As the handler of a signal may. All is done, in order."""
    executor = opened(workers=2)

    class Generated(Sized):
        def __iter__(self) -> Iterator[int]:
            yield from (Sized.__next__(self) for _ in range(len(self)))

    items = (Sized if kind == "iterator" else Generated)(40, 7, lambda: executor.shutdown(wait=wait))
    assert in_time(lambda: list(unirun.map(executor, fn, items))) == [fn(n) for n in range(40)]
    in_time(executor.shutdown)


class Result:
    """Interrupts the program that unpickles it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if os.getpid() == MAIN and self.number == 150:
            raise KeyboardInterrupt


@PIPES
def test_results_that_are_unpickled() -> None:
    """It is no fault of the result's."""
    with opened("pipes") as executor, pytest.raises(KeyboardInterrupt):
        list(executor.map(Result, range(300)))


# Between the steps of a map.


@pytest.mark.parametrize("rung", ["threads", "pipes"])
@pytest.mark.parametrize("fn", [square, Result])
def test_a_closed_iterator_has_nothing_more(rung: str, fn: Callable[[int], Any]) -> None:
    """Also where the rest of a batch has come."""
    with opened(rung) as executor:
        results: Any = executor.map(fn, range(140))
        for _ in range(100):
            next(results)
        results.close()
        assert list(results) == []
    configure(ladder=("threads",), max_workers=1)
    results = unirun.map(square, range(140))
    for _ in range(100):
        next(results)
    results.close()
    assert list(results) == []


def test_the_last_batch_is_submitted_before_what_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although a thread of the pool's has it in its hands."""
    send, cut, path = Batches._send, threading.Event(), str(tmp_path / "order")

    def late(batches: Batches, batch: Any) -> None:
        if not in_main() and not batches.unsent:
            cut.set()
            time.sleep(0.3)
        send(batches, batch)

    monkeypatch.setattr(Batches, "_send", late)
    with opened() as executor:
        results = executor.map(note, [path] * 6, range(6))
        assert cut.wait(PATIENCE)
        executor.submit(note, path, "later").result(PATIENCE)
        list(results)
    assert Path(path).read_text().split() == ["0", "1", "2", "3", "4", "5", "later"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["close", "cancel"])
def test_what_is_told_of_a_cancelled_batch(
    how: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the thread that cancels it, and to none other later."""
    executor, gate, note = opened(), tmp_path / "gate", Batches._note
    interrupted: list[bool] = []

    def interrupt(batches: Batches, batch: Any, future: Any) -> None:
        if when == "after":
            note(batches, batch, future)
        if in_main() and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        note(batches, batch, future)

    results: Any = unirun.map(executor, block, [str(gate)] * 60, chunksize=10)  # one batch runs, and one waits
    monkeypatch.setattr(Batches, "_note", interrupt)
    threading.Timer(0.2, gate.touch).start()
    with pytest.raises(KeyboardInterrupt):
        results.close() if how == "close" else executor.shutdown(cancel_futures=True)
    if how == "cancel":
        with pytest.raises(CancelledError):
            in_time(lambda: list(results))
    in_time(executor.shutdown)


def test_a_second_one_while_the_first_is_dealt_with(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, stop = opened(), Batches._stop
    twice: list[bool] = []

    def interrupt(batches: Batches, error: BaseException) -> None:
        stop(batches, error)
        if isinstance(error, KeyboardInterrupt) and not twice:
            twice.append(True)
            raise KeyboardInterrupt

    def send(batches: Batches, batch: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Batches, "_stop", interrupt)
    monkeypatch.setattr(Batches, "_send", send)
    with pytest.raises(KeyboardInterrupt):
        executor.map(square, range(5))
    assert twice
    in_time(executor.shutdown)


def test_a_task_that_the_stdlib_took_off_its_queue_and_did_not_cancel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its future is pending for ever, there as here; the next shutdown does not wait for it."""
    executor, cancel = opened(), Future.cancel
    interrupted: list[bool] = []
    executor.submit(nap, 1).result(PATIENCE)
    go = str(tmp_path / "go")
    results = executor.map(nap_and_block, [str(tmp_path)] * 2 + [go] * 4)
    assert [next(results), next(results)] == [None, None]
    until(lambda: len(executor._unirun_maps[0]._open) == 2)  # one runs and one waits

    def interrupt(future: Future[Any]) -> bool:
        if not interrupted and sys._getframe(1).f_code.co_name == "shutdown":
            interrupted.append(True)
            raise KeyboardInterrupt
        return cancel(future)

    monkeypatch.setattr(Future, "cancel", interrupt)
    try:
        executor.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        pass
    assert interrupted, "no task was waiting"
    Path(go).touch()
    in_time(executor.shutdown)


# Of a map over threads, and of the cached pools.


def test_no_item_begins_after_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """That came between the look at it and the submit."""
    configure(ladder=("threads",), max_workers=2)
    submit, was_reset, late = leases._submit, threading.Event(), []

    def after_it(*arguments: Any) -> Future[Any]:
        if not was_reset.is_set():
            unirun.reset()
            was_reset.set()
        return submit(*arguments)

    def item(number: int) -> None:
        if was_reset.is_set():
            late.append(number)

    monkeypatch.setattr(leases, "_submit", after_it)
    with pytest.raises(CancelledError):
        list(unirun.map(item, range(100)))
    time.sleep(0.2)
    assert late == []


def test_tasks_do_not_follow_one_another_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pool had accepted one, and its submit was interrupted."""
    configure(ladder=("threads",), max_workers=3)
    pull, submit, go_on, begun, submitted = Pulling._pull, leases._submit, threading.Event(), [], []

    def counted(pulling: Pulling, mark: list[bool]) -> None:
        begun.append(True)
        assert len(begun) > 2 or go_on.wait(PATIENCE)
        pull(pulling, mark)

    def interrupt(*arguments: Any) -> Future[Any]:
        future = submit(*arguments)
        submitted.append(True)
        if len(submitted) == 2:
            raise KeyboardInterrupt
        return future

    monkeypatch.setattr(Pulling, "_pull", counted)
    monkeypatch.setattr(leases, "_submit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(unirun.map(nap, range(100)))
    go_on.set()
    time.sleep(0.3)
    assert len(begun) <= 5


@pytest.mark.parametrize("step", ["self._open.add(batch)", "self._sent[batch.start] = batch", "return batch"])
def test_a_batch_is_cut(step: str) -> None:
    """Whoever reads then hears of it."""
    executor = opened()
    executor.submit(square, 1).result(PATIENCE)
    results = executor.map(nap, range(20))
    with interrupted_before(Sending._cut, step):
        executor.submit(square, 2)
    with pytest.raises(KeyboardInterrupt):
        in_time(lambda: list(results))
    in_time(executor.shutdown)


@pytest.mark.parametrize(
    ("function", "step"),
    [
        (Sending._tell, "if ended is not None and"),
        (Sending._tell, "exits.discard(self)"),
        (BatchingExecutor._unirun_map_ended, "maps.remove(ended)"),
        (BatchingExecutor._unirun_map_ended, "if self._unirun_deferred"),
    ],
)
def test_a_map_ends(function: Callable[..., Any], step: str) -> None:
    """The executor can be shut down then without waiting."""
    executor = opened()
    executor.submit(square, 1).result(PATIENCE)
    results: Any = unirun.map(executor, square, range(10), buffersize=2)
    assert next(results) == 0
    (sending,) = executor._unirun_maps
    until(lambda: not sending._open)
    with interrupted_before(function, step):
        results.close()
    executor.shutdown(wait=False)
    assert executor._unirun_closed
    assert not executor._unirun_maps


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="its own conditions are taken in one step")
@pytest.mark.parametrize("whose", ["map", "pulling", "lease", "scope"])
def test_no_lock_is_left_locked(whose: str) -> None:
    """A condition has a function in Python for the `with`, which may be interrupted when it has the lock."""
    armed = [True]
    enter = threading.Condition.__enter__.__code__

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        caller: Any = frame.f_back
        if frame.f_code is not enter or not caller.f_globals.get("__name__", "").startswith("unirun."):
            return None

        def interrupt(frame: FrameType, event: str, argument: object) -> Any:
            if event == "return" and armed:
                armed.clear()
                raise KeyboardInterrupt
            return interrupt

        return interrupt

    configure(ladder=("threads",), max_workers=2)
    executor = opened(workers=2)
    borrowed = Run(executor=executor).__enter__()
    first: Callable[[], object]
    then: Callable[[], object]
    if whose == "map":
        results: Any = executor.map(nap, range(20))
        first, then = (lambda: executor.submit(nap, 1)), (lambda: list(results))
    elif whose == "pulling":
        results = unirun.map(nap, range(20))
        first, then = (lambda: [next(results) for _ in range(10)]), (lambda: unirun.submit(nap, 5).result())
    elif whose == "lease":
        first, then = (lambda: unirun.submit(nap, 1)), (lambda: unirun.submit(nap, 5).result())
    else:
        first, then = (lambda: borrowed.submit(nap, 1)), (lambda: borrowed.submit(nap, 5).result())
    traced = sys.gettrace()
    sys.settrace(trace)
    try:
        first()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(traced)
    in_time(then)
    in_time(borrowed.shutdown)
    in_time(executor.shutdown)


def test_a_cached_pool_becomes_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody was told of the end of a task."""
    configure(ladder=("threads",), max_workers=2)
    monkeypatch.setattr(leases, "IDLE_SECONDS", 0.2)
    told, armed = Future.add_done_callback, [True]

    def interrupt(future: Future[Any], call: Any) -> None:
        if armed and getattr(call, "func", None) is leases._give_back:
            armed.clear()
            raise KeyboardInterrupt
        told(future, call)

    monkeypatch.setattr(Future, "add_done_callback", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unirun.submit(square, 2)
    assert unirun.submit(square, 3).result(PATIENCE) == 9
    until(lambda: not leases.cached())


@PIPES
def test_a_callback_does_not_wait_for_who_sends(tmp_path: Path) -> None:
    """That thread may wait for the pool's own, which runs the callback: for room in the pipe by which it is woken."""
    executor, gate, submitted = opened("processes", workers=2), tmp_path / "gate", []
    first = executor.submit(block, str(gate))
    first.add_done_callback(lambda _: submitted.append(executor.submit(square, 3)))
    results = executor.map(nap, range(50))
    (sending,) = executor._unirun_maps
    with sending._lock:
        assert sending.unsent
        sending._sender = -1  # another thread
    gate.touch()
    until(lambda: bool(submitted))
    assert submitted[0].result(PATIENCE) == 9
    sending._sender = None
    sending._pump()
    assert in_time(lambda: list(results)) == list(range(50))
    in_time(executor.shutdown)


@PIPES
@pytest.mark.parametrize(
    ("function", "step"),
    [
        (Dispatch.submit, "ring = worker.writing"),
        (Dispatch.release, "if worker.claimed is owner"),
        (Bell.ring, "if self._writer.closed"),
    ],
)
def test_a_task_is_half_written(function: Callable[..., Any], step: str) -> None:
    """The pool's thread writes the rest: the worker waits for it, and what comes next waits for the worker."""
    executor = opened("pipes")
    executor.submit(square, 1).result(PATIENCE)
    until(lambda: executor._unirun_lower._manager.dispatch._idle)
    (worker,) = executor._processes
    os.kill(worker, signal.SIGSTOP)  # or it reads as fast as it is written
    try:
        with interrupted_before(function, step):
            executor.submit(len, bytes(3_000_000))
    finally:
        os.kill(worker, signal.SIGCONT)
    assert executor.submit(square, 2).result(PATIENCE) == 4
    in_time(executor.shutdown)


# Of the start of a pool over pipes.


@PIPES
def test_a_pool_whose_thread_has_just_been_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers belong to that thread or to who gives up, and not to both."""
    start, failed, before = threading.Thread.start, [], set(multiprocessing.active_children())

    def interrupt(thread: threading.Thread) -> None:
        if thread.name != "unirun-pipes":
            return start(thread)
        started: Any = thread._started  # type: ignore[attr-defined]
        told, began = started.set, threading.Event()

        def late() -> None:
            began.set()
            time.sleep(0.3)
            told()

        def wait(timeout: float | None = None) -> bool:
            began.wait(PATIENCE)
            raise KeyboardInterrupt

        started.set, started.wait = late, wait
        try:
            return start(thread)
        finally:
            del started.wait

    if not hasattr(threading.Thread(), "_started") or sys.version_info >= (3, 15):
        pytest.skip("threads are started in another way here")
    monkeypatch.setattr(threading, "excepthook", lambda arguments: failed.append(arguments))
    with monkeypatch.context() as patch, opened("pipes") as executor:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(square, 2)
    until(lambda: not set(multiprocessing.active_children()) - before)
    assert failed == []


@PIPES
def test_a_pool_that_has_started_and_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends as any other that nobody holds."""
    before = set(multiprocessing.active_children())

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is not pools.open_pipes.__code__:
            return None

        def interrupt(frame: FrameType, event: str, argument: object) -> Any:
            if event == "return":
                sys.settrace(None)
                raise KeyboardInterrupt
            return interrupt

        return interrupt

    traced = sys.gettrace()
    executor = opened("pipes")
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            executor.submit(square, 2)
    finally:
        sys.settrace(traced)
    executor.shutdown()
    del executor

    def gone() -> bool:
        gc.collect()
        return not set(multiprocessing.active_children()) - before

    until(gone)


@PIPES
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_program_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes at the begin of any function of ours that is called then. Other threads open pools after it."""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_globals.get("__name__") == "unirun.backends.pipes.forks" and os.getpid() == MAIN:
            sys.settrace(None)
            raise KeyboardInterrupt
        return None

    monkeypatch.setattr(sys, "unraisablehook", lambda arguments: None)
    traced = sys.gettrace()
    sys.settrace(trace)
    try:
        child = os.fork()
        if child == 0:
            os._exit(0)
    finally:
        sys.settrace(traced)
    os.waitpid(child, 0)

    def use() -> int:
        with opened("pipes") as executor:
            return int(executor.submit(square, 3).result(PATIENCE))

    assert in_time(use) == 9


@PIPES
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_several_threads_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lets go of what its own fork has taken."""
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda arguments: ignored.append(arguments.exc_value))

    def fork() -> None:
        for _ in range(40):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)

    threads = [threading.Thread(target=fork, daemon=True) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        sys.setswitchinterval(interval)
    assert not any(thread.is_alive() for thread in threads)
    assert ignored == []


@PIPES
def test_a_worker_that_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads start theirs after it, also while somebody keeps the exception."""

    class Interrupted(multiprocessing.get_context("fork").Process):  # type: ignore[misc]
        def start(self) -> None:
            if in_main():
                signal.raise_signal(signal.SIGINT)
                raise KeyboardInterrupt  # which other threads may have heard
            super().start()

    monkeypatch.setattr(multiprocessing.context.ForkContext, "Process", Interrupted)
    first, second = opened("pipes"), opened("pipes")
    with pytest.raises(KeyboardInterrupt) as kept:
        first.submit(square, 2)
    assert in_time(lambda: second.submit(square, 3).result(PATIENCE)) == 9
    del kept
    in_time(first.shutdown)
    in_time(second.shutdown)

"""A program that does with thread pools all that programs do, and prints what came of it as JSON.

It says the same on every host where thread pools work; what is under "processes" says whether process pools do.
"""

import errno
import gc
import json
import multiprocessing
import os
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.dummy import Pool as DummyPool
from multiprocessing.pool import Pool, ThreadPool
from typing import Any


def square(x: int) -> int:
    time.sleep(0.001 * (x % 3))
    return x * x


def power(x: int, y: int) -> int:
    return int(x**y)


def fail_at_seven(x: int) -> int:
    if x == 7:
        raise ValueError("seven", x)
    return x


def broken(stop: int) -> Iterator[int]:
    yield from range(stop)
    raise KeyError("iterable")


def error_of(call: Callable[[], object]) -> Any:
    """Return the class, the number and the text of what a call raises, or ``None``."""
    try:
        result = call()
    except Exception as error:
        # PyPy has two numbers in the text, CPython has one.
        return [type(error).__name__, error.errno if isinstance(error, OSError) else str(error)]
    if hasattr(result, "terminate"):
        result.terminate()
    return None


def part_map() -> Any:
    with ThreadPool(4) as pool:
        return [
            pool.map(square, range(50)),
            pool.map(square, range(50), chunksize=7),
            pool.map(square, []),
            pool.map_async(square, range(9)).get(30),
            error_of(lambda: pool.map(fail_at_seven, range(20))),
            error_of(lambda: pool.map(square, broken(3))),
        ]


def part_imap() -> Any:
    with ThreadPool(4) as pool:
        lazy = pool.imap(fail_at_seven, range(10))
        return [
            list(pool.imap(square, range(50))),
            list(pool.imap(square, range(50), chunksize=7)),
            [next(lazy) for _ in range(7)],
            error_of(lambda: next(lazy)),
            list(lazy),
            error_of(lambda: list(pool.imap(square, broken(3)))),
        ]


def part_imap_unordered() -> Any:
    with ThreadPool(4) as pool:
        return [
            sorted(pool.imap_unordered(square, range(50))),
            sorted(pool.imap_unordered(square, range(50), chunksize=7)),
            error_of(lambda: list(pool.imap_unordered(fail_at_seven, range(10)))),
            error_of(lambda: list(pool.imap_unordered(square, broken(3)))),
        ]


def part_apply() -> Any:
    said: list[Any] = []
    done = threading.Event()
    with ThreadPool(4) as pool:
        results = [pool.apply_async(square, (x,), callback=said.append) for x in range(20)]
        failed = pool.apply_async(fail_at_seven, (7,), error_callback=lambda error: said.append(repr(error)))
        late = pool.apply_async(done.wait, (30,))
        answer = [
            pool.apply(power, (2, 10)),
            pool.apply(power, kwds={"x": 3, "y": 3}),
            [result.get(30) for result in results],
            error_of(lambda: failed.get(30)),
            failed.successful(),
            error_of(lambda: late.get(0.001))[0],
        ]
        done.set()
        answer.append(late.get(30))
        pool.close()
        pool.join()
    return [answer, sorted(map(str, said))]


def part_starmap() -> Any:
    pairs = [(x, 2) for x in range(20)]
    with ThreadPool(3) as pool:
        return [
            pool.starmap(power, pairs),
            pool.starmap_async(power, pairs).get(30),
            error_of(lambda: pool.starmap(power, [(1,)]))[0],
        ]


def part_initializer() -> Any:
    local = threading.local()
    calls: list[str] = []

    def initialize(word: str) -> None:
        local.word = word
        calls.append(word)

    together = threading.Barrier(3)  # so that each thread has a task

    def word(x: int) -> str:
        together.wait(30)
        return f"{local.word} {x}"

    with ThreadPool(3, initialize, ("hello",)) as pool:
        words = pool.map(word, range(3), chunksize=1)
    return [words, calls]


def part_states() -> Any:
    pool = ThreadPool(2)
    answer = [repr(pool), error_of(pool.join), error_of(lambda: pickle.dumps(pool))]
    pool.close()
    answer += [error_of(lambda: pool.map(square, [1])), error_of(pool.__enter__), repr(pool)]
    pool.join()
    pool.terminate()
    with ThreadPool(2) as second:
        second.map(square, [1])
    answer += [error_of(lambda: second.apply(square, (1,))), repr(second), second._ctx is multiprocessing.get_context()]  # type: ignore[attr-defined]
    return answer


def part_close_waits() -> Any:
    pool = ThreadPool(2)
    result = pool.map_async(square, range(100))
    pool.close()
    pool.join()
    return [result.ready(), result.get()]


def part_terminate_does_not_wait() -> Any:
    started = threading.Semaphore(0)
    finish = threading.Event()
    ran: list[int] = []

    def task(x: int) -> None:
        ran.append(x)
        started.release()
        finish.wait(30)

    pool = ThreadPool(2)
    result = pool.map_async(task, range(1000), chunksize=1)
    started.acquire()
    started.acquire()
    threading.Timer(0.1, finish.set).start()  # `terminate` of threads lets running tasks end
    pool.terminate()
    pool.join()
    return [len(ran) < 100, result.ready()]


def part_dummy() -> Any:
    answer = []
    with DummyPool(4) as pool:
        for result in pool.imap_unordered(square, range(20)):  # what a progress bar goes around
            answer.append(result)  # noqa: PERF402
    nothing_said = DummyPool()
    answer += nothing_said.map(square, range(3))
    nothing_said.close()
    nothing_said.join()
    return [sorted(answer), type(pool) is ThreadPool, isinstance(pool, Pool)]


class Derived(ThreadPool):
    def __init__(self, word: str) -> None:
        super().__init__(2)
        self.word = word

    def _setup_queues(self) -> None:
        super()._setup_queues()  # type: ignore[misc]
        self.method = self._ctx.get_start_method()  # type: ignore[attr-defined]


class Skipping(ThreadPool):
    def __init__(self) -> None:
        Pool.__init__(self, 2)


def part_derived() -> Any:
    with Derived("word") as pool, Skipping() as other:
        same = pool.method == multiprocessing.get_start_method()
        return [pool.map(square, range(5)), other.map(square, range(5)), pool.word, same]


def part_nested() -> Any:
    def inner(x: int) -> list[int]:
        with ThreadPool(2) as pool:
            return pool.map(square, range(x))

    with ThreadPool(3) as pool:
        return pool.map(inner, range(6))


def part_arguments() -> Any:
    return [
        error_of(lambda: ThreadPool(0)),
        error_of(lambda: ThreadPool(2, 5)),  # type: ignore[arg-type]
        error_of(lambda: ThreadPool("2")),  # type: ignore[arg-type]
    ]


def counts() -> tuple[int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def settled(before: tuple[int, int]) -> Any:
    """Return what there is more than before, in descriptors and threads, as soon as it is nothing, or after a while."""
    for _ in range(200):
        more = [max(0, now - then) for now, then in zip(counts(), before, strict=True)]
        if more == [0, 0]:
            break
        time.sleep(0.05)
    return more


def part_leaves_nothing() -> Any:
    def closed() -> None:
        pool = ThreadPool(3)
        pool.map(square, range(10))
        pool.close()
        pool.join()

    def terminated() -> None:
        pool = ThreadPool(3)
        pool.map_async(square, range(1000))
        pool.terminate()

    def managed() -> None:
        with ThreadPool(3) as pool:
            pool.map(square, range(10))

    def dropped() -> None:
        ThreadPool(3).map(square, range(10))

    def refused() -> None:
        error_of(lambda: ThreadPool(0))

    answer: dict[str, Any] = {}
    uses: list[Callable[[], None]] = [closed, terminated, managed, refused]
    # PyPy may collect a pool in the thread of its own worker handler, which then waits for ever; without unirun too.
    if sys.implementation.name != "pypy":
        uses.append(dropped)
    for use in uses:
        before = counts()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(10):
                use()
            gc.collect()
            said = [warning.category.__name__ for warning in caught]
        caught.clear()  # each holds its pool
        answer[use.__name__] = [settled(before), said]
    return answer


def part_many_at_once() -> Any:
    """Process pools' queues are asked for meanwhile: where they are refused, they must stay so."""
    wrong: list[Any] = []
    expected = error_of(multiprocessing.SimpleQueue)
    over = threading.Event()

    def thread_pools() -> None:
        for _ in range(15):
            with ThreadPool(2) as pool:
                if pool.map(square, range(4)) != [0, 1, 4, 9]:
                    wrong.append("map")

    def queues() -> None:
        while not over.is_set():
            found = error_of(multiprocessing.get_context().SimpleQueue)
            if found != expected:
                wrong.append(found)
            time.sleep(0.0001)

    before = counts()
    workers = [threading.Thread(target=thread_pools) for _ in range(4)]
    asking = threading.Thread(target=queues)
    for thread in (asking, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    over.set()
    asking.join()
    return [wrong, settled(before)]


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 20, hard))
    try:
        while True:
            try:
                taken.append(os.dup(1))
            except OSError:
                break
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def part_no_pipe() -> Any:
    """As the stdlib's, and only as long as there is none."""
    with ThreadPool(2) as pool:  # so that all is imported
        pool.map(square, range(3))
    before = counts()
    with no_more_descriptors():
        answer = error_of(lambda: ThreadPool(2))
    with ThreadPool(2) as pool:
        results = pool.map(square, range(3))
    return [answer == ["OSError", errno.EMFILE], results, settled(before)]


def part_fork() -> Any:
    """A child makes a pool, and collects the one that it inherited while its threads did not come along."""

    def in_child(use: Callable[[], object]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the process has threads
            child = os.fork()
        if not child:
            try:
                use()
            except BaseException:
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1]

    def work() -> None:
        with ThreadPool(2) as pool:
            assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]

    def collect() -> None:
        warnings.simplefilter("ignore")  # a running pool
        holder.clear()
        gc.collect()

    answer = []
    holder = [ThreadPool(2)]
    busy = holder[0].map_async(square, range(3000), chunksize=1)
    for _ in range(20):
        answer += [in_child(work), in_child(collect)]
    answer.append(len(busy.get(60)))
    holder[0].terminate()
    return answer


def processes() -> Any:
    """What thread pools do not need, and unirun must not change."""
    context = multiprocessing.get_context()
    return {
        "Pool": error_of(lambda: Pool(1)),
        "context.Pool": error_of(lambda: context.Pool(1)),
        "SimpleQueue": error_of(context.SimpleQueue),
        "Queue": error_of(context.Queue),
        "Lock": error_of(context.Lock),
        "Event": error_of(context.Event),
        "Value": error_of(lambda: context.Value("i")),
    }


def main() -> None:
    names = sys.argv[1:] or [name.removeprefix("part_") for name in globals() if name.startswith("part_")]
    report = {name: globals()[f"part_{name}"]() for name in names}
    report["processes"] = processes()
    report["wrapt"] = "wrapt" in sys.modules
    print(json.dumps(report))


if __name__ == "__main__":
    main()

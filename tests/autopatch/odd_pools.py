"""What programs do with pools of processes that those of the stdlib bear: each check is a program.

Run as ``classes.py`` is, by ``test_classes.py``, under the hook and, as a control, without.
"""

import builtins
import concurrent.futures
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.autopatch.classes import HOOKED, NAMES, main

METHODS = multiprocessing.get_all_start_methods()


def meet(folder: str, number: int) -> int:
    """Return ``number`` once another task has come here, too."""
    Path(folder, str(number)).touch()
    deadline = time.monotonic() + 30
    while len(os.listdir(folder)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return number


def check_modules_that_are_dropped_and_imported_again() -> None:
    """As test suites do. What the new classes derive from is new as well."""
    for name in NAMES:
        getattr(concurrent.futures, name)(1).shutdown()
    for name in [name for name in sys.modules if name.startswith("concurrent.futures")]:
        del sys.modules[name]
    again = importlib.import_module("concurrent.futures")
    for name in NAMES:
        with getattr(again, name)(2) as pool:
            assert isinstance(pool, again.Executor)
            assert [pool.submit(abs, -number).result(60) for number in range(3)] == [0, 1, 2]
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
            last = pool.submit(time.sleep, 0.2)
        assert last.done(), "leaving the block did not wait"
        try:
            pool.submit(abs, -1)
        except RuntimeError as error:
            assert "after shutdown" in str(error)  # noqa: PT017 - no pytest here
        else:
            raise AssertionError("it took a task after its shutdown")


def check_a_pool_that_is_made_before_a_fork() -> None:
    """And used after it, by the child: there it starts its workers and its thread."""
    if "fork" not in METHODS:
        return
    pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
    child = os.fork()
    if not child:
        signal.alarm(30)
        ended = pool.submit(abs, -3).result() == 3 and list(pool.map(abs, [-1, -2])) == [1, 2]
        pool.shutdown()
        os._exit(7 if ended else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def check_workers_that_are_started_later() -> None:
    class Paused(concurrent.futures.ProcessPoolExecutor):
        def _adjust_process_count(self) -> None:
            pass

        def resume(self) -> None:
            it: Any = super()
            with self._shutdown_lock:
                it._spawn_process()
                self._executor_manager_thread_wakeup.wakeup()

    pool: Any = Paused(1, multiprocessing.get_context("spawn"))
    future = pool.submit(abs, -3)
    # Nobody listens any more: the words of workers that come and go would fill the pipe.
    assert not HOOKED or not pool._unirun_ready.armed
    pool.resume()
    assert future.result(60) == 3
    pool.shutdown()


def check_an_initializer_that_is_replaced() -> None:
    """By an instrumentation, say, that calls the one that it finds. The tasks still run side by side."""
    import tempfile

    method = "fork" if "fork" in METHODS else "spawn"
    with tempfile.TemporaryDirectory() as folder:
        pool: Any = concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method))
        pool._initializer, pool._initargs = len, ([],)
        with pool:
            futures = [pool.submit(meet, folder, number) for number in range(2)]
            assert [future.result(60) for future in futures] == [0, 1]


def check_workers_that_do_not_find_unirun() -> None:
    """A new interpreter gets the path that the program has then."""
    home = str(Path(__file__).parents[2])
    concurrent.futures.ProcessPoolExecutor(1).shutdown()  # all that a pool needs is imported here
    program: Any = sys.modules["__main__"]
    program.__spec__ = None  # nor would they find it
    del program.__file__
    sys.path[:] = [folder for folder in sys.path if folder not in (home, "")]
    for method in METHODS:
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            assert pool.submit(os.getpid).result(60) != os.getpid()
            assert list(pool.map(abs, [-1, -2])) == [1, 2]


def check_finders_of_the_program_s() -> None:
    """They are asked by the import system only; and what they do not find, workers may."""

    class Strict:
        def find_spec(self, name: str, path: Any, target: Any) -> None:
            return None

    class Blocking:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name.partition(".")[0] == "unirun":
                raise ImportError(f"blocked {name}")

    for name in NAMES:  # all that a pool needs is imported here
        with getattr(concurrent.futures, name)(1) as pool:
            assert pool.submit(abs, -3).result(60) == 3
    finders: list[Any] = [Strict(), Blocking()]
    for finder in finders:
        sys.meta_path.insert(0, finder)
        for method in METHODS:
            with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
                assert pool.submit(os.getpid).result(60) != os.getpid()
                assert multiprocessing.active_children()


def check_a_pool_that_is_made_at_the_very_end() -> None:
    """The stdlib's classes can be called there, and say what they cannot do."""

    class Last:
        # All names are gone by then.
        def __del__(self, make: Any = concurrent.futures.ThreadPoolExecutor, refused: Any = RuntimeError) -> None:
            pool = make(1)
            try:
                pool.submit(abs, -3)
            except refused:
                pool.shutdown()
            else:
                raise refused("it took a task")

    builtins.kept = Last()  # type: ignore[attr-defined]


def check_what_is_logged() -> None:
    """Nothing, by a program that shows all that is."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    for name in NAMES:
        with getattr(concurrent.futures, name)(1) as pool:
            assert pool.submit(abs, -3).result(60) == 3
    assert not [record for record in records if record.name.startswith("unirun")]


if __name__ == "__main__":
    main(globals())

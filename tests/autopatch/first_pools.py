"""First pools of programs where nothing can be imported any more, or not for good: each check is a program.

Run as ``classes.py`` is, by ``test_classes.py``, under the hook and, as a control, without. What is imported here is
what a program imports; the first pool comes later.
"""

import asyncio
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from typing import Any
from unittest import mock

from tests.autopatch.classes import main


def square(number: int) -> int:
    return number * number


def use(pool: Executor) -> None:
    with pool:
        assert list(pool.map(square, range(3))) == [0, 1, 4]
        assert pool.submit(square, 5).result(60) == 25


def check_modules_that_a_test_replaces() -> None:
    """`mock.patch.dict` drops what was first imported inside of it."""
    # PyPy's resource tracker complains, without the hook as well.
    for method in get_all_start_methods() if sys.implementation.name == "cpython" else ["fork"]:
        with mock.patch.dict(sys.modules, {"some_optional_dependency": mock.Mock()}):
            use(ProcessPoolExecutor(2, get_context(method)))
            use(ThreadPoolExecutor(2))
        use(ProcessPoolExecutor(2, get_context(method)))
        use(ThreadPoolExecutor(2))


def check_a_first_map_among_replaced_modules() -> None:
    with ProcessPoolExecutor(2) as pool:
        assert pool.submit(square, 3).result(60) == 9
        with mock.patch.dict(sys.modules, {"some_optional_dependency": mock.Mock()}):
            assert list(pool.map(square, range(3))) == [0, 1, 4]
        use(pool)


def check_an_import_system_that_finds_nothing() -> None:
    """As after a `chroot`, or for a user who may not read where Python is installed."""

    class Nothing:
        @staticmethod
        def find_spec(name: str, *more: Any) -> None:
            raise ModuleNotFoundError(f"no module named {name!r} can be read any more", name=name)

    async def run() -> int:
        return await asyncio.get_running_loop().run_in_executor(None, abs, -3)

    asyncio.run(asyncio.sleep(0))
    sys.meta_path.insert(0, Nothing())
    try:
        use(ThreadPoolExecutor(2))
        assert asyncio.run(run()) == 3
    finally:
        del sys.meta_path[0]


def check_no_descriptor_left() -> None:
    """A pool of threads needs none."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    try:
        use(ThreadPoolExecutor(2))
    finally:
        for each in held:
            os.close(each)


def check_a_clock_that_a_test_plays() -> None:
    if "fork" in get_all_start_methods():
        with mock.patch("time.perf_counter", side_effect=[100.0, 105.0]):
            use(ProcessPoolExecutor(2, get_context("fork")))


def check_a_fork_while_another_thread_opens_a_first_pool() -> None:
    """The child finds no lock held by a thread that it does not have."""
    if not hasattr(os, "fork"):
        return
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
    with tempfile.TemporaryFile() as said:
        for number in range(20):
            forked = os.fork()
            if not forked:  # a program whose first pool it is
                _leave(said.fileno(), lambda: _fork_meanwhile(said.fileno(), 0.0003 * number))  # noqa: B023
            assert os.waitpid(forked, 0)[1] == 0
        said.seek(0)
        assert said.read() == b""


def _fork_meanwhile(fd: int, delay: float) -> None:
    thread = threading.Thread(target=lambda: use(ThreadPoolExecutor(1)))
    thread.start()
    time.sleep(delay)
    child = os.fork()
    if not child:
        signal.alarm(20)
        _leave(fd, lambda: use(ThreadPoolExecutor(1)))
    thread.join()
    assert os.waitpid(child, 0)[1] == 0, "the child's first pool hung"


def _leave(fd: int, job: Any) -> None:
    try:
        job()
    except BaseException:
        os.write(fd, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(globals())

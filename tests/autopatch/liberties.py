"""What programs do to the pool classes and to their modules that nobody told them to: each check is a program.

Run as ``classes.py`` is, by ``test_classes.py``, under the hook and, as a control, without.
"""

import concurrent.futures
import copy
import gc
import importlib
import inspect
import logging
import multiprocessing
import pickle
import signal
import sys
import sysconfig
import threading
import time
import types
import typing
import unittest.mock
import warnings
import weakref
from typing import Any

from tests.autopatch.classes import HOOKED, NAMES, SUBMODULE, main, pools, stdlib

#: Names that a program's own pool may well have, and that stand for something in unirun's.
LIKELY_NAMES = (
    *("closed", "decision", "starts_slowly", "opening", "ready", "spec", "workers", "lower", "short"),
    *("_closed", "_decision", "_opening", "_ready", "_spec", "_workers", "_lower", "_short"),
    *("_start", "_started", "_construct", "_adopt", "_release", "_abandon", "_proven", "_managed", "_semantics"),
)


def use(pool: Any) -> None:
    with pool:
        assert pool.submit(abs, -3).result(60) == 3
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


def check_attributes_of_a_subclass() -> None:
    for cls in pools():

        class Pool(cls):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                for name in LIKELY_NAMES:
                    setattr(self, name, "before")
                super().__init__(1)
                for name in LIKELY_NAMES:
                    assert getattr(self, name) == "before", name
                    setattr(self, name, "mine")

        pool = Pool()
        use(pool)
        assert {getattr(pool, name) for name in LIKELY_NAMES} == {"mine"}


def check_methods_of_a_subclass() -> None:
    for cls in pools():
        methods = {name: lambda self: "mine" for name in LIKELY_NAMES}
        pool = type("Pool", (cls,), methods)(1)
        use(pool)
        assert {getattr(pool, name)() for name in LIKELY_NAMES} == {"mine"}


def check_a_subclass_that_calls_the_stdlib_s_constructor() -> None:
    """As one does that was written to get round the class between."""
    for cls in pools():

        class Pool(cls):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                stdlib(type(self)).__init__(self, 1)

        use(Pool())


def check_a_subclass_in_disabled() -> None:
    from unirun import autopatch

    for cls in pools():

        class Pool(cls):  # type: ignore[misc, valid-type]
            pass

        with autopatch.disabled():
            pool = Pool(1)
        assert not hasattr(pool, "decision")
        assert type(pool) is Pool
        use(pool)


def check_its_class_is_what_it_was_made_of() -> None:
    class Mine(concurrent.futures.ThreadPoolExecutor):
        made = 0

        def __init__(self, workers: int = 1) -> None:
            super().__init__(workers)
            self.workers = workers
            self.__class__.made += 1

        def __reduce__(self) -> Any:
            return self.__class__, (self.workers,)

    globals()["Mine"] = Mine
    Mine.__qualname__ = "Mine"  # as if it had been made there, where pickle finds it
    pool = Mine()
    assert pool.__class__ is Mine
    assert Mine.made == 1
    assert type(pickle.loads(pickle.dumps(pool))) is type(copy.deepcopy(pool)) is Mine
    assert Mine.made == 3


def check_its_class_where_it_passes_for_the_managed_one() -> None:
    """Pools of the stdlib's interpreter pool, and of classes that are derived from it."""
    base: Any = getattr(concurrent.futures, "InterpreterPoolExecutor", None)
    if base is None:
        assert sys.version_info < (3, 14) or sys.implementation.name != "cpython"
        return

    class Pool(base):  # type: ignore[misc]
        made = 0

        def __init__(self, workers: int = 1) -> None:
            super().__init__(workers)
            self.__class__.made += 1

    pool = Pool()
    assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
    assert pool.__class__ == Pool
    assert hash(pool.__class__) == hash(Pool)
    assert (Pool.made, vars(Pool)["made"]) == (1, 1)
    assert type(pool.__class__()) is Pool
    globals()["Pool"] = Pool
    Pool.__qualname__ = "Pool"
    assert pickle.loads(pickle.dumps(pool.__class__)) is Pool


def check_type_hints() -> None:
    for cls in pools():
        functions = [value for _, value in inspect.getmembers(cls, inspect.isfunction)]
        for what in (cls, *functions, stdlib(cls)):
            assert typing.get_type_hints(what) == {}


def check_each_class_has_functions_of_its_own() -> None:
    """Instrumentation replaces the code of a function in place."""
    processes, threads = pools()
    for name in ("__init__", "submit", "shutdown"):
        assert getattr(processes, name) is not getattr(threads, name)
        assert getattr(processes, name).__code__ is not getattr(threads, name).__code__
        assert name in vars(threads) or name == "map"
        assert getattr(threads, name).__qualname__ == f"ThreadPoolExecutor.{name}"


def check_a_fresh_copy_of_the_module() -> None:
    """As test suites import one: taken out of ``sys.modules``, imported anew, put back."""
    for name in NAMES:
        before, module = getattr(concurrent.futures, name), f"concurrent.futures.{SUBMODULE[name]}"
        kept = sys.modules.pop(importlib.import_module(module).__name__)
        fresh = getattr(importlib.import_module(module), name)
        assert fresh.__module__.startswith("unirun.") == HOOKED
        use(fresh(1))
        sys.modules[module] = kept
        for cls in (before, getattr(kept, name)):
            use(cls(1))
            assert isinstance(cls(1), cls)


def check_a_unirun_that_was_dropped() -> None:
    """As a tool does that reloads what is not the stdlib's."""
    before = pools()
    for name in [name for name in sys.modules if name.partition(".")[0] == "unirun"]:
        del sys.modules[name]
    from unirun import autopatch, process, thread

    again: list[Any] = [process.ProcessPoolExecutor, thread.ThreadPoolExecutor]
    for old, new in zip(before, again, strict=True):
        for cls in (old, new, getattr(concurrent.futures, new.__name__)):
            use(cls(1))
        with autopatch.disabled():
            use(new(1))
    for module in ("process", "thread"):
        importlib.reload(importlib.import_module(f"concurrent.futures.{module}"))
    for cls in pools():
        use(cls(1))


def check_shutdown_at_the_very_end() -> None:
    """From ``__del__``, when modules are being taken down and nothing can be imported any more."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return  # there the stdlib's own modules are taken down first, and its own shutdown fails
    # A module that somebody holds is not ended by leaving `sys.modules`, but after that.
    globals()["held"] = last = sys.modules["last"] = types.ModuleType("last")
    vars(last)["kept"] = [Client(cls, used) for cls in pools() for used in (True, False)]


class Client:
    def __init__(self, cls: Any, used: bool) -> None:
        self.pool = cls(1)
        if used:
            assert self.pool.submit(abs, -3).result(60) == 3

    def __del__(self) -> None:
        try:
            self.pool.submit(abs, -1)
        except RuntimeError as error:
            assert "cannot schedule new futures after" in str(error), error  # noqa: PT017 - no pytest here
        else:
            raise AssertionError("a task was accepted after the end")
        self.pool.shutdown()


def check_a_pool_does_not_keep_its_maker() -> None:
    namespace: dict[str, Any] = {"__name__": "plugin"}
    code = "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)\npool.submit(abs, -1)"
    exec(code, namespace)
    namespace["pool"].shutdown()
    pool = namespace.pop("pool")
    namespace["canary"] = canary = type("Canary", (), {})()
    watched = weakref.ref(canary)
    del namespace, canary
    gc.collect()
    assert watched() is None
    del pool


def check_healthy_pools_say_nothing() -> None:
    """Nor to a program that shows what is logged from INFO on."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for cls in pools():
        use(cls(1))


def check_a_thread_that_imports_the_pools_of_unirun() -> None:
    """And the stdlib's module, loaded slowly, in another: both get the class that they would get alone."""
    assert "concurrent.futures.thread" not in sys.modules
    found: list[Any] = []
    waiting, begin = threading.Event(), threading.Event()

    class Slow:
        @staticmethod
        def find_spec(name: str, *more: Any) -> None:
            if name == "concurrent.futures.thread" and not waiting.is_set():
                waiting.set()
                begin.wait(1)

    sys.meta_path.insert(0, Slow)

    def load() -> None:
        found.append(importlib.import_module("unirun.pools").ThreadPoolExecutor)

    other = threading.Thread(target=load)
    other.start()
    assert waiting.wait(60)
    begin.set()
    threads = pools()[1]
    other.join(60)
    assert (threads is found[0]) == HOOKED


def check_a_thread_that_imports_the_compat_module() -> None:
    """And loads it slowly, while another one imports the class from the stdlib: both get the class they would alone."""
    found: list[Any] = []
    loading = threading.Event()

    class Slow:
        @staticmethod
        def find_spec(name: str, *more: Any) -> None:
            if name == "unirun.managed":
                loading.set()
                time.sleep(0.3)

    sys.meta_path.insert(0, Slow)

    def load() -> None:
        found.append(importlib.import_module("unirun.compat.concurrent.futures").ThreadPoolExecutor)

    other = threading.Thread(target=load)
    other.start()
    assert loading.wait(60)
    threads = pools()[1]
    other.join(60)
    assert (threads is found[0]) == HOOKED


def check_a_file_that_is_mocked() -> None:
    """A test that counts the calls of ``open`` counts those of the code that it tests."""
    threads = pools()[1]
    with unittest.mock.patch("builtins.open", unittest.mock.mock_open(read_data="data")) as opened:
        with threads(1) as pool, open("data.txt") as file:
            assert pool.submit(file.read).result(60) == "data"
        opened.assert_called_once_with("data.txt")


def check_a_signal_handler_that_submits() -> None:
    """While the first worker of the same pool starts, for which the first ``submit`` waits."""
    from multiprocessing import connection

    wait = connection.wait
    futures: list[Any] = []
    raised: list[bool] = []

    def interrupted(*arguments: Any, **more: Any) -> Any:
        if threading.current_thread() is threading.main_thread() and not raised:
            raised.append(True)
            signal.raise_signal(signal.SIGALRM)
        return wait(*arguments, **more)

    with pools()[0](1, multiprocessing.get_context("spawn")) as pool:
        signal.signal(signal.SIGALRM, lambda *_: futures.append(pool.submit(abs, -2)))
        with unittest.mock.patch("multiprocessing.connection.wait", interrupted):
            assert pool.submit(abs, -1).result(60) == 1
        if not raised:  # the stdlib's waits for nothing
            signal.raise_signal(signal.SIGALRM)
        assert futures[0].result(60) == 2


def check_a_log_handler_that_submits() -> None:
    """In another thread, while the first worker of the same pool starts."""
    processes = pools()[0]
    submitted: list[Any] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "app":
                submitted.append(pool.submit(abs, -1))

    with processes(1, multiprocessing.get_context("spawn")) as pool:
        logging.basicConfig(level=logging.DEBUG, handlers=[Handler()])
        other = threading.Timer(0.03, lambda: logging.getLogger("app").info("a word"))
        other.start()
        assert pool.submit(abs, -3).result(60) == 3
        other.join(60)
        assert submitted[0].result(60) == 1


def check_warnings_that_are_errors() -> None:
    """Nothing of unirun's makes an import fail, and both classes are replaced, or none."""
    warnings.simplefilter("error")
    os_environ = importlib.import_module("os").environ
    os_environ["UNIRUN_NONSENSE"] = os_environ["UNIRUN_GIBBERISH"] = "1"
    assert [cls.__module__.startswith("unirun.") for cls in pools()] == [HOOKED] * 2


if __name__ == "__main__":
    main(globals())

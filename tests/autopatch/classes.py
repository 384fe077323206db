"""What programs do with the pool classes, under the hook and, as a control, without: each check is a program.

Run as ``python -m tests.autopatch.classes NAME``; ``test_classes.py`` puts the hook there before.
"""

import abc
import asyncio
import concurrent.futures
import copy
import importlib
import inspect
import io
import pickle
import pydoc
import sys
import threading
import typing
import unittest.mock
from typing import Any, Generic, TypeVar

T = TypeVar("T")
HOOKED = any("unirun" in str(getattr(finder, "name", "")) for finder in sys.meta_path)
NAMES = ("ProcessPoolExecutor", "ThreadPoolExecutor")
SUBMODULE = {"ProcessPoolExecutor": "process", "ThreadPoolExecutor": "thread", "InterpreterPoolExecutor": "interpreter"}


def pools() -> list[Any]:
    """Return the classes as programs get them; for the type checker too, which knows none of what the hook does."""
    return [getattr(concurrent.futures, name) for name in NAMES]


def stdlib(cls: Any) -> Any:
    """Return the stdlib's own class behind one of these."""
    return next(each for each in cls.__mro__ if each.__module__.startswith("concurrent.futures."))


def check_every_place_has_the_same_class() -> None:
    for name in NAMES:
        module = importlib.import_module(f"concurrent.futures.{SUBMODULE[name]}")
        namespace: dict[str, Any] = {}
        exec(f"from concurrent.futures import {name}; from {module.__name__} import {name} as again", namespace)
        assert namespace[name] is namespace["again"] is getattr(module, name) is vars(module)[name]
        assert name in concurrent.futures.__all__
        assert (namespace[name].__module__ == f"unirun.{SUBMODULE[name]}") == HOOKED
        exec(f"from {module.__name__} import *", namespace)
        assert namespace[name] is getattr(module, name)


def check_it_is_the_class_of_the_compat_module() -> None:
    if HOOKED:
        from unirun.compat.concurrent import futures

        assert pools()[0] is futures.ProcessPoolExecutor
        assert pools()[1] is futures.ThreadPoolExecutor


def check_unirun_imported_first() -> None:
    """The managed classes derive from the stdlib's, so that importing them imports what the hook waits for."""
    assert "concurrent.futures.thread" not in sys.modules
    import unirun.process
    import unirun.thread

    managed: list[Any] = [unirun.process.ProcessPoolExecutor, unirun.thread.ThreadPoolExecutor]
    assert [pool is ours for pool, ours in zip(pools(), managed, strict=True)] == [HOOKED] * 2


def check_threads_that_import_both_ways_at_once() -> None:
    for module in ("concurrent.futures.thread", "unirun.thread", "concurrent.futures.process", "unirun.process"):
        assert module not in sys.modules
    begin = threading.Barrier(8)
    seen: list[Any] = []

    def load(number: int) -> None:
        begin.wait()
        order = ("concurrent.futures.thread", "unirun.process", "concurrent.futures.process", "unirun.thread")
        for module in order[number % 4 :] + order[: number % 4]:
            importlib.import_module(module)
        seen.append(number)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert sorted(seen) == list(range(8))
    assert [cls.__module__.startswith("unirun.") for cls in pools()] == [HOOKED] * 2


def check_type_and_isinstance() -> None:
    for cls in pools():
        with cls(1) as pool:
            assert type(pool) is cls
            assert pool.__class__ is cls
            assert isinstance(pool, cls)
            assert isinstance(pool, stdlib(cls))
            assert isinstance(pool, concurrent.futures.Executor)
            assert not isinstance(object(), cls)
        assert issubclass(cls, stdlib(cls))


def check_instances_of_the_stdlib_s_class() -> None:
    """A caller that unirun stands aside for gets one; code elsewhere checks it against the replaced name."""
    from unirun import autopatch

    for cls in pools():
        with autopatch.disabled():
            pool = cls(1)
        with pool:
            assert type(pool) is stdlib(cls)
            assert isinstance(pool, cls)
            assert pool.submit(abs, -3).result(60) == 3
        with cls(1) as pool:
            assert type(pool) is cls


def check_subclass() -> None:
    for cls in pools():

        class Pool(cls):  # type: ignore[misc, valid-type]
            def __init__(self, workers: int, *, label: str) -> None:
                super().__init__(workers)
                self.label = label

            def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
                return super().submit(fn, *args, **kwargs)

        with Pool(1, label="mine") as pool:
            assert pool.submit(abs, -3).result(60) == 3
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
            assert (pool.label, type(pool)) == ("mine", Pool)
            assert isinstance(pool, cls)


def check_subclass_with_an_abc() -> None:
    class Labelled(abc.ABC):
        @abc.abstractmethod
        def label(self) -> str: ...

    for cls in pools():

        class Abstract(cls, Labelled):  # type: ignore[misc, valid-type]
            pass

        class Pool(Abstract):
            def label(self) -> str:
                return "mine"

        try:
            Abstract(1)
        except TypeError as error:
            assert "abstract" in str(error)  # noqa: PT017 - no pytest in these programs
        else:
            raise AssertionError("an abstract class was instantiated")
        with Pool(1) as pool:
            assert pool.label() == "mine"
            assert pool.submit(abs, -3).result(60) == 3
            assert isinstance(pool, Labelled)
        Labelled.register(cls)
        with cls(1) as pool:
            assert isinstance(pool, Labelled)


def check_subclass_with_a_generic() -> None:
    for cls in pools():

        class Pool(cls, Generic[T]):  # type: ignore[misc, valid-type]
            pass

        with Pool[int](1) as pool:
            assert pool.submit(abs, -3).result(60) == 3
            assert typing.get_args(pool.__orig_class__) == (int,)


def check_subclass_with_a_metaclass() -> None:
    class Meta(type):
        made: typing.ClassVar[list[str]] = []

        def __new__(cls, name: str, *more: Any) -> Any:
            cls.made.append(name)
            return super().__new__(cls, name, *more)

    for cls in pools():

        class Pool(cls, metaclass=Meta):  # type: ignore[misc, valid-type]
            pass

        with Pool(1) as pool:
            assert pool.submit(abs, -3).result(60) == 3
            assert type(Pool) is Meta
    assert Meta.made == ["Pool", "Pool"]


def check_subclass_beside_a_class_that_makes_its_own_instances() -> None:
    class Counted:
        made = 0

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            assert (args, kwargs) == ((1,), {})
            Counted.made += 1
            return super().__new__(cls)

    for cls in pools():

        class Pool(cls, Counted):  # type: ignore[misc, valid-type]
            pass

        with Pool(1) as pool:
            assert pool.submit(abs, -3).result(60) == 3
    assert Counted.made == 2


def check_init_subclass() -> None:
    class Registry:
        names: typing.ClassVar[list[str]] = []

        def __init_subclass__(cls, **more: Any) -> None:
            super().__init_subclass__(**more)
            Registry.names.append(cls.__name__)

    for cls in pools():

        class Pool(cls, Registry):  # type: ignore[misc, valid-type]
            pass

        with Pool(1) as pool:
            assert isinstance(pool, cls)
    assert Registry.names == ["Pool", "Pool"]


def check_pickle() -> None:
    for cls in pools():
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(cls, protocol)) is cls
            method = pickle.loads(pickle.dumps(cls.submit, protocol))
            assert method is cls.submit
        with cls(1) as pool:
            for what in (pool, pool.submit):
                try:
                    pickle.dumps(what)
                except (TypeError, pickle.PicklingError) as error:
                    assert "pickle" in str(error)  # noqa: PT017
                else:
                    raise AssertionError(f"{what} was pickled")


def check_pickle_through_a_worker() -> None:
    for cls in pools():
        with concurrent.futures.ProcessPoolExecutor(1) as pool:
            assert pool.submit(identity, cls).result(60) is cls


def identity(value: T) -> T:
    return value


def check_signature() -> None:
    for cls in pools():
        original = stdlib(cls)
        assert inspect.signature(cls) == inspect.signature(original)
        methods = [name for name in dir(original) if inspect.isfunction(getattr(original, name)) and name[:2] != "__"]
        for name in ("__init__", "__exit__", *(name for name in methods if not name.startswith("_"))):
            assert inspect.signature(getattr(cls, name)) == inspect.signature(getattr(original, name)), name


def check_help() -> None:
    for cls in pools():
        text = pydoc.plain(pydoc.render_doc(cls))
        for name in ("submit", "map", "shutdown", "max_workers"):
            assert name in text
        for name in ("submit", "shutdown"):
            assert inspect.getdoc(getattr(cls, name)) == inspect.getdoc(getattr(concurrent.futures.Executor, name))


def check_copy() -> None:
    for cls in pools():
        assert copy.copy(cls) is copy.deepcopy(cls) is cls
    pool = pools()[1](1)  # without a task: the exit waits for the threads of a copy for ever, in the stdlib too
    twin = copy.copy(pool)
    assert type(twin) is type(pool)
    assert {"_max_workers", "_work_queue", "_threads"} <= vars(twin).keys()
    pool.shutdown()


def check_reload() -> None:
    for name in NAMES:
        before = getattr(concurrent.futures, name)
        importlib.reload(concurrent.futures)
        after = getattr(concurrent.futures, name)
        assert after is before
        module = importlib.reload(importlib.import_module(f"concurrent.futures.{SUBMODULE[name]}"))
        importlib.reload(concurrent.futures)
        again = getattr(module, name)
        assert (again.__module__ == f"unirun.{SUBMODULE[name]}") == HOOKED
        with again(1) as pool:
            assert pool.submit(abs, -3).result(60) == 3


def check_import_after_removal_from_sys_modules() -> None:
    for name in ("concurrent.futures.thread", "concurrent.futures.process", "concurrent.futures"):
        importlib.import_module(name)
        del sys.modules[name]
    again = importlib.import_module("concurrent.futures")
    for name in NAMES:
        cls = getattr(again, name)
        assert cls.__module__.startswith("unirun.") == HOOKED
        with cls(1) as pool:
            assert pool.submit(abs, -3).result(60) == 3


def check_interpreter_pool() -> None:
    if sys.version_info < (3, 14) or sys.implementation.name != "cpython":
        assert not hasattr(concurrent.futures, "InterpreterPoolExecutor")
        return
    cls = concurrent.futures.InterpreterPoolExecutor
    threads: Any = concurrent.futures.ThreadPoolExecutor
    assert cls.__bases__ == (stdlib(threads),)
    assert cls.__module__ == "concurrent.futures.interpreter"
    with cls(1) as pool:
        assert isinstance(pool, threads)
        assert type(pool) is cls
        assert pool.submit(abs, -3).result(60) == 3
    assert (threads.__module__ == "unirun.thread") == HOOKED


def check_interpreter_pool_first() -> None:
    if sys.version_info >= (3, 14) and sys.implementation.name == "cpython":
        assert "concurrent.futures.thread" not in sys.modules
        check_interpreter_pool()


def check_asyncio() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        with pools()[0](1) as processes, pools()[1](1) as threads:
            first = await loop.run_in_executor(processes, abs, -1)
            loop.set_default_executor(threads)
            return [first, await loop.run_in_executor(None, abs, -2), await asyncio.to_thread(abs, -3)]

    assert asyncio.run(main()) == [1, 2, 3]


def check_asyncio_default_executor() -> None:
    async def main() -> Any:
        await asyncio.to_thread(abs, -3)
        return type(asyncio.get_running_loop()._default_executor)  # type: ignore[attr-defined]

    assert asyncio.run(main()) is concurrent.futures.ThreadPoolExecutor
    assert (pools()[1].__module__ == "unirun.thread") == HOOKED


def check_mock_patch() -> None:
    for name in NAMES:
        before = getattr(concurrent.futures, name)
        for target in (f"concurrent.futures.{name}", f"concurrent.futures.{SUBMODULE[name]}.{name}"):
            with unittest.mock.patch(target) as fake:
                holder, _, attribute = target.rpartition(".")
                assert getattr(importlib.import_module(holder), attribute) is fake
            assert getattr(importlib.import_module(holder), attribute) is before


def check_the_module_looks_as_it_is() -> None:
    for name in NAMES:
        module: Any = importlib.import_module(f"concurrent.futures.{SUBMODULE[name]}")
        assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
        assert "class ProcessPoolExecutor" in inspect.getsource(module) or name != "ProcessPoolExecutor"
        spec = importlib.util.find_spec(module.__name__)
        assert spec is module.__spec__
        assert module.__doc__


def check_what_is_not_imported_yet_can_be_found() -> None:
    assert "concurrent.futures.thread" not in sys.modules
    spec = importlib.util.find_spec("concurrent.futures.thread")
    assert spec is not None
    loader: Any = spec.loader
    assert "class ThreadPoolExecutor" in loader.get_source("concurrent.futures.thread")
    assert loader.is_package("concurrent.futures.thread") is False
    assert "concurrent.futures.thread" not in sys.modules


def check_internals_that_programs_reach_for() -> None:
    from concurrent.futures import process, thread

    for cls in pools():
        with cls(2) as pool:
            assert pool.submit(abs, -3).result(60) == 3
            assert pool._max_workers == 2
            assert pool._shutdown_lock is not None
            assert pool._broken is False
    assert {"BrokenProcessPool", "_chain_from_iterable_of_lists", "_CallItem"} <= vars(process).keys()
    assert {"BrokenThreadPool", "_WorkItem", "_global_shutdown_lock"} <= vars(thread).keys()


def main(checks: dict[str, Any]) -> None:
    checks[f"check_{sys.argv[1]}"]()
    print("checked", HOOKED, file=io.TextIOWrapper(sys.stdout.buffer, write_through=True))


if __name__ == "__main__":
    main(globals())

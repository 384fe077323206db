"""What a program may observe of its process pool, as one JSON object: it must be the same on every host.

    behaviour.py START_METHOD FOLDER

Prints the object, then LAST LINE.
"""

import json
import os
import signal
import sys
import threading
import time
import warnings
from concurrent.futures.process import BrokenProcessPool
from signal import SIG_IGN, SIGINT
from signal import signal as set_signal

from unirun import DowngradeWarning, Run, configure
from unirun.compat.concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

METHOD, FOLDER = sys.argv[1:3]
ERRORS = {
    "EAGAIN": OSError(11, "Resource temporarily unavailable"),
    "BlockingIOError": BlockingIOError(11, "would block"),
    "PermissionError": PermissionError(1, "Operation not permitted"),
    "ENOSYS": OSError(38, "Function not implemented"),
    "EOFError": EOFError("unexpected EOF"),
    "AssertionError": AssertionError("daemonic processes are not allowed to have children"),
    "NotImplementedError": NotImplementedError("no semaphores"),
    "ImportError": ImportError("no _multiprocessing"),
    "thread": RuntimeError("can't start new thread"),
    "SystemExit": SystemExit(3),
}
state = {}


def mark(name):
    with open(os.path.join(FOLDER, name), "a") as log:
        log.write("ran\n")


def marks(name):
    try:
        with open(os.path.join(FOLDER, name)) as log:
            return len(log.readlines())
    except FileNotFoundError:
        return 0


def fail(name):
    mark(name)
    raise ERRORS[name]


def sort(items):
    items.sort()
    return items


def same(value):
    return value


def unpicklable_result():
    return threading.Lock()


def set_up(value):
    set_signal(SIGINT, SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    state["value"] = value
    mark(f"initializer-{os.getpid()}")


def set_up_badly():
    raise ValueError("no")


def set_up_by_exit():
    sys.exit(3)


def read_state():
    return state.get("value")


def pool(kind, **options):
    if kind == "compat":
        return ProcessPoolExecutor(2, **options)
    return Run(flavor="processes", max_workers=2)


def outcome(call):
    try:
        return repr(call())
    except BaseException as error:
        # PicklingError or AttributeError for a lambda: as the running Python's pickle has it, on every host.
        return [type(error).__name__, repr(error.args) if type(error) in map(type, ERRORS.values()) else ""]


def failures(kind):
    found = {}
    with pool(kind) as executor:
        for name in ERRORS:
            found[name] = outcome(executor.submit(fail, name).result)
    for name in ("EAGAIN", "thread", "AssertionError"):  # as a pool's first task, which is what opens it
        with pool(kind) as executor:
            found[f"first {name}"] = outcome(executor.submit(fail, name).result)
    for name in ERRORS:
        found[name].append(marks(name))
        os.remove(os.path.join(FOLDER, name))
    return found


def copies(kind):
    mine = [3, 1, 2]
    with pool(kind) as executor:
        theirs = executor.submit(sort, mine).result()
        lock = outcome(executor.submit(same, threading.Lock()).result)
        function = outcome(executor.submit(same, lambda: None).result)
        result = outcome(executor.submit(unpicklable_result).result)
        chunks = outcome(lambda: list(executor.map(int, ["1", "2", "x", "4"], chunksize=2)))
        alive = outcome(executor.submit(same, 7).result)
    return [mine, theirs, theirs is mine, lock, function, result, chunks, alive]


def initializers():
    before = signal.getsignal(SIGINT), signal.getsignal(signal.SIGTERM)
    with pool("compat", initializer=set_up, initargs=([5],)) as executor:
        seen = [executor.submit(read_state).result() for _ in range(6)]
        backend = executor.decision.backend
    untouched = before == (signal.getsignal(SIGINT), signal.getsignal(signal.SIGTERM))
    here = marks(f"initializer-{os.getpid()}")
    broken = []
    for initializer in (set_up_badly, set_up_by_exit):
        with pool("compat", initializer=initializer) as executor:
            future = executor.submit(same, 1)
            broken.append(isinstance(future.exception(), BrokenProcessPool))
            broken.append(outcome(lambda p=executor: p.submit(same, 1)))
    return {
        "seen": seen,
        "untouched": untouched,
        "once": here == (backend not in ("processes", "pipes")),
        "broken": broken,
    }


def notes():
    """What pools note of themselves: programs look whether one is any good, and make another if it is not."""

    def noted(executor):
        names = "_broken", "_shutdown_thread", "_shutdown", "_pending_work_items"
        return {name: bool(getattr(executor, name)) for name in names if hasattr(executor, name)}

    found = []
    for executor in (ProcessPoolExecutor(2), ThreadPoolExecutor(2)):
        with executor:
            found.append(noted(executor))
            executor.submit(same, 1).result()
            until_none_is_left(executor)
            found.append(noted(executor))
        found.append(noted(executor))
    with ProcessPoolExecutor(2, initializer=set_up_badly) as executor:
        executor.submit(same, 1).exception()
        until_none_is_left(executor)
        found.append(noted(executor))
    return found


def until_none_is_left(executor):
    """The future is done a moment before its pool forgets the task."""
    while getattr(executor, "_pending_work_items", None):
        time.sleep(0.001)


def shared():
    configure(start_method=METHOD, isolation="share")
    mine = [3, 1, 2]
    with Run(flavor="processes", max_workers=2) as executor:
        theirs = executor.submit(sort, mine).result()
        lock = outcome(executor.submit(same, threading.Lock()).result)
    return [mine, theirs is mine, isinstance(lock, list)]  # an error: a PicklingError on PyPy


def exits(code):
    mark("crash")
    os._exit(code)


def kills_itself(signum):
    mark("crash")
    os.kill(os.getpid(), signum)


def crashes():
    found = []
    for task, argument in ((exits, 3), (kills_itself, signal.SIGSEGV), (kills_itself, signal.SIGKILL)):
        with pool("compat") as executor:
            found.append(outcome(executor.submit(task, argument).result)[0])
        found.append(marks("crash"))
        os.remove(os.path.join(FOLDER, "crash"))
    with pool("compat") as executor:
        found.append(executor.submit(same, 1).result())
    return found


def main():
    configure(start_method=METHOD)
    warnings.simplefilter("ignore", DowngradeWarning)
    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads, 3.12+
    answer = {
        "failures": [failures("compat"), failures("Run")],
        "copies": [copies("compat"), copies("Run")],
        "initializers": initializers(),
        "notes": notes(),
    }
    with Run(flavor="processes", max_workers=2) as executor:
        elsewhere = executor.submit(os.getpid).result() != os.getpid()
    print(json.dumps(answer))
    print(json.dumps(crashes() if elsewhere else None))
    print(json.dumps([elsewhere, shared()]))
    print("LAST LINE", flush=True)


if __name__ == "__main__":
    main()

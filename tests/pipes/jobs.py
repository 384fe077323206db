"""What workers run in the tests of the pipes backend, and the programs that start and lose them."""

import gc
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(program: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program of a test's."""
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def square(number: int) -> int:
    return number * number


def pid() -> int:
    return os.getpid()


def square_and_pid(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def spin(seconds: float) -> float:
    """Compute without a pause, in Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


def linger(seconds: float) -> None:
    """Leave a thread that keeps the worker from its end."""
    threading.Thread(target=time.sleep, args=(seconds,)).start()


def echo(value: Any) -> Any:
    return value


def note(path: str, word: str, seconds: float = 0) -> str:
    """Append a word to a file, in one write, and take a while."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{word}\n".encode())
    os.close(fd)
    time.sleep(seconds)
    return word


def hold(gate: str) -> bool:
    """Say that this task has begun, and wait for a file."""
    open(f"{gate}.held", "w").close()
    while not os.path.exists(gate):
        time.sleep(0.001)
    return True


def span(folder: str, word: str, seconds: float) -> str:
    """Write down when this task begins and when it ends, in a file of the process that runs it.

    Not in one file for all: not every file system keeps what several processes append apart.
    """
    path = os.path.join(folder, str(os.getpid()))
    note(path, f"begin {word}", seconds)
    note(path, f"end {word}")
    return word


def crash(how: str, after: float = 0) -> None:
    time.sleep(after)
    print("these are my last words", file=sys.stderr)
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)


def write_garbage() -> None:
    """Write into every socket that this process has: the worker's own pipe is one."""
    for fd in range(3, 4096):  # a descriptor that was given on keeps the parent's number, often a high one
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b"this is no message at all, and long enough to be read as one")
        except OSError:
            pass
    time.sleep(60)


def close_everything() -> None:
    """As a task that makes a daemon of itself does."""
    os.closerange(3, 4096)
    time.sleep(60)


def lock() -> Any:
    return threading.Lock()


class Unloadable(Exception):
    """An exception that fails to unpickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__("only one")


def raise_unloadable() -> None:
    raise Unloadable("one", "two")


def raise_unpicklable() -> None:
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def log(level: int, word: str) -> None:
    logging.getLogger("job").log(level, "%s", word)


def start_sleeper(path: str) -> int:
    """Start a program that outlives the worker, with all descriptors that can be inherited; write its id to a file."""
    return os.system(f"sleep 100 < /dev/null > /dev/null 2>&1 & echo $! > '{path}'")


def grandchild() -> int:
    """Leave a child behind that holds all that a fork inherits."""
    child = os.fork()
    if child == 0:
        time.sleep(3)
        os._exit(0)
    return child


def put_blocked_signals(results: Any) -> None:
    results.put({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, set())})


def child_writes(how: str, path: str) -> None:
    """Have a child write to a file, and to standard error."""
    context = multiprocessing.get_context("fork")
    if how == "multiprocessing":
        child = context.Process(target=write_mine, args=(path,))
        child.start()
        child.join()
    elif how == "fork":
        pid = os.fork()
        if pid == 0:
            write_mine(path)
            os._exit(0)
        os.waitpid(pid, 0)
    else:
        from unirun.backends.pipes.pool import open_pipes

        with open_pipes(1, context) as pool:
            pool.submit(write_mine, path).result()


def write_mine(path: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(b"mine\n")
        print("a word on standard error", file=sys.stderr)


def fork_while_printing() -> int:
    """Return the exit code of a child that prints, and was forked while a thread was printing."""
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            sys.stderr.write(" " * 200 + ".")

    sys.stderr._stream = OnlyWrites()  # type: ignore[union-attr]  # not the terminal, which it would fill
    thread = threading.Thread(target=flood)
    thread.start()
    time.sleep(0.5)
    child = os.fork()
    if child == 0:
        print("a word", file=sys.stderr)
        os._exit(7)
    end = time.monotonic() + 10
    code = None
    while code is None and time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if pid else None
        time.sleep(0.01)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    stop.set()
    thread.join()
    return -1 if code is None else code


def nested(depth: int) -> int:
    """Open a pool in a daemonic process, and have its worker do the same; return how deep it went."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_nested, args=(depth, results), daemon=True)
    child.start()
    child.join(20)
    answer: int = -1 if results.empty() else results.get()
    return answer


def _nested(depth: int, results: Any) -> None:
    from unirun.backends.pipes.pool import open_pipes

    with open_pipes(1, multiprocessing.get_context("fork")) as pool:
        results.put(1 + (pool.submit(nested, depth - 1).result() if depth > 1 else 0))


def ticking(size: int) -> bytes:
    """Return many bytes while a signal handler prints."""

    def tick(signum: int, frame: Any) -> None:
        print("tick", file=sys.stderr)

    sys.stderr._stream = OnlyWrites()  # type: ignore[union-attr]
    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    return bytes(size)


def clean_up(begun: str, ended: str) -> None:
    """Take a moment to end after a Ctrl-C."""
    try:
        open(begun, "w").close()
        time.sleep(60)
    finally:
        time.sleep(0.05)
        open(ended, "w").close()


class SlowToPickle:
    """A number whose pickling takes a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> Any:
        time.sleep(self.seconds)
        return int, ("3",)


def limit_memory(more: int, journal: str) -> None:
    """Be an initializer that lets its worker have no more than some more bytes of address space."""
    note(journal, "started")
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


class OnlyWrites:
    """A stream that can do nothing else."""

    def write(self, text: str) -> int:
        return len(text)


def replace(stream: str) -> None:
    setattr(sys, stream, OnlyWrites())


# ------------------------------------------------------------------------------------------------------ large buffers


class Large:
    """Bytes that travel beside the pickle, as those of an array do."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, version: object) -> "tuple[type[Large], tuple[pickle.PickleBuffer]]":
        return Large, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Large) and bytes(self.data) == bytes(other.data)

    __hash__ = None  # type: ignore[assignment]


def filled(number: int, size: int) -> Large:
    return Large(bytearray(number.to_bytes(4, "big") * (size // 4)))


kept: list[Any] = []


def checksum(*values: Large) -> int:
    return zlib.crc32(b"".join(value.data for value in values))


def overwritten(value: Large) -> int:
    """Change the argument all over, and say what it was."""
    before = checksum(value)
    value.data[:] = b"\xff" * len(value.data)
    return before


def keep(*values: Large) -> int:
    kept.extend(values)
    return os.getpid()


def keep_and_return(value: Large) -> Large:
    kept.append(value)
    return value


def checksums_of_kept() -> tuple[int, list[int]]:
    return os.getpid(), [checksum(value) for value in kept]


def same(value: Any) -> Any:
    return value


def tail(value: Large) -> Large:
    return Large(value.data[-400_000:])


def fail_with(value: Large) -> None:
    raise ValueError(len(value.data))


def sleep_with(value: Large, seconds: float, mark: str | None = None) -> None:
    """Say by a file that this has begun, and sleep."""
    if mark is not None:
        Path(mark).touch()
    time.sleep(seconds)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def meet(mine: str, other: str) -> bool:
    """Say that this task is here, and wait until another one has come."""
    Path(mine).touch()
    end = time.monotonic() + 20
    while not Path(other).exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


class Holder:
    """Keeps what it has when it dies, as pools of objects do."""

    def __init__(self, value: Large) -> None:
        self.value = value
        self.itself = self  # so that the collector finds it

    def __del__(self) -> None:
        kept.append(self.value)


def collect(holders: list[Holder]) -> None:
    holders.clear()
    gc.collect()


def fail(text: str) -> None:
    raise LookupError(text)


def fork_with(value: Large, gate: str, path: str) -> int:
    """Fork a child that outlives this task, and writes the checksum of its copy of the argument when it may."""
    child = os.fork()
    if not child:
        try:
            while not os.path.exists(gate):
                time.sleep(0.001)
            Path(f"{path}.new").write_text(str(checksum(value)))
            os.rename(f"{path}.new", path)
        finally:
            os._exit(0)
    return child

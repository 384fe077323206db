"""``multiprocessing.pool.ThreadPool`` on hosts without semaphores. Being written."""

from types import ModuleType


def mend(module: ModuleType) -> bool:
    return False


def unmend(module: ModuleType) -> None:
    pass

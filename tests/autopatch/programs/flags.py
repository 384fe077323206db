"""What options the interpreter runs under, here and in workers."""
# mypy: ignore-errors

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor


def flags(cls=None):
    return tuple(sys.flags), sys.warnoptions, sys._xoptions, (cls or ThreadPoolExecutor).__module__


if __name__ == "__main__":
    for pool in (ThreadPoolExecutor(1), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))):
        with pool:
            print(pool.submit(flags, type(pool)).result())
            print(pool.submit(flags).result())

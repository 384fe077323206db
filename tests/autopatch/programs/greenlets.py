"""Pools in greenlets, with gevent's patches in force from the first line on."""
# mypy: ignore-errors
# ruff: noqa: E402 - this must come before other imports

from gevent import monkey

monkey.patch_all()

import asyncio
import concurrent.futures
import faulthandler
import multiprocessing
import sys
import threading

import gevent
import gevent.threadpool


def square(n):
    return n * n


def submit(pool, n):
    return pool.submit(square, n).result()


def main(kind):
    cls, options = concurrent.futures.ThreadPoolExecutor, {}
    if kind == "gevent's own":
        cls = gevent.threadpool.ThreadPoolExecutor
        print(cls.__mro__[1].__module__)
    elif kind != "threads":
        cls, options = concurrent.futures.ProcessPoolExecutor, {"mp_context": multiprocessing.get_context(kind)}
    print(cls.__module__)
    with cls(2, **options) as pool:
        jobs = [gevent.spawn(submit, pool, n) for n in range(8)]  # each may be the first to submit
        gevent.joinall(jobs, raise_error=True)
        print([job.value for job in jobs])
        print(sorted(pool.map(square, range(20))))
    if kind == "threads":
        barrier = threading.Barrier(3)  # the threads are greenlets, and wait for each other
        with cls(3) as pool:
            print(sorted(pool.map(lambda _: barrier.wait(), range(3))))
        print(asyncio.run(asyncio.to_thread(square, 9)))
    print("end")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(45, exit=True)  # where it hangs
    main(sys.argv[1])

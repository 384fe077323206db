"""A process pool whose workers end before they are ready, under gevent's patches."""
# mypy: ignore-errors
# ruff: noqa: E402 - this must come before other imports

from gevent import monkey

monkey.patch_all()

import concurrent.futures
import faulthandler
import multiprocessing
import os

if __name__ == "__mp_main__":
    os._exit(3)

if __name__ == "__main__":
    faulthandler.dump_traceback_later(15, exit=True)  # where it hangs
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(pool.submit(abs, -3).result())

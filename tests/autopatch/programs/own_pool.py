"""Our own pool in greenlets, with gevent's patches in force from the first line on."""
# mypy: ignore-errors
# ruff: noqa: E402 - this must come before other imports

from gevent import monkey

monkey.patch_all()

import faulthandler
import sys

import gevent

from unirun import Run, RuntimeConfig


def square(n):
    return n * n


if __name__ == "__main__":
    faulthandler.dump_traceback_later(45, exit=True)  # where it hangs
    config = RuntimeConfig(start_method=sys.argv[1], max_workers=2)
    with Run(flavor="processes", config=config) as pool:
        jobs = [gevent.spawn(lambda n: pool.submit(square, n).result(), n) for n in range(8)]
        gevent.joinall(jobs, raise_error=True)
        print([job.value for job in jobs], list(pool.map(square, range(5))), pool.decision.backend)

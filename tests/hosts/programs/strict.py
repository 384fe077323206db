"""A program that would rather fail than run slowly: UNIRUN_DOWNGRADE=error is set outside of it.

    strict.py START_METHOD LOG

Prints the facts of the DowngradeError for each way of asking, as JSON, then LAST LINE. Each task appends a line to LOG.
"""

import asyncio
import json
import sys

import unirun
from unirun.compat.concurrent.futures import ProcessPoolExecutor

METHOD, LOG = sys.argv[1:3]


def task(_):
    with open(LOG, "a") as log:
        log.write("ran\n")


def scope():
    with unirun.Run(flavor="processes") as executor:
        return list(unirun.map(executor, task, range(3)))


def compat():
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(task, range(3)))


def awaited():
    return asyncio.run(unirun.to_process(task, 1))


def main():
    unirun.configure(start_method=METHOD)
    told = []
    for ask in (scope, compat, awaited):
        try:
            ask()
            told.append(None)
        except unirun.DowngradeError as error:
            told.append([str(error), [[f.backend, f.stage, f.error] for f in error.decision.refused]])
    unirun.reset()
    print(json.dumps(told))
    print("LAST LINE", flush=True)


if __name__ == "__main__":
    main()

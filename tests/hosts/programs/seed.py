"""The seed's three functions as one program: reports what came out, where it ran and what was said about it.

    seed.py START_METHOD LOG [PARTS]

Prints one JSON object, then LAST LINE. Each task appends a line to LOG.
"""

import asyncio
import json
import multiprocessing
import os
import sys
import warnings

from unirun import Run, RuntimeConfig, configure, last_decision, map, reset, to_process
from unirun.compat.concurrent import futures as compat_futures

METHOD, LOG = sys.argv[1:3]
PAYLOADS = [3, 1, 4, 1, 5, 9, 2, 6]


def expensive_fn(payload):
    with open(LOG, "a") as log:
        log.write(f"{payload}\n")
    return payload * payload, os.getpid()


def crunch(payloads):
    config = RuntimeConfig(cpu_bound=True, force_process=True, max_workers=4)
    with Run(flavor="processes", config=config, trace=True) as executor:
        return list(map(executor, expensive_fn, payloads))


def crunch_via_compat(payloads):
    with compat_futures.ProcessPoolExecutor(max_workers=4) as pool:
        return list(pool.map(expensive_fn, payloads))


async def crunch_async(payloads):
    return await asyncio.gather(*(to_process(expensive_fn, payload) for payload in payloads))


def teardown():
    reset()


def report(part):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = asyncio.run(part(PAYLOADS)) if part is crunch_async else part(PAYLOADS)
        decision = last_decision().as_dict()
        teardown()
    return {
        "results": [result for result, _ in answers],
        "elsewhere": all(pid != os.getpid() for _, pid in answers),
        "here": all(pid == os.getpid() for _, pid in answers),
        "decision": decision,
        "warnings": [
            {"file": w.filename, "line": w.lineno, "category": w.category.__name__, "text": str(w.message)}
            for w in caught
            # Python 3.12+ warns when a program with threads forks; a pool after a pool is such a program.
            if not issubclass(w.category, DeprecationWarning)
        ],
    }


def job():
    configure(start_method=METHOD)
    return {part.__name__: report(part) for part in (crunch, crunch_via_compat, crunch_async)}


def main():
    if len(sys.argv) > 3:  # in a daemonic worker
        with multiprocessing.get_context(METHOD).Pool(1) as pool:
            answer = pool.apply(job)
    else:
        answer = job()
    print(json.dumps(answer))
    print("LAST LINE", flush=True)


# The last two lines are the guard: the test of a script without one replaces them.
if __name__ == "__main__":
    main()

"""Thread pools in sub-interpreters, one after the other: before the main one has imported any pool, and after."""
# mypy: ignore-errors

import os
import sys

try:
    import _interpreters as interpreters
except ImportError:  # before 3.13
    import _xxsubinterpreters as interpreters

CODE = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    print(pool.submit(abs, -3).result(), list(pool.map(abs, [-1, -2])), ThreadPoolExecutor.__module__, flush=True)
"""


def run(kind):
    if hasattr(interpreters, "exec"):
        interpreter = interpreters.create(kind)
        problem = interpreters.exec(interpreter, CODE)
        assert problem is None, problem
    else:
        interpreter = interpreters.create(isolated=kind == "isolated")
        interpreters.run_string(interpreter, CODE)
    interpreters.destroy(interpreter)


if __name__ == "__main__":
    run(sys.argv[1])
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run, sys.argv[1]).result()
    print(ThreadPoolExecutor.__module__, flush=True)
    os._exit(0)  # 3.12 itself dies of memory errors at the end

"""Pools whose workers coverage is to follow."""
# mypy: ignore-errors

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import covered

if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1]), covered.prepare) as pool:
        print(list(pool.map(covered.work, range(6))))
    with ThreadPoolExecutor(2) as pool:
        print(list(pool.map(abs, range(6))))
    print(ProcessPoolExecutor.__module__)

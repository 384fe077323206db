"""A job without ``if __name__ == "__main__":``, which workers that import this file would do as well."""
# mypy: ignore-errors

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor


def square(number):
    return number * number


with open("started", "a") as file:
    file.write(f"{__name__}\n")
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(sys.argv[1])) as pool:
    results = list(pool.map(square, range(5)))
with open("job", "a") as file:
    file.write(f"{results}\n")

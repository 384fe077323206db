"""A user's program: squares in processes, with a progress bar; `--own-lock` needs no lock of multiprocessing's."""
# mypy: ignore-errors

import multiprocessing
import sys

from tqdm import tqdm
from tqdm.contrib.concurrent import process_map


def square(number):
    return number * number


if __name__ == "__main__":
    options = {}
    if "--own-lock" in sys.argv:
        # By default tqdm makes a lock of multiprocessing's, and fails by itself where there is none.
        options = {"lock_name": "th_lock", "mp_context": multiprocessing.get_context("fork")}
        tqdm.monitor_interval = 0  # no thread of its own, for the sake of fork
    # Only the first and the last state of the bar, and no time in it: the same output each time.
    squares = process_map(
        square, range(200), max_workers=2, bar_format="{n_fmt}/{total_fmt}|", mininterval=3600, **options
    )
    print(squares)

"""A user's program: counts tokens of files in processes, with a progress bar; `--own-lock` needs no lock of
multiprocessing's.
"""
# mypy: ignore-errors

import multiprocessing
import sys
import tokenize
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.concurrent import process_map


def tokens(path):
    with tokenize.open(path) as file:
        return sum(1 for _ in tokenize.generate_tokens(file.readline))


if __name__ == "__main__":
    options = {}
    if "--own-lock" in sys.argv:
        # By default tqdm makes a lock of multiprocessing's, and fails by itself where there is none.
        options = {"lock_name": "th_lock", "mp_context": multiprocessing.get_context("fork")}
        tqdm.monitor_interval = 0  # no thread of its own, for the sake of fork
    files = sorted(Path("tree").rglob("*.py"))
    # Only the first and the last state of the bar, and no time in it: the same output each time.
    counts = process_map(tokens, files, max_workers=2, bar_format="{n_fmt}/{total_fmt}|", mininterval=3600, **options)
    for path, count in zip(files, counts, strict=True):
        print(path, count)

"""Benchmarks: everything side by side in one run, as ratios to the stdlib. `python -m benchmarks` prints the table."""

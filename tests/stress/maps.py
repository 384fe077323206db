"""What workers run in the stress tests of maps."""

import time


def square_slowly(number: int) -> int:
    """Return the square; take a little longer for some numbers, so that batches grow and shrink."""
    if number % 997 == 996:
        time.sleep(0.015)
    return number * number

"""What travels to workers and what they run in the stress tests of maps."""

import random
import time
from typing import Any


class Number:
    """A number that takes a little longer to pickle now and then: somebody else may do something meanwhile."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __reduce__(self) -> Any:
        if random.random() < 0.02:
            time.sleep(0.002)
        return Number, (self._value,)

    def __int__(self) -> int:
        return self._value


def square_slowly(number: int | Number) -> int:
    """Return the square; take a little longer for some numbers, so that batches grow and shrink."""
    number = int(number)
    if number % 997 == 996:
        time.sleep(0.015)
    return number * number

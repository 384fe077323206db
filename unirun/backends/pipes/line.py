"""The line of tasks that wait for a worker, in the order in which they were submitted.

Guarantees:
    A task that was given to a worker and comes back stands where it stood: behind all earlier ones, before all later
    ones. So the tasks of a pool may wait for earlier ones, with as few workers as it has.

Guarded by the pool's lock.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import takewhile

from unirun.backends.pipes.handle import Handle, Task

__all__ = ["Line"]


class Line(deque[Task]):
    """The tasks; the first one is the next to be given to a worker."""

    def __init__(self) -> None:
        super().__init__()
        self._submitted = 0

    def join(self, task: Task) -> None:
        """Put a new task at the end."""
        self._submitted += 1
        task.number = self._submitted
        self.append(task)

    def put_back(self, tasks: Sequence[Task], moved: Iterable[Task]) -> None:
        """Put tasks back.

        Args:
            tasks: The tasks, in their order.
            moved: The same, as they come out of where they are. Each is in one of the two, also if Ctrl-C comes.
        """
        if not tasks:
            return
        newest = tasks[-1].number
        earlier = [each.number for each in takewhile(lambda each: each.number < newest, self)]
        places = [bisect(earlier, task.number) + place for place, task in enumerate(tasks)]
        deque(map(self.insert, places, moved), 0)  # one step, in whose middle no signal handler runs

    def passes(self, worker: Handle) -> bool:
        """Tell whether the next task is earlier than the last one that a worker holds, and must not wait behind that.

        Somebody else's worker held it, and this one runs something that may wait for it.
        """
        return bool(self and worker.tasks) and self[0].number < next(reversed(worker.tasks.values())).number

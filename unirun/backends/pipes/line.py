"""The line of tasks that wait for a worker, in the order of their places.

Guarantees:
    A task that was given to a worker and comes back stands where it stood: behind all earlier ones, before all later
    ones. So do the items of a map that a worker has left.

Guarded by the pool's lock.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter

from unirun.backends.pipes.handle import Handle
from unirun.backends.pipes.task import Task
from unirun.backends.turns import numbers

__all__ = ["Line"]


class Line(deque[Task]):
    """The tasks; the first one is the next to be given to a worker."""

    def join(self, task: Task) -> None:
        """Put a new task in its place: the last one, unless it has one already and others came meanwhile."""
        if not task.place:
            task.place = next(numbers), 0  # later than all that were drawn
            self.append(task)
        else:
            self.put_back([task], [task])

    def put_back(self, tasks: Sequence[Task], moved: Iterable[Task]) -> None:
        """Put tasks in their places.

        Args:
            tasks: The tasks, in their order.
            moved: The same, as they come out of where they are. Each is in one of the two, also if Ctrl-C comes.
        """
        places = [bisect(self, task.place, key=attrgetter("place")) + count for count, task in enumerate(tasks)]
        deque(map(self.insert, places, moved), 0)  # one step, in whose middle no signal handler runs

    def passes(self, worker: Handle) -> bool:
        """Tell whether the next task is earlier than the last one that a worker holds, and must not wait behind that.

        Another worker has held it, and this one may run something that waits for it.
        """
        return bool(self and worker.tasks) and self[0].place < next(reversed(worker.tasks.values())).place

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
from itertools import takewhile

from unirun.backends.pipes.handle import Handle
from unirun.backends.pipes.task import Task

__all__ = ["Line"]


class Line(deque[Task]):
    """The tasks; the first one is the next to be given to a worker."""

    def join(self, task: Task) -> None:
        """Put a new task in its place, which is the last one unless others came meanwhile."""
        if self and task.place < self[-1].place:
            self.put_back([task], [task])
        else:
            self.append(task)

    def put_back(self, tasks: Sequence[Task], moved: Iterable[Task]) -> None:
        """Put tasks in their places.

        Args:
            tasks: The tasks, in their order.
            moved: The same, as they come out of where they are. Each is in one of the two, also if Ctrl-C comes.
        """
        if not tasks:
            return
        last = tasks[-1].place
        earlier = [each.place for each in takewhile(lambda each: each.place < last, self)]
        places = [bisect(earlier, task.place) + count for count, task in enumerate(tasks)]
        deque(map(self.insert, places, moved), 0)  # one step, in whose middle no signal handler runs

    def passes(self, worker: Handle) -> bool:
        """Tell whether the next task is earlier than the last one that a worker holds, and must not wait behind that.

        Somebody else's worker held it, and this one runs something that may wait for it.
        """
        return bool(self and worker.tasks) and self[0].place < next(reversed(worker.tasks.values())).place

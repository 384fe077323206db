"""A task of the pipes backend: a call that was submitted, from there until its worker has answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unirun.backends.pipes.arena import Block
from unirun.backends.pipes.by_value import Parts
from unirun.backends.pipes.future import PipeFuture
from unirun.backends.pipes.memo import Memo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun.backends.turns import Place

__all__ = ["Task"]


class Task:
    """A call that was submitted, and its future."""

    __slots__ = ("args", "blocks", "deaths", "fn", "future", "kwargs", "memo", "parts", "place")

    def __init__(
        self,
        future: PipeFuture,
        fn: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        memo: Memo | None = None,
        place: Place | None = None,
    ) -> None:
        self.future: PipeFuture = future
        self.fn: Any = fn
        self.args: tuple[Any, ...] = args
        self.kwargs: dict[str, Any] = kwargs
        #: Its place among all that are submitted. If none is given, it gets the last one as it joins the line.
        self.place: Place | tuple[()] = place or ()
        #: Workers that died while this task was the next one for them.
        self.deaths: int = 0
        #: What it may share with other tasks.
        self.memo: Memo | None = memo
        #: Where its large buffers are, while it is on its way to a worker or running.
        self.blocks: Sequence[Block] = ()
        #: What ``dump`` made of it, if that is to be kept until it runs.
        self.parts: Parts | None = None

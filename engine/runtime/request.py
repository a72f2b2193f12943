"""A request on its way through an engine: its place in a queue, and the future of its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from distilrt.runtime.batcher import Batcher, Waiting
from distilrt.runtime.counters import Timing
from distilrt.runtime.reading import Ids, Reading


class Request(Waiting, Future[Any]):
    """A request on its way: a future of its answer.

    It waits to be tokenized part by part, then as sequences to be computed. Cancelling it takes what was not tokenized
    or computed out of the queues.

    Args:
        reading: its inputs.
        client, priority, deadline: as in `Waiting`; the clock is `time.monotonic`.
        engine: what must live until the answer is there.

    Attributes:
        timing: where its time went; None until it is computed.
    """

    timing: Timing | None = None

    def __init__(
        self,
        reading: Reading,
        client: str = "",
        priority: int = 0,
        deadline: float | None = None,
        engine: object = None,
    ) -> None:
        Waiting.__init__(self, [], priority, deadline, client)
        Future.__init__(self)
        self.reading, self.engine = reading, engine
        self.open = True  # nobody has decided yet how it ends
        self.settle: Callable[[Request], bool] | None = None  # once it was let in: decides how it ends
        self.queue: Batcher[Request] | None = None  # where it waits, if anywhere
        self.parts: list[range] = []  # those of its inputs that other threads tokenize
        self.sequences: Ids = []
        self.rows: list[Any] = []  # of each sequence, those that the head reads
        self.outputs: list[Any] = []  # of each sequence, what is kept of the head's rows
        self.unfinished = 0  # parts that are not tokenized, then sequences that are not computed
        self.created = time.monotonic()
        self.tokenize_seconds = self.started = 0.0

    def cancel(self) -> bool:
        """Give the request up; False where it already has its answer or is about to."""
        cancelled = super().cancel()
        if cancelled and self.settle is not None:
            self.settle(self)
        return cancelled

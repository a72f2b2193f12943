"""A request on its way through an engine: a future of its answer, and what the worker needs to compute it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from distilrt.runtime.batcher import Batcher, Waiting


class Timing(NamedTuple):
    """Where a request's time went, in seconds, and its size."""

    tokenize: float
    queue: float  # neither tokenized nor computed, until the start of its first batch
    compute: float  # from there to the end of its last
    tokens: int


class Part(NamedTuple):
    """A part of a request's texts."""

    characters: int
    tokenize: Callable[[], Any]


class Parts(NamedTuple):
    """The texts of a request that is tokenized by the worker, part by part."""

    parts: Sequence[Part]
    join: Callable[[list[Any]], tuple[list[list[int]], list[Any]]]  # what the parts gave to sequences and rows


class Request(Future[Any]):
    """A request on its way: a future of its answer.

    Cancelling it takes what has not been tokenized or computed out of the queues.

    Attributes:
        timing: where its time went; None until it is computed.
    """

    timing: Timing | None = None

    def __init__(
        self,
        task: str,
        sequences: list[list[int]],
        rows: list[Any],
        answer: Callable[[list[Any]], Any],
        *,
        texts: Parts | None = None,
        keep: Callable[[Any], Any] = lambda rows: rows,
        client: str = "",
        priority: int = 0,
        deadline: float | None = None,
        tokenize_seconds: float = 0.0,
    ) -> None:
        """A request that is not queued yet.

        Args:
            task: its name, for the counters; empty: not to be counted.
            sequences: token ids, at least one sequence; none where there are `texts`.
            rows: of each sequence, those that the head reads.
            answer: from the head's rows of all sequences, or what is kept of them, to the result.
            texts: what must be tokenized first.
            keep: from the head's rows of one sequence to what is kept of them.
            client, priority, deadline: as in `Waiting`; the clock is `time.monotonic`.
            tokenize_seconds: for `timing`; the time before now that went into `sequences`.
        """
        super().__init__()
        self.task, self.answer, self.texts, self.keep = task, answer, texts, keep
        self.client, self.priority, self.deadline = client, priority, deadline
        self.open = True  # nobody has decided yet how it ends
        self.settle: Callable[[Request], bool] | None = None  # once it is queued: decides how it ends
        self.arrived = time.monotonic() - tokenize_seconds
        self.tokenize_seconds, self.started = tokenize_seconds, 0.0
        self.queue: Batcher | None = None  # where `waiting` waits, if anywhere
        if texts is None:
            self.fill(sequences, rows)
        else:
            self.waiting = self._waiting([part.characters for part in texts.parts])
            self.found: list[Any] = [None] * len(texts.parts)
            self.left = len(texts.parts)  # not tokenized

    def fill(self, sequences: list[list[int]], rows: list[Any]) -> None:
        """Set what is to be computed."""
        self.texts = None
        self.sequences, self.rows = sequences, rows
        self.outputs: list[Any] = [None] * len(sequences)
        self.left = len(sequences)  # not computed
        self.waiting = self._waiting([len(ids) for ids in sequences])

    def tokenize(self, index: int) -> Any:
        """What a part of the texts gives; None where they are tokenized or given up. Raises as the part does."""
        return self.texts and self.texts.parts[index].tokenize()

    def cancel(self) -> bool:
        """Give the request up; False where it already has its answer or is about to."""
        cancelled = super().cancel()
        if cancelled and self.settle is not None:
            self.settle(self)
        return cancelled

    def _waiting(self, lengths: list[int]) -> Waiting:
        return Waiting(self, lengths, self.priority, self.deadline, self.client)

"""What an engine has done, in plain numbers: counters that only grow and histograms, for whoever exports metrics."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
# Each a tenth above the one before, from 0.1 ms to about 30 s: a quantile read off these is 10 % off at most.
FINE_SECONDS = tuple(float(f"{1e-4 * 1.1**step:.4g}") for step in range(133))
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Histogram:
    """Counts of observed numbers by ranges.

    Attributes:
        bounds: the upper end of each range, inclusive, rising.
        counts: of each range, and of what lies above all.
        total: the sum of all observed numbers.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a number."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Timing(NamedTuple):
    """Where a request's time went, in seconds, and its size."""

    tokenize: float
    queue: float  # neither tokenized nor computed, until the start of its first batch
    compute: float  # from there to the end of its last
    tokens: int


@dataclass
class Counters:
    """The numbers of one engine. Change them with `lock` held; to read one number needs no lock.

    `requests` are by task and outcome: "answered", "failed" (their batch or their answer raised), "invalid" (refused
    for their inputs), "cancelled", "expired" (their deadline passed), "shed" (refused because the queue was full).
    The seconds of a request are spent in tokenizing, waiting for its first batch, and from then to the end of its last;
    `request_seconds` has the sum of the three.
    """

    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokenize_seconds: Histogram = field(default_factory=partial(Histogram, SECONDS))
    queue_seconds: Histogram = field(default_factory=partial(Histogram, SECONDS))
    compute_seconds: Histogram = field(default_factory=partial(Histogram, SECONDS))
    request_seconds: Histogram = field(default_factory=partial(Histogram, FINE_SECONDS))
    batch_seconds: Histogram = field(default_factory=partial(Histogram, SECONDS))
    batch_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))
    batch_sequences: Histogram = field(default_factory=partial(Histogram, SEQUENCES))
    padding_avoided: int = 0  # tokens that padding every batch to its longest sequence would have added
    failed_batches: int = 0

    def request(self, task: str, outcome: str, timing: Timing | None = None) -> None:
        """Count a request that ended, with its timing if it was answered."""
        with self.lock:
            self.requests[task, outcome] += 1
            if timing is not None:
                self.tokenize_seconds.observe(timing.tokenize)
                self.queue_seconds.observe(timing.queue)
                self.compute_seconds.observe(timing.compute)
                self.request_seconds.observe(timing.tokenize + timing.queue + timing.compute)

    def batch(self, lengths: Sequence[int], seconds: float) -> None:
        """Count a computed batch by the tokens of its sequences."""
        with self.lock:
            self.batch_tokens.observe(sum(lengths))
            self.batch_sequences.observe(len(lengths))
            self.batch_seconds.observe(seconds)
            self.padding_avoided += max(lengths) * len(lengths) - sum(lengths)

"""What an engine is to the bench, and what several forms of engines share. The engines themselves are in `peers`.

A peer takes token ids without padding and gives a classifier's logits: of one batch where latency counts, of many
sequences where throughput does.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]  # [batch_size, num_labels]
BATCH = 8  # sequences of similar length, for forms that pad; with more, what a layer makes leaves the caches


@dataclass
class Peer(ABC):
    """One engine in one form, computing in one dtype.

    Attributes:
        dtype: the one to compute in, of `peers.DTYPES`.
        version: the engine's, known after `load`.
    """

    dtype: str
    version: str = ""

    @abstractmethod
    def load(self, checkpoint: Path, num_threads: int) -> None:
        """Get ready. Raises whatever the engine raises where it is missing or lacks the dtype."""

    @abstractmethod
    def batch(self, sequences: Sequence[Ids]) -> Logits:
        """Logits of one batch."""

    def many(self, sequences: Sequence[Ids]) -> Logits:
        """Logits of many sequences, in their order; without a better way, batches of similar length, longest first."""
        order = longest_first(sequences)
        parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        return reordered([self.batch([sequences[i] for i in part]) for part in parts], order)


def longest_first(sequences: Sequence[Ids]) -> list[int]:
    """Indices of the sequences by length."""
    return sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))


def reordered(found: Sequence[Logits], order: Sequence[int]) -> Logits:
    """Logits of batches, whose sequences were taken in `order`, in the sequences' own order."""
    rows = np.concatenate(found)
    logits = np.empty_like(rows)
    logits[list(order)] = rows
    return logits


def padded(sequences: Sequence[Ids], least: int = 0) -> tuple[Ids, Ids]:
    """Ids, with 0 after each sequence, and mask, both `[batch_size, longest]`, or `least` where that is more."""
    mask = np.arange(max(least, *map(len, sequences))) < np.array([len(each) for each in sequences])[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(sequences)
    return ids, mask.astype(np.int64)


class Lanes:
    """Single sequences, longest first, on threads of which each has a worker of its own."""

    def __init__(self, workers: Sequence[Callable[[Sequence[Ids]], Logits]]) -> None:
        self._workers, self._threads = workers, ThreadPoolExecutor(len(workers))

    def run(self, sequences: Sequence[Ids]) -> Logits:
        """Logits of all of them."""
        left, lock, found = iter(longest_first(sequences)), threading.Lock(), dict[int, Logits]()

        def work(worker: Callable[[Sequence[Ids]], Logits]) -> None:
            while True:
                with lock:
                    i = next(left, None)
                if i is None:
                    return
                found[i] = worker([sequences[i]])

        list(self._threads.map(work, self._workers))
        return np.concatenate([found[i] for i in range(len(sequences))])

"""csrc/schedule.*: whichever thread computes a sequence, whatever beside it, its numbers are the same to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt import _C
from distilrt.backends.cpu import CpuBackend
from distilrt.batch import pack
from distilrt.checkpoint.weights import random_weights
from distilrt.model.config import DistilBertConfig

CONFIG = DistilBertConfig(dim=48, n_heads=2, n_layers=2, hidden_dim=100, vocab_size=60)
# Shared out in every way: too short to divide, a sequence or several on each thread, leftovers done together.
BATCHES = [(7,), (100, 100), (64,) * 4, (128,) * 9, (512, 512, 512), (500, 3, 120, 40, 40, 300, 1, 1, 130), (20,) * 40]


@pytest.mark.parametrize("dtype", _C.dtypes())
@pytest.mark.parametrize("lengths", BATCHES, ids=lambda lengths: f"{len(lengths)}x{max(lengths)}")
@pytest.mark.parametrize("num_threads", [1, 2, 3, 5, 16])
def test_rows_do_not_depend_on_the_schedule(rng: Any, dtype: str, lengths: tuple[int, ...], num_threads: int) -> None:
    weights = random_weights(CONFIG, "DistilBertModel")
    one, many = (CpuBackend(CONFIG, weights, dtype=dtype, num_threads=n) for n in (1, num_threads))
    sequences = [rng.integers(0, CONFIG.vocab_size, length) for length in lengths]
    alone = [one.forward(pack(CONFIG, [sequence]), all_layers=True) for sequence in sequences]
    batch = pack(CONFIG, sequences)
    many.forward(batch)
    many._encoder.poison_workspace()
    layers = many.forward(batch, all_layers=True)
    np.testing.assert_array_equal(layers, np.concatenate(alone, axis=1))
    np.testing.assert_array_equal(many.forward(batch), layers[-1])
    wanted = np.flatnonzero(rng.random(sum(lengths)) < 0.1)
    np.testing.assert_array_equal(many.forward(batch, wanted=wanted), layers[-1][wanted])
    firsts = np.cumsum((0, *lengths[:-1]))
    np.testing.assert_array_equal(many.forward(batch, wanted=firsts), layers[-1][firsts])


def _busiest_over_mean(lengths: list[int], threads: int, run_rows: int) -> float:
    """Multiply-adds of the thread that ends last, over the mean, in a forward of the base model.

    Threads take runs, the longest first, and then each phase's equal items, as soon as they are free.
    """
    hidden, inner, heads, width = 768, 3072, 12, 64
    products = [(3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner)]
    panels = [n // width for n, _ in products]
    cu_seqlens = np.cumsum([0, *lengths], dtype=np.int32)
    alone, together, parts = _C.schedule(cu_seqlens, threads, run_rows, panels)
    ends = list(cu_seqlens[1:])

    def attention(first: int, rows: int) -> float:
        inside = [length for length, end in zip(lengths, ends, strict=True) if first < end <= first + rows]
        return sum(2.0 * length * length * hidden for length in inside)

    busy, first = [0.0] * threads, 0
    # Lengths fall, so the longest runs are the first ones.
    for rows in alone:
        cost = rows * sum(float(n * k) for n, k in products) + attention(first, rows)
        busy[busy.index(min(busy))] += cost
        first += rows
    total, last = sum(busy), max(busy)
    if together:
        for (n, k), count, blocks in zip(products, panels, parts, strict=True):
            last += -(-blocks * count // threads) * (together / blocks * k * width)
            total += float(together) * n * k
        pairs = heads * sum(1 for end in ends if end > first)
        split = -(-4 * (threads - 1) // pairs) + 1
        work = attention(first, together)
        last += -(-pairs * split // threads) * work / (pairs * split)
        total += work
    return last * threads / total


MIXED = sorted((int(length) for length in np.random.default_rng(0).integers(5, 128, 96)), reverse=True)


SHAPES = ([128], [128] * 8, [128] * 32, [512] * 8, [512] * 32, MIXED)


@pytest.mark.parametrize("run_rows", [128, 256])
@pytest.mark.parametrize(
    ("lengths", "threads"),
    # Two rows a thread are needed at least.
    [(lengths, threads) for lengths in SHAPES for threads in (2, 4, 16, 64, 128) if sum(lengths) >= 2 * threads],
    ids=lambda value: f"{len(value)}x{max(value)}" if isinstance(value, list) else str(value),
)
def test_many_threads_have_equal_shares(lengths: list[int], threads: int, run_rows: int) -> None:
    assert _busiest_over_mean(lengths, threads, run_rows) <= 1.1

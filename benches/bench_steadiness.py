"""Whether speed and memory stay what they are: time in proportion to tokens, the first call, thousands of shapes."""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from distilrt import _C, DistilBertConfig
from distilrt.backends.cpu import CpuBackend
from distilrt.batch import Batch, pack
from distilrt.checkpoint.weights import random_weights

DTYPES = _C.dtypes()
SEQ_LEN = 64
TOKENS = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
SHAPES = 10_000
AddRow = Callable[..., None]


def _backend(dtype: str, **shape: int) -> CpuBackend:
    config = DistilBertConfig(**shape)  # type: ignore[arg-type]  # the sizes alone
    return CpuBackend(config, random_weights(config, "DistilBertModel"), dtype=dtype)


def _batch(backend: CpuBackend, lengths: Iterable[int]) -> Batch:
    return pack(backend.config, [np.full(length, 100) for length in lengths])


def _resident_mb() -> float:
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("dtype", DTYPES)
def test_time_is_in_proportion_to_tokens(add_row: AddRow, dtype: str) -> None:
    """Every size in every round, so that all meet the same noise; short ones several times, as a busy caller would."""
    backend = _backend(dtype)
    batches = [_batch(backend, [SEQ_LEN] * (tokens // SEQ_LEN)) for tokens in TOKENS]
    rates: dict[int, list[float]] = {tokens: [] for tokens in TOKENS}
    for _ in range(6):
        for batch, (tokens, found) in zip(batches, rates.items(), strict=True):
            repeats = max(1, 2048 // tokens)
            found.append(repeats * tokens / timeit.timeit(partial(backend.forward, batch), number=repeats))
    usual = {tokens: statistics.median(found[1:]) for tokens, found in rates.items()}
    shares = {f"at_{tokens}": round(rate / usual[1024], 3) for tokens, rate in usual.items()}
    add_row(test="proportion", dtype=dtype, tokens_per_s=round(usual[1024]), **shares)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ["1x128", "8x128"])
def test_first_call(add_row: AddRow, dtype: str, shape: str) -> None:
    """In a fresh process, the first forward after loading beside twenty more."""
    ratios = []
    for _ in range(3):
        done = subprocess.run([sys.executable, __file__, dtype, *shape.split("x")],
                              capture_output=True, text=True, check=True)  # fmt: skip
        first, *rest = map(float, done.stdout.split())
        ratios.append(first / statistics.median(rest))
    add_row(test="first call", dtype=dtype, shape=shape, ratio=round(statistics.median(ratios), 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_over_many_shapes(add_row: AddRow, dtype: str) -> None:
    backend = _backend(dtype, dim=64, n_heads=2, n_layers=1, hidden_dim=128, vocab_size=101)
    rng = np.random.default_rng(0)
    shapes = [rng.integers(1, 513, rng.integers(1, 9)) for _ in range(SHAPES)]
    for lengths in shapes[:300]:
        backend.forward(_batch(backend, lengths))
    before = _resident_mb()
    for lengths in shapes[300:]:
        backend.forward(_batch(backend, lengths))
    grown = _resident_mb() - before
    add_row(test="memory", dtype=dtype, shapes=SHAPES, grown_mb=round(grown, 2))
    assert abs(grown) <= 2


if __name__ == "__main__":
    made = _backend(sys.argv[1])
    given = _batch(made, [int(sys.argv[3])] * int(sys.argv[2]))
    print(*timeit.repeat(partial(made.forward, given), number=1, repeat=21))

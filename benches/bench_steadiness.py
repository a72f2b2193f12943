"""Whether speed and memory stay what they are: time in proportion to tokens, the first call, thousands of shapes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilrt import _C, DistilBertConfig
from distilrt.backends.cpu import CpuBackend
from distilrt.batch import Batch, pack
from distilrt.checkpoint.weights import random_weights
from distilrt.cpu_count import usable_cores

DTYPES = _C.dtypes()
SEQ_LEN = 64
TOKENS = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
SHAPES = 10_000
# Fresh process, DistilBERT-base: seconds of the first forward after loading, then of twenty more.
FIRST_CALL = """
import sys, time
import numpy as np
from distilrt import DistilBertConfig
from distilrt.backends.cpu import CpuBackend
from distilrt.batch import pack
from distilrt.checkpoint.weights import random_weights
config = DistilBertConfig()
backend = CpuBackend(config, random_weights(config, "DistilBertModel"), dtype=sys.argv[1])
batch = pack(config, [np.arange(1000, 1000 + int(sys.argv[3]))] * int(sys.argv[2]))
times = []
for _ in range(21):
    start = time.perf_counter()
    backend.forward(batch)
    times.append(time.perf_counter() - start)
print(*times)
"""


def _batch(config: DistilBertConfig, lengths: Any) -> Batch:
    return pack(config, [np.full(length, 100) for length in lengths])


def _resident_mb() -> float:
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("dtype", DTYPES)
def test_time_is_in_proportion_to_tokens(benchmark: Any, add_result: Any, dtype: str) -> None:
    """Every size in every round, so that all meet the same noise; short ones several times, as a busy caller would."""
    config = DistilBertConfig()
    backend = CpuBackend(config, random_weights(config, "DistilBertModel"), dtype=dtype)
    batches = [_batch(config, [SEQ_LEN] * (tokens // SEQ_LEN)) for tokens in TOKENS]
    times: list[list[float]] = [[] for _ in TOKENS]

    def round_() -> None:
        for batch, found in zip(batches, times, strict=True):
            repeats = max(1, 2048 // batch.total_tokens)
            start = time.perf_counter()
            for _ in range(repeats):
                backend.forward(batch)
            found.append((time.perf_counter() - start) / repeats)

    benchmark.pedantic(round_, rounds=5, warmup_rounds=1)
    rates = {tokens: tokens / float(np.median(found[1:])) for tokens, found in zip(TOKENS, times, strict=True)}
    dense = rates[1024]
    add_result(
        test="proportion", dtype=dtype, threads=usable_cores(), tokens_per_s=round(dense),
        **{f"at_{tokens}": round(rate / dense, 3) for tokens, rate in rates.items()},
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ["1x128", "8x128"])
def test_first_call(benchmark: Any, add_result: Any, dtype: str, shape: str) -> None:
    ratios = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", FIRST_CALL, dtype, *shape.split("x")],
                              capture_output=True, text=True, check=True)  # fmt: skip
        first, *rest = (float(word) for word in done.stdout.split())
        ratios.append(first / float(np.median(rest)))
    benchmark.pedantic(lambda: None)
    add_result(test="first call", dtype=dtype, shape=shape, threads=usable_cores(),
               ratio=round(float(np.median(ratios)), 2))  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_over_many_shapes(benchmark: Any, add_result: Any, dtype: str) -> None:
    config = DistilBertConfig(dim=64, n_heads=2, n_layers=1, hidden_dim=128, vocab_size=101)
    backend = CpuBackend(config, random_weights(config, "DistilBertModel"), dtype=dtype)
    rng = np.random.default_rng(0)
    shapes = [rng.integers(1, 513, rng.integers(1, 9)) for _ in range(SHAPES)]
    for lengths in shapes[:300]:
        backend.forward(_batch(config, lengths))
    before = _resident_mb()

    def rest() -> None:
        for lengths in shapes[300:]:
            backend.forward(_batch(config, lengths))

    benchmark.pedantic(rest, rounds=1)
    grown = _resident_mb() - before
    add_result(test="memory", dtype=dtype, shapes=SHAPES, grown_mb=round(grown, 2))
    assert abs(grown) <= 2

"""The packed float32 encoder against transformers (sdpa attention), same weights, tokens and threads, interleaved.

Each timed round of ours follows one round of the peer, so both meet the same noise. Each runs once untimed first, after
the other's threads have gone to sleep: OpenMP's spin on for a while and would take our cores. Answers come first.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import distilrt
from distilrt.cpu_count import usable_cores

WORKLOADS = [(1, 8), (1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (1, 512), (8, 128), (32, 128)]
SETTLE = 0.03  # seconds until a peer's idle threads sleep
# The promise of the float32 path: ahead of the reference at these.
MUST_WIN = {(1, 128), (8, 128)}


@pytest.fixture(scope="module")
def peers() -> tuple[Any, Any]:
    """DistilBERT-base with random weights, here and in transformers."""
    threads = usable_cores()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    theirs: Any = transformers.DistilBertModel(transformers.DistilBertConfig())
    theirs.eval()
    weights = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    return distilrt.DistilBertModel(distilrt.DistilBertConfig(), weights, backend="cpu", num_threads=threads), theirs


@pytest.mark.parametrize(("batch_size", "seq_len"), WORKLOADS, ids=lambda n: str(n))
def test_forward(
    benchmark: Any, peers: tuple[Any, Any], add_row: Any, compared: Any, batch_size: int, seq_len: int
) -> None:
    ours, theirs = peers
    ids = np.random.default_rng(0).integers(1000, 30000, (batch_size, seq_len))
    tensor = torch.from_numpy(ids)
    peer_times: list[float] = []

    @torch.inference_mode()
    def run_peer() -> None:
        theirs(tensor)
        start = time.perf_counter()
        theirs(tensor)
        peer_times.append(time.perf_counter() - start)
        time.sleep(SETTLE)
        ours(ids)

    with torch.inference_mode():
        expected = theirs(tensor).last_hidden_state.numpy()
    assert np.abs(ours(ids).last_hidden_state - expected).max() <= 2e-5 * np.abs(expected).max()

    rounds = 3 if batch_size * seq_len >= 4096 else 8 if batch_size * seq_len >= 512 else 20
    benchmark.pedantic(ours, args=(ids,), setup=run_peer, rounds=rounds, warmup_rounds=1)
    found = compared(benchmark.stats.stats.data, peer_times[1:])
    add_row(workload=f"{batch_size}x{seq_len}", peer="transformers", dtype="float32", **found)
    if (batch_size, seq_len) in MUST_WIN:
        assert found["ratio"] > 1

"""What `accelerate` costs and brings: its own time in a call, and sentence-transformers' `encode` beside its backends.

Overhead is the difference of medians of interleaved calls, on a model so small that the rest does not hide it;
what it depends on, the number of parameters and of outputs, is DistilBERT-base's.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import distilrt
from distilrt import _C
from distilrt.bench.statistics import beside
from distilrt.cpu_count import usable_cores

MOST = 30e-6  # seconds that the wrapper may add to a call at 1x8
WORDS = (Path(__file__).parents[1] / "README.md").read_text().replace("`", " ").split()


@pytest.mark.parametrize("architecture", ["DistilBertModel", "DistilBertForSequenceClassification"])
def test_overhead(architecture: str, add_row: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILRT_NUM_THREADS", "1")  # a second thread would only add its waits to both
    config = transformers.DistilBertConfig(dim=32, n_heads=2, hidden_dim=32)
    fast = distilrt.accelerate(getattr(transformers, architecture)(config).eval())
    ids = torch.randint(0, 30000, (1, 8))
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ours, direct = [], []
    with torch.inference_mode():
        for _ in range(3000):
            start = time.perf_counter()
            fast.engine(**call)
            between = time.perf_counter()
            fast(**call)
            ours.append(time.perf_counter() - between)
            direct.append(between - start)
    overhead = statistics.median(ours) - statistics.median(direct)
    add_row(workload="1x8", architecture=architecture, overhead_us=round(1e6 * overhead, 1))
    assert overhead <= MOST


def _sentences(number: int) -> list[str]:
    """Texts of the lengths that people write: most short, some very long."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=min(200, max(3, int(rng.lognormvariate(2.9, 0.7)))))) for _ in range(number)]


@pytest.mark.parametrize(("peer", "dtype"), [("torch", "float32"), ("torch", "bfloat16"), ("openvino", "float32")])
def test_encode(sentence_encoder: Path, peer: str, dtype: str, add_row: Any) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    if peer == "openvino":
        pytest.importorskip("optimum.intel", reason="the openvino backend needs optimum-intel")
    if dtype not in _C.dtypes(""):
        pytest.skip(f"no {dtype} on this CPU")
    torch.set_num_threads(usable_cores())
    make = sentence_transformers.SentenceTransformer
    original = make(str(sentence_encoder), device="cpu")
    options = {"model_kwargs": {"dtype": torch.bfloat16}} if dtype == "bfloat16" else {}
    both = [distilrt.accelerate(original, dtype=dtype),
            make(str(sentence_encoder), device="cpu", backend=peer, **options)]  # fmt: skip
    texts = _sentences(2000)
    difference = np.abs(both[0].encode(texts[:100]) - original.encode(texts[:100])).max()
    assert difference <= (1e-5 if dtype == "float32" else 0.02)
    times: list[list[float]] = [[], []]
    for _ in range(3):
        for model, found in zip(both, times, strict=True):
            start = time.perf_counter()
            model.encode(texts, batch_size=32)
            found.append(time.perf_counter() - start)
            time.sleep(0.1)  # until idle threads sleep
    own, other = (round(1e3 * statistics.median(each), 4) for each in times)
    ratio = beside(*times)
    low, high = (round(end, 3) for end in ratio.interval)
    add_row(workload="encode 2000", peer=f"sentence-transformers {peer}", dtype=dtype, p50_ms=own, peer_p50_ms=other,
            ratio=round(ratio.ratio, 3), ratio_low=low, ratio_high=high)  # fmt: skip

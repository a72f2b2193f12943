"""What the host does for one batch of `backend="cuda"` beside its graph, whose replay does nothing here: no GPU needed.

Copies to the device are copies in memory. Timed are cutting into parts, filling and sending the integers, and all from
token ids to logits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

os.environ["TRITON_INTERPRET"] = "1"  # Triton looks when the kernels are defined

from distilrt.batch import pack
from distilrt.model import models
from distilrt.model.config import DistilBertConfig


class NoGraphs:
    """Replays nothing, and gives what the launches of each bucket gave once."""

    def __init__(self, backend: Any) -> None:
        backend.encoder.workspace.fill(0)  # an empty batch
        self._found = {(bucket, True): backend._launch((bucket, True)) for bucket in backend.encoder.buckets[:2]}

    def __contains__(self, key: Any) -> bool:
        return key in self._found

    def replay(self, key: Any) -> Any:
        return self._found[key]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("what", ["parts", "send", "answer", "ids to logits"])
def test_host_work_at_1x16(benchmark: Any, what: str) -> None:
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=500)
    model: Any = models.DistilBertForSequenceClassification(config, backend="cuda")
    backend, ids, firsts = model.backend, [list(range(16))], np.zeros(1, np.int64)
    batch = pack(config, ids)
    backend._graphs = NoGraphs(backend)
    (part,) = backend._parts(batch, firsts)
    work: dict[str, Callable[[], Any]] = {
        "parts": lambda: backend._parts(batch, firsts),
        "send": lambda: backend._send(part, batch, firsts),
        "answer": lambda: backend.answer(batch, firsts),
        "ids to logits": lambda: backend.answer(pack(config, ids), firsts),
    }
    benchmark.pedantic(work[what], rounds=300, iterations=10, warmup_rounds=20)

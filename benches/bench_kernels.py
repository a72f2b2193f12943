"""Every GPU kernel alone: microseconds a launch from a captured graph, GB/s and TFLOP/s (CUDA events).

The table of pytest-benchmark shows the wall time of a replay; GPU time and rates are in its extra info and in the rows
kept with `--record`. Needs a GPU. What is launched and counted: `distilrt.bench.gpu.ops`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distilrt.backends.cuda.devices import cuda_device, why_not_cuda
from distilrt.bench.gpu.ops import NAMES, ops, time_op
from distilrt.bench.gpu.timing import Clock
from distilrt.model.config import DistilBertConfig

pytestmark = pytest.mark.skipif(why_not_cuda() is not None, reason=f"no CUDA device: {why_not_cuda()}")
TOKENS = (16, 128, 1024, 5632)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_kernel(benchmark: Any, add_result: Any, name: str, dtype: str, tokens: int) -> None:
    device = cuda_device()
    made = ops(DistilBertConfig(), tokens, getattr(torch, dtype), device)
    op = next((op for op in made if op.name == name), None)
    if op is None:
        pytest.skip(f"{tokens} tokens in {dtype} do not run {name}")
    clock = Clock(device, 0.3)
    found = time_op(op, clock)
    replay = clock.graph(op.work)

    def run() -> None:
        replay()
        clock.wait()

    benchmark.pedantic(run, rounds=20, warmup_rounds=2)
    benchmark.extra_info.update(found)
    add_result(device=torch.cuda.get_device_name(device), tokens=tokens, dtype=dtype, **found)

"""Every GPU kernel alone: microseconds a launch from a captured graph, GB/s and TFLOP/s (CUDA events).

The table of pytest-benchmark shows the wall time of a replay; GPU time and rates are in its extra info and in the rows
kept with `--record`. Needs a GPU. What is launched and counted: `distilrt.bench.gpu.ops`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distilrt.backends.cuda.devices import cuda_device, why_not_cuda
from distilrt.bench.gpu.ops import examples, time_example
from distilrt.bench.gpu.timing import Clock
from distilrt.kernels.op import all_ops
from distilrt.model.config import DistilBertConfig

pytestmark = pytest.mark.skipif(why_not_cuda() is not None, reason=f"no CUDA device: {why_not_cuda()}")
TOKENS = (16, 128, 1024, 5632)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", [op.name for op in all_ops()])
def test_kernel(benchmark: Any, add_result: Any, name: str, dtype: str, tokens: int) -> None:
    """All launches of one op in turn; a row of results is one of them."""
    device = cuda_device()
    made = list(examples(DistilBertConfig(), tokens, getattr(torch, dtype), device, only=name))
    if not made:
        pytest.skip(f"{tokens} tokens in {dtype} do not run {name}")
    clock = Clock(device, 0.3)
    for example in made:
        found = time_example(example, clock)
        benchmark.extra_info[example.label] = found
        add_result(device=torch.cuda.get_device_name(device), op=example.label, tokens=tokens, dtype=dtype, **found)
    replays = [clock.graph(example.launch) for example in made]

    def run() -> None:
        for replay in replays:
            replay()
        clock.wait()

    benchmark.pedantic(run, rounds=20, warmup_rounds=2)

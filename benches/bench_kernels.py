"""Every GPU kernel alone, over the shapes of DistilBERT-base: time of a launch from a captured graph, GB/s and TFLOP/s.

What is launched and counted, the records of `distilrt.kernels.op` say. Weights are copied until no L2 holds all of
them, and launches take turns with the copies, as the layers of a model do.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from distilrt.backends.cuda.devices import interpreting
from distilrt.bench import tiles
from distilrt.bench.clock import Clock
from distilrt.kernels.op import all_ops
from distilrt.model.config import DistilBertConfig

TOKENS = (8,) if interpreting() else (16, 128, 1024, 5632)
CONFIG = DistilBertConfig(dim=32, n_heads=2, hidden_dim=64) if interpreting() else DistilBertConfig()


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(
    ("name", "dtype"), [(op.name, dtype) for dtype in ("bfloat16", "float32", "float8") for op in all_ops(dtype)]
)
def test_kernel(clock: Clock, add_row: Callable[..., None], name: str, dtype: str, tokens: int) -> None:
    (op,) = (op for op in all_ops() if op.name == name)
    for arguments in op.in_model(CONFIG, tokens, dtype):
        example = tiles.maker(op, arguments, dtype, tiny=not clock.on_gpu)()
        times = clock.back_to_back(clock.graph(example.launch))
        low, us, high = (1e6 * each / example.count for each in statistics.quantiles(times, n=4, method="inclusive"))
        add_row(op=example.label, tokens=tokens, dtype=dtype, p50_us=us, p25_us=low, p75_us=high,
                gb_per_s=example.nbytes / us * 1e-3, tflop_per_s=example.flops / us * 1e-6)  # fmt: skip

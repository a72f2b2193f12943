"""Every kernel launched by itself, with the bytes that it must move and the arithmetic that it must do.

What is launched and counted, the records of `distilrt.kernels.op` say. Weights are copied until no L2 holds all of
them, and launches take turns with the copies, as the layers of a model do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from distilrt.bench.gpu.timing import Clock
from distilrt.kernels.launch import DTYPE_NAMES
from distilrt.kernels.op import Arrays, Example, all_ops
from distilrt.model.config import DistilBertConfig

WEIGHT_BYTES = 128 << 20  # of all copies of a weight: more than any L2


def examples(
    config: DistilBertConfig,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    tiny: bool = False,
    only: str = "",
) -> Iterator[Example]:
    """The launches of a batch of so many tokens.

    Args:
        config: the model's shape.
        tokens: packed rows.
        dtype: of rows and matrices.
        device: where; the CPU under Triton's interpreter.
        tiny: one copy of each weight.
        only: those of one op alone, by name.
    """
    name = DTYPE_NAMES[dtype]
    for op in all_ops():
        for arguments in op.in_model(config, tokens, name) if only in ("", op.name) else ():
            yield op.example(Arrays(device, name, weight_bytes=0 if tiny else WEIGHT_BYTES), **arguments)


def time_example(example: Example, clock: Clock) -> dict[str, Any]:
    """Milliseconds of one launch from a captured graph, with GB/s and TFLOP/s."""
    times = clock.back_to_back(clock.graph(example.launch))
    us = times.median / example.count
    return {
        "p50_ms": us / 1e3,
        "p25_ms": times.low / example.count / 1e3,
        "p75_ms": times.high / example.count / 1e3,
        "gb_per_s": example.nbytes / us * 1e-3,
        "tflop_per_s": example.flops / us * 1e-6,
    }

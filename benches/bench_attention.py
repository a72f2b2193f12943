"""The attention interface beside torch's sdpa, on what a DistilBERT hands to it: heads side by side in each row.

python -m pytest benches/bench_attention.py --benchmark-group-by=param:shape,param:mask,param:dtype
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distilrt import _C
from distilrt.cpu_count import usable_cores
from distilrt.dropin import attention

SHAPES = [(1, 16), (1, 128), (8, 128), (1, 512), (8, 512)]  # batch_size, seq_len
NUM_HEADS, HEAD_DIM = 12, 64


@pytest.mark.parametrize("what", ["distilrt", "sdpa"])
@pytest.mark.parametrize("mask", ["none", "right", "random"])
@pytest.mark.parametrize("dtype", ["float32", *(["bfloat16"] if "bfloat16" in _C.dtypes("") else [])])
@pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
@torch.inference_mode()
def test_attention(benchmark: Any, shape: tuple[int, int], dtype: str, mask: str, what: str) -> None:
    batch_size, seq_len = shape
    torch.set_num_threads(usable_cores())
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(3, batch_size, seq_len, NUM_HEADS, HEAD_DIM, generator=random).to(getattr(torch, dtype))
    query, key, value = (tensor.transpose(1, 2) for tensor in rows)
    keep = {
        "none": None,
        "right": torch.arange(seq_len) < torch.randint(seq_len // 2, seq_len + 1, (batch_size, 1), generator=random),
        "random": torch.rand(batch_size, seq_len, generator=random) < 0.7,
    }[mask]
    if keep is not None:
        keep[:, 0] = True
    pairs = None if keep is None else keep[:, None, None].expand(-1, 1, seq_len, -1)

    def sdpa() -> torch.Tensor:
        # As transformers calls it: the rows of a sequence have their heads side by side again at the end.
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, pairs)
        return found.transpose(1, 2).contiguous()

    def distilrt() -> torch.Tensor:
        found: torch.Tensor = attention.attention(query, key, value, keep, HEAD_DIM**-0.5)
        return found

    bound = 1e-5 if dtype == "float32" else 0.03
    torch.testing.assert_close(distilrt(), sdpa(), rtol=0, atol=bound * float(value.abs().max()))
    benchmark(distilrt if what == "distilrt" else sdpa)

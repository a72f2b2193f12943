"""Unpacking on the device against unpacking on the host, which is tested by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distilrt.batch import PaddedInputs, pack_padded
from distilrt.kernels.unpacking import unpack
from distilrt.model.config import DistilBertConfig
from tests.kernels.conftest import empty, ints

CONFIG = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=50, max_position_embeddings=2000)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [None, 1, 7, 1030])
def test_unpack(masked: bool, width: int | None, rng: np.random.Generator, dtype: torch.dtype) -> None:
    ids, mask = rng.integers(0, 50, (3, 6)), rng.integers(0, 2, (3, 6))
    mask[:, 4] = 1
    packed, layout = pack_padded(CONFIG, PaddedInputs(ids, mask), keep_first=True)
    total, inner = packed.total_tokens, [] if width is None else [width]
    index = np.arange(total) if layout.index is None else layout.index
    rows = torch.from_numpy(rng.standard_normal([20, *inner])).to(dtype)
    out = empty(3, 6, *inner, dtype=dtype)
    unpack(out, rows, ints(*index.tolist(), *[-77] * (20 - total)),
           attention_mask=None if masked else torch.from_numpy(mask), num_tokens=ints(total))  # fmt: skip
    expected = layout.unpack(rows[:total].float().numpy(), masked=masked)
    assert (out.float().numpy() == expected).all()

"""The native encoder refuses sizes that it could only compute nonsense with, whoever asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt import _C

TABLE = np.zeros((3, 32), np.float32)
ARGUMENTS: dict[str, Any] = {
    "hidden_size": 32, "num_heads": 2, "num_layers": 1, "intermediate_size": 48, "activation": "gelu", "eps": 1e-12,
    "word_embeddings": TABLE, "position_embeddings": TABLE,
}  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        *(({name: size}, "must be at least 1") for name in ("num_layers", "intermediate_size") for size in (0, -1)),
        *(({"num_heads": heads}, "divisible by num_heads") for heads in (0, -2, 64)),
        *(({"eps": eps}, "eps must be finite and above 0") for eps in (0.0, -1.0, float("nan"), float("inf"))),
        *(({"num_threads": threads}, "num_threads must be 1 to") for threads in (0, -1, 2**31 - 1)),
    ],
    ids=str,
)
def test_sizes(argument: dict[str, Any], message: str) -> None:
    _C.Encoder(**ARGUMENTS)
    with pytest.raises(ValueError, match=message):
        _C.Encoder(**{**ARGUMENTS, **argument})


def test_no_width_at_all() -> None:
    empty = np.zeros((3, 0), np.float32)
    with pytest.raises(ValueError, match="hidden_size, num_layers and intermediate_size must be at least 1"):
        _C.Encoder(**{**ARGUMENTS, "hidden_size": 0, "word_embeddings": empty, "position_embeddings": empty})


def test_attention_needs_memory_for_every_element() -> None:
    rows = np.zeros((1, 1, 4, 16), np.float32)
    out = np.lib.stride_tricks.as_strided(np.zeros(16, np.float32), rows.shape, (64, 64, 0, 4))
    with pytest.raises(ValueError, match="out must have memory of its own for every element"):
        _C.attention(rows, rows, rows, out=out, scale=1.0)
    none = rows[:, :, :0]
    _C.attention(none, rows, rows, out=np.empty((1, 1, 0, 16), np.float32), scale=1.0)

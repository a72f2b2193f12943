from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distilrt.kernels.pooling import first_rows, gather, mean
from tests.kernels.conftest import Close, double, empty, ints

Normal = Callable[..., torch.Tensor]
CU_SEQLENS, KEY_LENGTHS = ints(0, 5, 6, 39, 60, 60, 60), ints(4, 1, 33, 20, 0, 0)


@pytest.mark.parametrize("width", [1, 48, 1030])
def test_gather(width: int, normal: Normal, rng: np.random.Generator, dtype: torch.dtype) -> None:
    rows, out = normal(20, width, dtype=dtype), empty(6, width, dtype=dtype)
    index = torch.from_numpy(rng.integers(0, 20, 6)).to(torch.int32)
    index[2] = -1
    gather(out, rows, index, num_rows=ints(5))
    for to in range(6):
        if to in (2, 5):
            assert out[to].isnan().all()
        else:
            assert torch.equal(out[to], rows[index[to]])


def test_gather_into_another_dtype(normal: Normal) -> None:
    rows, out = normal(4, 8), empty(4, 8, dtype=torch.bfloat16)
    gather(out, rows, ints(3, 2, 1, 0))
    assert torch.equal(out, rows.flip(0).to(torch.bfloat16))


@pytest.mark.parametrize("width", [48, 1030])
def test_first_rows(width: int, normal: Normal, dtype: torch.dtype) -> None:
    rows, out = normal(64, width, dtype=dtype), empty(6, width, dtype=dtype)
    first_rows(out, rows, CU_SEQLENS)
    assert torch.equal(out[:4], rows[CU_SEQLENS[:4].long()])
    assert out[4:].isnan().all()


@pytest.mark.parametrize("width", [16, 200])
def test_mean(width: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    rows, out = normal(64, width, dtype=dtype), empty(6, width)
    rows[60:] = float("nan")
    rows[4] = float("nan")  # a row that only asks
    mean(out, rows, CU_SEQLENS, KEY_LENGTHS)
    keys = [rows[start : start + count] for start, count in zip(CU_SEQLENS[:4], KEY_LENGTHS, strict=False)]
    exact = np.stack([double(part).mean(0) for part in keys])
    assert_close(out[:4], exact, torch.stack([part.float().mean(0) for part in keys]))
    assert out[4:].isnan().all()


def test_bad_arguments() -> None:
    rows, out = torch.empty(9, 8), torch.empty(2, 8)
    with pytest.raises(ValueError, match=r"index must be contiguous int32 of shape \[2\]"):
        gather(out, rows, ints(1))
    with pytest.raises(ValueError, match=r"rows must be .* \[any, 8\]"):
        gather(out, torch.empty(9, 7), ints(1, 2))
    with pytest.raises(ValueError, match=r"cu_seqlens must be .* \[3\]"):
        first_rows(out, rows, ints(1, 2))
    with pytest.raises(ValueError, match="out must be contiguous float32 of shape"):
        mean(out.half(), rows, ints(0, 1, 2), ints(1, 1))
    with pytest.raises(ValueError, match=r"key_lengths must be .* \[2\]"):
        mean(out, rows, ints(0, 1, 2), ints(1, 1, 1))

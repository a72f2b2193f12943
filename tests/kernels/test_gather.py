from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distilrt.kernels.gather import gather
from tests.kernels.conftest import empty, ints

Normal = Callable[..., torch.Tensor]


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


def test_bad_arguments() -> None:
    rows, out = torch.empty(9, 8), torch.empty(2, 8)
    with pytest.raises(ValueError, match=r"index must be contiguous int32 of shape \[2\]"):
        gather(out, rows, ints(1))
    with pytest.raises(ValueError, match=r"rows must be .* \[any, 8\]"):
        gather(out, torch.empty(9, 7), ints(1, 2))

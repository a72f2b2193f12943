"""Codes of 8 bits as the backends round to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.checkpoint.calibration import round_weight
from distilrt.checkpoint.codings import CODINGS, nearest_e4m3
from distilrt.kernels.quantize import plain_factor, quantized


def test_e4m3_is_torchs() -> None:
    """Every number of it, the middles between them, and what is larger than the largest."""
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = numbers[numbers.isfinite()].sort().values
    middles = (numbers[1:] + numbers[:-1]) / 2
    sides = [torch.nextafter(middles, torch.tensor(side)) for side in (-500.0, 500.0)]
    x = torch.cat([numbers, middles, *sides, torch.randn(4096) * 100])
    wanted = x.clamp(-448, 448).to(torch.float8_e4m3fn).float()
    np.testing.assert_array_equal(nearest_e4m3(x.numpy()), wanted.numpy())
    np.testing.assert_array_equal(nearest_e4m3(np.array([470, -1e9], np.float32)), [448, -448])


@pytest.mark.parametrize("dtype", ["float8", "int8"])
def test_rows_are_rounded_as_kernels_do(dtype: str, rng: Any) -> None:
    rows = rng.standard_normal((20, 37)).astype(np.float32)
    rows[3] = 0
    torch_dtype = torch.float8_e4m3fn if dtype == "float8" else torch.int8
    wanted = plain_factor(quantized(torch.from_numpy(rows), torch_dtype)).numpy()
    difference = np.abs(CODINGS["cuda", dtype].rounded_rows(rows) - wanted)
    assert (difference > 1e-6).mean() < 0.01, "the last bit of a quotient may decide"


def test_weights_of_float8_make_up_for_each_other(rng: Any) -> None:
    """Outputs of correlated rows are nearer than with the nearest codes, and every code is one of float8's."""
    coding = CODINGS["cuda", "float8"]
    rows = (rng.standard_normal((200, 8)) @ rng.standard_normal((8, 48))).astype(np.float32)
    rows += 0.1 * rng.standard_normal(rows.shape).astype(np.float32)
    weight = rng.standard_normal((30, 48)).astype(np.float32)
    codes, scales = round_weight(weight, rows.T @ rows, coding)
    np.testing.assert_array_equal(coding.nearest(codes.astype(np.float32)), codes)
    plain = coding.nearest(weight / scales[:, None]) * scales[:, None]
    errors = [np.linalg.norm(rows @ (found - weight).T) for found in (codes * scales[:, None], plain)]
    assert errors[0] < 0.8 * errors[1]

"""csrc/layer_norm-inl.h against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS

WIDTHS = [1, 2, 15, 16, 17, 32, 36, 63, 64, 65, 384, 768, 1023, 1024]


def _largest_term(x: Any, gamma: Any, beta: Any) -> float:
    """Of gamma * (x / std - mean / std) + beta; two nearly equal numbers have a small std."""
    return float((np.abs(x).max(-1) / np.maximum(x.std(-1), 1e-6)).max() * np.abs(gamma).max() + np.abs(beta).max())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", [1, 3])
def test_layer_norm(kernels: Any, rng: Any, assert_close: Any, rows: int, width: int) -> None:
    x = rng.standard_normal((rows, width), np.float32) + np.float32(3)
    gamma, beta = rng.standard_normal(width, np.float32), rng.standard_normal(width, np.float32)
    if width == 1:
        x[:] = 3  # one number has no variance; only the exact mean avoids dividing noise by sqrt(1e-12)
    out = np.full_like(x, np.nan)
    kernels.layer_norm(x, gamma, beta, LAYER_NORM_EPS, out=out)
    exact = functional.layer_norm(x.astype(float), gamma.astype(float), beta.astype(float))
    largest_term = 0 if width == 1 else _largest_term(x, gamma, beta)
    assert_close(out, exact, functional.layer_norm(x, gamma, beta), largest_term)
    kernels.layer_norm(x, gamma, beta, LAYER_NORM_EPS, out=x)
    np.testing.assert_array_equal(x, out)


def test_large_mean_keeps_its_digits(kernels: Any, rng: Any, assert_close: Any) -> None:
    """E[x²] - mean² in one pass would lose all of them here."""
    x = rng.standard_normal((2, 768), np.float32) + np.float32(1000)
    gamma, beta = np.ones(768, np.float32), np.zeros(768, np.float32)
    out = np.full_like(x, np.nan)
    kernels.layer_norm(x, gamma, beta, LAYER_NORM_EPS, out=out)
    assert_close(out, functional.layer_norm(x.astype(float), gamma, beta), functional.layer_norm(x, gamma, beta))

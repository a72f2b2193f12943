"""csrc/gemm-inl.h and the activations of csrc/math-inl.h against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt.model import functional
from distilrt.model.config import ACTIVATIONS

SHAPES = [
    (1, 1, 1),
    (1, 768, 768),
    (2, 3, 5),
    (5, 17, 33),
    (6, 64, 64),
    (7, 65, 63),
    (63, 130, 96),
    (64, 36, 36),
    (65, 96, 384),
    (127, 100, 767),
    (128, 192, 768),
    (129, 48, 1537),  # three depth slices, the last of one element
    (300, 31, 1024),
]


def _operands(rng: np.random.Generator, m: int, n: int, k: int) -> tuple[Any, Any, Any]:
    return (
        rng.standard_normal((m, k), np.float32),
        rng.standard_normal((n, k), np.float32) * np.float32(k**-0.5),
        rng.standard_normal(n, np.float32),
    )


def largest_term(x: Any, weight: Any, *added: Any) -> float:
    """Of the sum that an output is, before an activation."""
    return max(float(np.abs(x).max() * np.abs(weight).max()), *(float(np.abs(term).max()) for term in added))


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_linear(kernels: Any, rng: Any, assert_close: Any, m: int, n: int, k: int) -> None:
    x, weight, bias = _operands(rng, m, n, k)
    out = np.full((m, n), np.nan, np.float32)
    kernels.linear(x, weight, bias, out=out)
    exact = functional.linear(x.astype(float), weight.astype(float), bias.astype(float))
    assert_close(out, exact, functional.linear(x, weight, bias), largest_term(x, weight, bias))


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_residual(kernels: Any, rng: Any, assert_close: Any, m: int, n: int, k: int) -> None:
    x, weight, bias = _operands(rng, m, n, k)
    residual = rng.standard_normal((m, n), np.float32)
    exact = functional.linear(x.astype(float), weight.astype(float), bias.astype(float)) + residual
    plain = functional.linear(x, weight, bias) + residual
    out = np.full((m, n), np.nan, np.float32)
    kernels.linear(x, weight, bias, residual=residual, out=out)
    assert_close(out, exact, plain, largest_term(x, weight, bias, residual))
    kernels.linear(x, weight, bias, residual=residual, out=residual)  # in place, as the layer loop does
    np.testing.assert_array_equal(residual, out)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("m", "n", "k"), [(2, 40, 3), (5, 17, 33), (65, 96, 384)])
def test_activation(kernels: Any, rng: Any, assert_close: Any, activation: str, m: int, n: int, k: int) -> None:
    x, weight, bias = _operands(rng, m, n, k)
    out = np.full((m, n), np.nan, np.float32)
    kernels.linear(x, weight, bias, activation, out=out)
    inner = functional.linear(x.astype(float), weight.astype(float), bias.astype(float))
    plain = functional.activation(activation, functional.linear(x, weight, bias))
    assert_close(out, functional.activation(activation, inner), plain, largest_term(x, weight, bias))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_over_its_range(kernels: Any, activation: str) -> None:
    """Through a 1x1 weight the epilogue sees x itself: dense around 0, far out, and the values that break formulas."""
    x = np.concatenate(
        [np.linspace(-12, 12, 200_001), np.geomspace(1e-30, 1e30, 1001), -np.geomspace(1e-30, 1e30, 1001), [0.0, -0.0]]
    ).astype(np.float32)[:, None]
    out = np.full_like(x, np.nan)
    kernels.linear(x, np.ones((1, 1), np.float32), np.zeros(1, np.float32), activation, out=out)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = functional.activation(activation, x.astype(float))
    assert np.isfinite(out).all()
    assert (np.abs(out - exact) <= 3e-7 * np.maximum(1, np.abs(exact))).all()


@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
def test_nan_and_infinity_stay(kernels: Any, activation: str) -> None:
    x = np.array([[np.nan], [np.inf], [1.0]], np.float32)
    out = np.zeros_like(x)
    kernels.linear(x, np.ones((1, 1), np.float32), np.zeros(1, np.float32), activation, out=out)
    assert np.isnan(out[0, 0])
    assert out[1, 0] == np.inf
    assert np.isfinite(out[2, 0])


def test_rows_do_not_depend_on_each_other(kernels: Any, rng: Any) -> None:
    x, weight, bias = _operands(rng, 300, 70, 900)
    together = np.full((300, 70), np.nan, np.float32)
    kernels.linear(x, weight, bias, "gelu", out=together)
    for row in (0, 5, 127, 128, 255, 256, 299):
        alone = np.full((1, 70), np.nan, np.float32)
        kernels.linear(x[row : row + 1], weight, bias, "gelu", out=alone)
        np.testing.assert_array_equal(alone[0], together[row])


def test_wrong_shapes_and_dtypes_are_errors(kernels: Any) -> None:
    x, weight, bias = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="out and residual"):
        kernels.linear(x, weight, bias, out=np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="activation"):
        kernels.linear(x, weight, bias, "swish", out=np.zeros((2, 4), np.float32))
    with pytest.raises(TypeError):
        kernels.linear(x.astype(float), weight, bias, out=np.zeros((2, 4), np.float32))

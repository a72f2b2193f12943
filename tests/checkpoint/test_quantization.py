"""quantization.py: balanced columns, rows rounded as in the native encoder, weights rounded for their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt import _C
from distilrt.checkpoint import quantization

SHAPES = [(1, 1), (2, 3), (7, 64), (5, 65), (96, 40), (33, 200)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()  # fresh numbers every run: the bound must hold for all of them


def _correlated(rng: Any, m: int, k: int) -> Any:
    """Rows as layers see them: few directions, columns of very different size."""
    rows = rng.standard_normal((m, 4)) @ rng.standard_normal((4, k)) + 0.3 * rng.standard_normal((m, k))
    return (rows * np.exp(rng.uniform(-3, 3, k))).astype(np.float32)


def test_scales_make_columns_of_rows_and_weights_equally_large(rng: Any) -> None:
    rows = (rng.standard_normal((9, 50)) * np.exp(rng.uniform(-30, 30, 50))).astype(np.float32)
    weight = (rng.standard_normal((7, 50)) * np.exp(rng.uniform(-30, 30, 50))).astype(np.float32)
    rows[:, 3], weight[:, 8] = 0, 0
    scales = quantization.column_scales(rows, weight)
    assert scales.dtype == np.float32
    assert (scales[3], scales[8]) == (1, 1)
    used = np.delete(np.arange(50), [3, 8])
    assert abs(np.log(scales[used].astype(float)).mean()) < 1e-5
    ratio = np.abs(rows * scales).max(axis=0)[used] / np.abs(weight / scales).max(axis=0)[used]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_scales_of_nothing() -> None:
    zeros = np.zeros((2, 5), np.float32)
    np.testing.assert_array_equal(quantization.column_scales(zeros, zeros), 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_rounded_as_the_native_encoder_does(rng: Any, shape: tuple[int, int]) -> None:
    """Whose weights are the identity here. A tie may go to the other side."""
    rows = _correlated(rng, *shape)
    k = shape[1]
    native = np.empty(shape, np.float32)
    _C.Kernels(_C.available_isas()[0], "int8").linear(
        rows, np.eye(k, dtype=np.float32), np.zeros(k, np.float32), out=native
    )
    ours = quantization.round_rows(rows)
    span = rows.max(axis=1, keepdims=True) - rows.min(axis=1, keepdims=True)
    assert (np.abs(ours - rows) <= span * (0.5 / 255 + 1e-5) + 1e-6 * np.abs(rows).max()).all()
    off = np.abs(ours - native) > 1e-5 * (span + np.abs(rows).max())
    fraction = (rows - rows.min(axis=1, keepdims=True)) / np.where(span > 0, span, 1) * 255 % 1
    assert (np.abs(fraction - 0.5)[off] < 1e-3).all()
    constant = np.full((2, 3), 0.7, np.float32)
    np.testing.assert_array_equal(quantization.round_rows(constant), constant)


def test_without_correlation_every_weight_goes_to_the_nearest(rng: Any) -> None:
    weight = rng.standard_normal((20, 70), np.float32)
    weight[4] = 0
    for gram in (np.diag(rng.uniform(0.1, 3, 70)).astype(np.float32), np.zeros((70, 70), np.float32)):
        codes, scales = quantization.round_weight(weight, gram)
        assert codes.dtype == np.int8
        assert codes.flags.c_contiguous
        np.testing.assert_array_equal(scales, np.abs(weight).max(axis=1) / np.float32(127))
        assert (np.abs(codes * scales[:, None] - weight) <= scales[:, None] * (0.5 + 1e-4)).all()
    assert (codes[4] == 0).all()


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_each_column_makes_up_for_those_before_it(rng: Any, n: int, k: int) -> None:
    """GPTQ by its definition, in float64: given the columns already rounded, the next has its value in the best weight
    that has them, rounded to the nearest."""
    rows, weight = _correlated(rng, 2 * k, k), rng.standard_normal((n, k), np.float32)
    gram = rows.T @ rows
    codes, scales = quantization.round_weight(weight, gram)
    damped = gram.astype(float) + 0.3 * np.diag(gram).mean() * np.eye(k)
    exact, order = weight / scales[:, None].astype(float), np.argsort(np.diag(gram), kind="stable")[::-1]
    for i in range(k):
        done, rest = order[:i], order[i:]
        lost = exact[:, done] - codes[:, done]
        best = exact[:, rest] + lost @ np.linalg.solve(damped[np.ix_(rest, rest)], damped[np.ix_(rest, done)]).T
        target = np.clip(best[:, 0], -127, 127)
        assert (np.abs(codes[:, order[i]] - target) <= 0.5 + 1e-3 * (1 + np.abs(lost).sum(axis=1))).all()


def test_outputs_of_correlated_rows_are_nearer_than_with_nearest_weights(rng: Any) -> None:
    rows, weight = _correlated(rng, 400, 96), rng.standard_normal((64, 96), np.float32)
    codes, scales = quantization.round_weight(weight, rows.T @ rows)
    nearest = np.rint(weight / scales[:, None])
    ours, plain = (np.linalg.norm(rows @ (each * scales[:, None] - weight).T) for each in (codes, nearest))
    assert ours < 0.8 * plain

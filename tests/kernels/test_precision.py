"""float32 products as three products of tf32, by NumPy: the interpreter computes those of any precision exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from distilrt.kernels import tiles
from distilrt.kernels.tiles import A100, B200, H200, L40S, Chip
from tests.kernels.conftest import Array

Floats = npt.NDArray[np.float32]
DEPTH = 8  # of one instruction, which adds so many products to a sum at once
ROWS, COLUMNS = 48, 40


def nearest(sums: Array) -> Floats:
    return sums.astype(np.float32)


def towards_zero(sums: Array) -> Floats:
    """What tensor cores may do, of which no document says how they round."""
    near: Floats = sums.astype(np.float32)
    cut_off: Floats = np.where(np.abs(near) > np.abs(sums), np.nextafter(near, np.float32(0)), near)
    return cut_off


def cut(x: Floats, half: int) -> Floats:
    """The first 11 binary digits: rounded for a `half` of 2^12, as Triton has the large parts, cut off for 0."""
    bits = (x.view(np.uint32) + np.uint32(half)) & np.uint32(0xFFFFE000)
    digits: Floats = bits.view(np.float32)
    return digits


def three_products(x: Floats, weight: Floats, step: int, rounding: Callable[[Array], Floats]) -> Floats:
    """Sums of a step along the depth by themselves, small products first, and then of all steps, as Triton makes it."""
    large = [cut(each, 0x1000) for each in (x, weight)]
    small = [cut(each - part, 0) for each, part in zip((x, weight), large, strict=True)]
    total = np.zeros((len(x), len(weight)), np.float32)
    for first in range(0, x.shape[1], step):
        sums = np.zeros_like(total)
        for left, right in ((small[0], large[1]), (large[0], small[1]), (large[0], large[1])):
            for k in range(first, first + step, DEPTH):
                piece = slice(k, k + DEPTH)
                sums = rounding(sums + left[:, piece].astype(float) @ right[:, piece].astype(float).T)
        total += sums
    return total


def multiply_adds(x: Floats, weight: Floats) -> Floats:
    """One chain of fused multiply-adds for each number."""
    total = np.zeros((len(x), len(weight)), np.float32)
    for column, other in zip(x.T.astype(float), weight.T.astype(float), strict=True):
        total = (total + column[:, None] * other).astype(np.float32)
    return total


@pytest.mark.parametrize("depth", [768, 3072])
@pytest.mark.parametrize("rounding", [nearest, towards_zero])
@pytest.mark.parametrize("positive", [False, True], ids=["normal", "of one sign"])
def test_three_products_are_as_near_as_multiply_adds(
    depth: int, rounding: Callable[[Array], Floats], positive: bool, rng: np.random.Generator
) -> None:
    """Within twice the error of exact float32, in the root of the mean of squares and in the largest difference."""
    x, weight = (rng.standard_normal((size, depth)).astype(np.float32) for size in (ROWS, COLUMNS))
    if positive:
        x, weight = np.abs(x), np.abs(weight)
    exact = x.astype(float) @ weight.astype(float).T
    plain = multiply_adds(x, weight) - exact
    steps = {tile.block_k for chip in (A100, L40S, H200, B200) for tile in tiles.linear_candidates("tf32x3", chip)}
    for step in steps:
        error = three_products(x, weight, step, rounding) - exact
        assert np.sqrt(np.mean(error**2)) <= 2 * np.sqrt(np.mean(plain**2)), step
        assert np.abs(error).max() <= 2 * np.abs(plain).max(), step


def test_one_product_is_not(rng: np.random.Generator) -> None:
    """The measure would see factors that lose digits."""
    x, weight = (rng.standard_normal((size, 768)).astype(np.float32) for size in (ROWS, COLUMNS))
    exact = x.astype(float) @ weight.astype(float).T
    error = cut(x, 0x1000).astype(float) @ cut(weight, 0x1000).astype(float).T - exact
    assert np.abs(error).max() > 100 * np.abs(multiply_adds(x, weight) - exact).max()


def test_three_products_where_tensor_cores_do_them_sooner_than_one_by_multiply_adds() -> None:
    chips = (A100, Chip(86, 84), L40S, H200, B200, Chip(120, 170))
    assert [tiles.float32_precision(chip) for chip in chips] == ["tf32x3", "ieee", "ieee", "tf32x3", "tf32x3", "ieee"]

"""The bfloat16 and int8 GEMMs: exactly the products of the rounded operands, on every instruction set that has them.

Rounding is redone here in NumPy, so what is left between the kernel and float64 is float32 arithmetic alone.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest

from distilrt import _C
from distilrt.model import functional
from distilrt.model.config import ACTIVATIONS
from tests.csrc.native_tables import TABLES, dtypes_of, kernels_of

SHAPES = [(1, 1, 1), (1, 768, 768), (2, 3, 5), (4, 70, 202), (5, 17, 33), (7, 65, 63), (64, 36, 36), (65, 96, 384),
          (129, 48, 1537), (130, 100, 3071)]  # fmt: skip
WITHOUT_FMA = {"generic"} if platform.machine() == "x86_64" else set()
PAIRS = [(isa, dtype) for isa in TABLES for dtype in dtypes_of(isa) if dtype != "float32"]


def bfloat16(x: Any) -> Any:
    """x rounded to bfloat16, ties to even, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def int8(x: Any, isa: str) -> Any:
    """Rows of x in 255 steps from their smallest value to their largest, in float64."""
    low = x.min(axis=1, keepdims=True)
    span = x.max(axis=1, keepdims=True) - low
    inverse = np.where(span > 1e-30, np.float32(255) / np.where(span > 0, span, 1), 0).astype(np.float32)
    # With FMA the product is not rounded before the rounding to an integer.
    product = (x - low) * inverse if isa in WITHOUT_FMA else (x - low).astype(float) * inverse.astype(float)
    return np.rint(product) * (span / np.float32(255)).astype(float) + low


def int8_weight(x: Any, isa: str) -> Any:
    """Rows of x as int8 times a scale, in float64."""
    scale = np.abs(x).max(axis=1, keepdims=True).astype(np.float32) / np.float32(127)
    inverse = np.float32(1) / scale
    product = x * inverse if isa in WITHOUT_FMA else x.astype(float) * inverse.astype(float)
    codes, scale = narrowed(np.rint(product), scale) if isa == "avx2" else (np.rint(product), scale)
    return codes * scale.astype(float)


def narrowed(codes: Any, scale: Any) -> Any:
    """Codes in steps so large that the four which share a sum of 16 bits add up to 128 at most on a side of 0."""
    ratio = np.maximum(sides(codes).max(axis=(0, 2)), 128).astype(np.float32)[:, None] / np.float32(128)
    exact = codes.astype(np.float32) * (np.float32(1) / ratio)
    fits = (sides(np.rint(exact)) <= 128).all(axis=0)  # [n, groups]
    return np.where(spread(fits, codes.shape), np.rint(exact), np.trunc(exact)), scale * ratio


def sides(codes: Any) -> Any:
    """Sums of positive and of negative codes `[2, n, groups]`: columns 0, 1, 4 and 5 of eight are one group."""
    n, k = codes.shape
    groups = np.pad(codes, [(0, 0), (0, -k % 8)]).reshape(n, -1, 2, 2, 2)
    return np.stack([np.maximum(side, 0).sum(axis=(2, 4)).reshape(n, -1) for side in (groups, -groups)])


def spread(groups: Any, shape: Any) -> Any:
    """`[n, groups]` by the columns of each: `shape`."""
    n, k = shape
    return np.broadcast_to(groups.reshape(n, -1, 1, 2, 1), (n, groups.shape[1] // 2, 2, 2, 2)).reshape(n, -1)[:, :k]


@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("activation", ["", "gelu"])
def test_linear(rng: Any, assert_close: Any, isa: str, dtype: str, m: int, n: int, k: int, activation: str) -> None:
    x = rng.standard_normal((m, k), np.float32)
    weight = rng.standard_normal((n, k), np.float32) * np.float32(k**-0.5)
    bias = rng.standard_normal(n, np.float32)
    rounded = (bfloat16(x), bfloat16(weight)) if dtype == "bfloat16" else (int8(x, isa), int8_weight(weight, isa))
    out = np.full((m, n), np.nan, np.float32)
    kernels_of(isa, dtype).linear(x, weight, bias, activation, out=out)
    exact = functional.linear(rounded[0].astype(float), rounded[1].astype(float), bias.astype(float))
    plain = functional.linear(rounded[0].astype(np.float32), rounded[1].astype(np.float32), bias)
    if activation:
        exact, plain = functional.activation(activation, exact), functional.activation(activation, plain)
    assert_close(out, exact, plain, max(np.abs(x).max() * np.abs(weight).max(), np.abs(bias).max()))


@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_rounded_once(rng: Any, isa: str, dtype: str, activation: str) -> None:
    """A result that stays between GEMMs is the full one, rounded: bfloat16 where the instruction set has it."""
    x = np.linspace(-11, 11, 4096, dtype=np.float32)[:, None]
    x = np.concatenate([x, [[-1e4], [1e4], [np.inf], [np.nan]]]).astype(np.float32)
    one, zero = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    kernels = kernels_of(isa, dtype)
    full, narrow, linear = (np.full_like(x, np.nan) for _ in range(3))
    kernels.linear(x, one, zero, activation, out=full)
    kernels.linear(x, one, zero, activation, narrow=True, out=narrow)
    kernels.linear(x, one, zero, out=linear)
    exact = functional.activation(activation, linear[:-2].astype(float))
    step = 2**-8 if "bfloat16" in dtypes_of(isa) else 2**-23
    assert (
        np.abs(narrow[:-2] - exact) <= step * np.abs(exact) + 2e-5 * (step > 2**-23) + 3e-7 + 1e-7 * np.abs(linear[:-2])
    ).all()
    assert narrow[-2, 0] == np.inf or dtype == "int8"
    assert np.isnan(narrow[-1, 0])


@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
def test_residual(rng: Any, isa: str, dtype: str) -> None:
    x, weight = rng.standard_normal((131, 100), np.float32), rng.standard_normal((70, 100), np.float32)
    bias, residual = rng.standard_normal(70, np.float32), rng.standard_normal((131, 70), np.float32)
    kernels = kernels_of(isa, dtype)
    plain, added = np.full((131, 70), np.nan, np.float32), np.full((131, 70), np.nan, np.float32)
    kernels.linear(x, weight, bias, out=plain)
    kernels.linear(x, weight, bias, residual=residual, out=added)
    np.testing.assert_allclose(added, plain + residual, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("isa", TABLES)
@pytest.mark.parametrize("rows", [*range(1, 41), 255, 257, 300])  # whole blocks of rows and parts of two
def test_int8_sums_are_exact(rng: Any, isa: str, rows: int) -> None:
    """Operands that are integers already, so that every instruction set gives the exact sums, which float32 holds."""
    n, k = int(rng.integers(1, 150)), int(rng.integers(9, 1500))
    x = rng.integers(0, 256, (rows, k)).astype(np.float32)
    weight = rng.integers(-32, 33, (n, k)).astype(np.float32)  # four of them never add up to more than 128
    x[:, :2], weight[:, :8], weight[:, 0] = [0, 255], 0, 127  # the ends of both ranges
    out = np.full((rows, n), np.nan, np.float32)
    kernels_of(isa, "int8").linear(x, weight, np.zeros(n, np.float32), out=out)
    np.testing.assert_array_equal(out, x.astype(int) @ weight.T.astype(int))


@pytest.mark.parametrize("isa", [isa for isa in TABLES if isa != "avx2"])  # AVX2 narrows such weights
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_int8_sums_are_exact_at_the_ends_of_both_ranges(isa: str, rows: int) -> None:
    """No sum of products may be kept in 16 bits that hold it for smaller weights alone."""
    x = np.tile(np.array([0, 0, 0, 0, 255, 255, 255, 255, 0, 255], np.float32), (rows, 30))
    weight = np.concatenate([np.full((35, 300), 127, np.float32), np.full((35, 300), -127, np.float32)])
    out = np.full((rows, 70), np.nan, np.float32)
    kernels_of(isa, "int8").linear(x, weight, np.zeros(70, np.float32), out=out)
    np.testing.assert_array_equal(out, x.astype(int) @ weight.T.astype(int))


@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
def test_a_row_is_the_same_beside_any_number_of_others(rng: Any, isa: str, dtype: str) -> None:
    x, weight = rng.standard_normal((40, 100), np.float32), rng.standard_normal((70, 100), np.float32)
    bias, kernels = rng.standard_normal(70, np.float32), kernels_of(isa, dtype)
    alone = np.full((40, 70), np.nan, np.float32)
    for row in range(40):
        kernels.linear(x[row : row + 1], weight, bias, "gelu", out=alone[row : row + 1])
    for rows in range(2, 41):
        together = np.full((rows, 70), np.nan, np.float32)
        kernels.linear(x[:rows], weight, bias, "gelu", out=together)
        np.testing.assert_array_equal(together, alone[:rows])


@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
def test_values_that_break_scales(isa: str, dtype: str) -> None:
    """A row of zeros, of denormals, of one huge value; NaN and infinity spoil their own row and no other."""
    x = np.zeros((6, 40), np.float32)
    x[1] = 1e-40
    x[2, 3] = 3e38
    x[3] = 1
    x[4, 7] = np.nan
    x[5, 7] = np.inf
    weight = np.ones((5, 40), np.float32)
    weight[1] = 0
    weight[2] = 1e-38
    out = np.full((6, 5), 7, np.float32)
    kernels_of(isa, dtype).linear(x, weight, np.zeros(5, np.float32), out=out)
    np.testing.assert_allclose(out[0], 0)
    np.testing.assert_allclose(out[1], 0, atol=1e-36)
    np.testing.assert_allclose(out[3, [0, 1]], [40, 0], rtol=1e-6)
    assert out[2, 0] > 2.9e38
    assert np.isnan(out[4]).all()
    assert not np.isfinite(out[5, 0])


@pytest.mark.parametrize("isa", [isa for isa, dtype in PAIRS if dtype == "bfloat16"])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 511, 512])
@pytest.mark.parametrize("head_dim", [16, 17, 32, 64, 80, 128])
def test_bfloat16_attention(rng: Any, isa: str, length: int, head_dim: int) -> None:
    """Twice the error of the plain computation that rounds probabilities and the result to bfloat16."""
    q, k, v = (bfloat16(rng.standard_normal((length, head_dim), np.float32)) for _ in range(3))
    out = np.full_like(q, np.nan)
    kernels_of(isa, "bfloat16").attention(q, k, v, out=out)
    exact = functional.attention_probs(q.astype(float), k.astype(float), 1)[0] @ v.astype(float)
    scores = q @ k.T * np.float32(head_dim**-0.5)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    plain = bfloat16((bfloat16(weights) @ v) / weights.sum(axis=1, keepdims=True))
    floor = 2**-9 * np.abs(exact).max()  # half a unit in the last place of the result
    assert np.abs(out - exact).max() <= 2 * np.abs(plain - exact).max() + floor


ISAS = _C.available_isas()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_input_scales(rng: Any, isa: str, m: int, n: int, k: int) -> None:
    """Powers of two, which multiply exactly: the same bits as of scaled rows. Ones: the same as none."""
    x, weight = rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32)
    bias, kernels = rng.standard_normal(n, np.float32), kernels_of(isa, "int8")
    scales = np.exp2(rng.integers(-40, 40, k)).astype(np.float32)
    scaled, expected = np.full((m, n), np.nan, np.float32), np.full((m, n), np.nan, np.float32)
    kernels.linear(x, weight, bias, input_scales=scales, out=scaled)
    kernels.linear(x * scales, weight, bias, out=expected)
    np.testing.assert_array_equal(scaled, expected)
    kernels.linear(x, weight, bias, input_scales=np.ones(k, np.float32), out=scaled)
    kernels.linear(x, weight, bias, out=expected)
    np.testing.assert_array_equal(scaled, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_input_scales_of_any_size(rng: Any, isa: str, m: int, n: int, k: int) -> None:
    """Each rounded input is within half a step of the scaled one, so a sum is within that times the weights."""
    x, weight = rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32)
    scales = np.exp(rng.uniform(-20, 20, k)).astype(np.float32)
    scaled = x.astype(float) * scales
    rounded = int8_weight(weight, isa)
    out = np.full((m, n), np.nan, np.float32)
    kernels_of(isa, "int8").linear(x, weight, np.zeros(n, np.float32), input_scales=scales, out=out)
    step = (scaled.max(axis=1, keepdims=True) - scaled.min(axis=1, keepdims=True)) / 255
    # The few float32 operations of a result, on terms of up to 255 steps and the smallest value.
    noise = 1e-5 * (np.abs(scaled).max(axis=1, keepdims=True) + 255 * step)
    bound = (0.5 * step + noise) * np.abs(rounded).sum(axis=1)
    assert (np.abs(out - scaled @ rounded.T) <= bound).all()


@pytest.mark.parametrize("isa", ISAS)
def test_input_scales_and_values_that_break_them(isa: str) -> None:
    """A column scaled by 0, one of zeros, and overflow: NaN, infinity and overflow spoil their own row and no other."""
    x = np.ones((5, 40), np.float32)
    x[:, 5] = 0
    x[1, 7], x[2, 7], x[3, 9] = np.nan, np.inf, 3e38
    scales = np.ones(40, np.float32)
    scales[3], scales[5], scales[9] = 0, 1e30, 1e10
    out = np.full((5, 1), 7, np.float32)
    weight = np.ones((1, 40), np.float32)
    weight[0, 9] = 0
    kernels_of(isa, "int8").linear(x, weight, np.zeros(1, np.float32), input_scales=scales, out=out)
    assert np.isfinite(out[[0, 4]]).all()
    assert not np.isfinite(out[1:4]).any()


def test_given_steps_keep_integers(rng: Any) -> None:
    """A weight of whole multiples of given scales is stored as these multiples, on every instruction set."""
    for isa in ISAS:
        codes = rng.integers(-127, 128, (70, 33)).astype(np.int8)
        steps = np.exp(rng.uniform(-20, 20, 70)).astype(np.float32)
        steps[3], codes[3] = 0, 0
        table = np.zeros((1, 4), np.float32)
        encoder = _C.Encoder(hidden_size=4, num_heads=1, num_layers=1, intermediate_size=4, activation="relu",
                             eps=1e-12, word_embeddings=table, position_embeddings=table,
                             isa=isa, dtype="int8")  # fmt: skip
        weight, scales = codes * steps[:, None], rng.uniform(0.5, 2, 33).astype(np.float32)
        biases = [np.zeros(30, np.float32), np.zeros(40, np.float32)]
        encoder.add_linear("x", [weight[:30], weight[30:]], biases, "int8", scales, steps)
        parts = encoder.linear_parts("x")
        panels = parts["panels"].view(np.int8).reshape(2, 9, 64, 4).transpose(0, 2, 1, 3).reshape(128, 36)
        np.testing.assert_array_equal(panels[:70, :33], codes)
        np.testing.assert_array_equal(parts["column_scales"], steps)
        np.testing.assert_array_equal(parts["input_scales"], scales)
        np.testing.assert_array_equal(parts["offsets"], codes.sum(axis=1, dtype=np.int32))
        for wrong in (scales[:-1], -scales, scales * np.float32(np.nan)):
            with pytest.raises(ValueError, match="needs 33 finite scales"):
                encoder.add_linear("y", [weight], [steps], "int8", wrong)
            with pytest.raises(ValueError, match="needs 33 finite scales"):
                encoder.add_packed_linear(**{**parts, "name": "y", "input_scales": wrong})
        with pytest.raises(ValueError, match="needs 70 finite scales"):
            encoder.add_linear("y", [weight], [steps], "int8", scales, steps[1:])
        with pytest.raises(ValueError, match="only int8"):
            encoder.add_linear("y", [weight], [steps], "float32", scales)


@pytest.mark.parametrize("isa", TABLES)
@pytest.mark.parametrize("k", [1, 3, 4, 8, 13, 1023, 3072])
@pytest.mark.parametrize("signs", ["above", "below", "both", "random"])
def test_int8_sums_do_not_saturate(rng: Any, isa: str, k: int, signs: str) -> None:
    # Rows of 0 and 255 steps, the larger of which lie on all weights of one side of 0; those are as large as they get.
    weight = np.ones((65, k), np.float32)
    weight[:, 1::2] *= -1 if signs == "both" else 1
    weight *= -1 if signs == "below" else 1
    if signs == "random":
        weight = (rng.integers(1, 128, (65, k)) * rng.choice([-1, 1], (65, k))).astype(np.float32)
    weight[:, 0] = np.where(weight[:, 0] < 0, -1, 1) * np.abs(weight).max(axis=1)
    x = np.concatenate([weight[:7] > 0, weight[:7] < 0, np.ones((1, k), bool)]).astype(np.float32) * 255
    x[-1, 0] = 0
    out = np.full((len(x), 65), np.nan, np.float32)
    kernels_of(isa, "int8").linear(x, weight, np.zeros(65, np.float32), out=out)
    exact = int8(x, isa) @ int8_weight(weight, isa).T
    np.testing.assert_allclose(out, exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())

"""Codes of 8 bits with a scale a row, and the products of them in every form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distilrt.kernels import launch, tiles
from distilrt.kernels.layer_norm import layer_norm
from distilrt.kernels.linear import linear
from distilrt.kernels.narrow_linear import norm_linear
from distilrt.kernels.persistent_linear import Relay
from distilrt.kernels.quantize import LARGEST, Quantized, plain_factor, quantize, quantized
from distilrt.kernels.tiles import Chip, LinearTile
from distilrt.model import functional
from tests.kernels.conftest import Close, double, empty, ints

# NaN and infinity times zero, in the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
Normal = Callable[..., torch.Tensor]
CODES = pytest.mark.parametrize("dtype", list(LARGEST), ids=["float8", "int8"])


def empty_codes(rows: int, width: int, dtype: torch.dtype, input_scales: torch.Tensor | None = None) -> Quantized:
    return Quantized(empty(rows, width, dtype=dtype), empty(rows), input_scales)


def untouched(codes: torch.Tensor) -> bool:
    return bool((codes.float() == -77).all() if codes.dtype == torch.int8 else codes.float().isnan().all())


def test_every_number_of_float8_and_the_middles_between_them_round_as_torch_does() -> None:
    """To nearest even, and what is larger than 448 stops there: all of them over a scale of 1."""
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = numbers[numbers.isfinite()].sort().values
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = torch.cat([torch.nextafter(middles, torch.tensor(side)) for side in (-500.0, 500.0)])
    row = torch.cat([numbers, middles, near])[None]
    out = empty_codes(1, row.shape[1], torch.float8_e4m3fn)
    quantize(out, row)
    assert out.scales == 1
    assert torch.equal(out.codes.float(), row.to(torch.float8_e4m3fn).float())


@CODES
@pytest.mark.parametrize("width", [1, 7, 36, 300])
def test_codes_and_scales(width: int, dtype: torch.dtype, normal: Normal) -> None:
    """As torch rounds, in rows of any size; rows that are not real are left alone."""
    x = normal(9, width) * torch.logspace(-20, 20, 9)[:, None]
    x[6:] = float("nan")
    out = empty_codes(9, width, dtype, torch.rand(width) + 0.5)
    quantize(out, x, num_tokens=ints(6))
    assert out.input_scales is not None
    wanted = quantized(x[:6] * out.input_scales, dtype)
    torch.testing.assert_close(out.scales[:6], wanted.scales, rtol=1e-6, atol=0)
    step = 32 if dtype.is_floating_point else 1  # the last bit of a quotient may decide
    off = (out.codes[:6].float() - wanted.codes.float()).abs()
    assert off.max() <= step
    assert (off > 0).float().mean() <= 0.02
    assert out.scales[6:].isnan().all()
    assert untouched(out.codes[6:])


@CODES
def test_extreme_rows(dtype: torch.dtype) -> None:
    """Zeros are exact, what is tiny counts as zero, what is huge does not overflow; NaN and infinity make NaN."""
    huge = 3e38
    x = torch.tensor([[0.0, 0, 0], [1e-42, 0, -1e-40], [huge, -huge, 1], [1, float("nan"), 2], [1, float("inf"), 2]])
    out = empty_codes(5, 3, dtype)
    quantize(out, x)
    for found in (out, quantized(x, dtype)):
        assert (found.codes[:2].float() == 0).all()
        assert found.codes[2].float().tolist() == [LARGEST[dtype], -LARGEST[dtype], 0]
        assert torch.allclose(plain_factor(found)[2, :2], x[2, :2])
        assert found.scales.isnan().tolist() == [False, False, False, True, True]
        weight = quantized(torch.ones(4, 3), dtype)
        product = empty(5, 4, dtype=torch.bfloat16)
        linear(product, found, weight)
        assert product.isnan().all(1).tolist() == [False, False, False, True, True]


@CODES
def test_layer_norm_writes_codes_too(dtype: torch.dtype, normal: Normal) -> None:
    x, residual, gamma, beta = normal(7, 36), normal(7, 36), normal(36), normal(36)
    out, codes = empty(7, 36, dtype=torch.bfloat16), empty_codes(7, 36, dtype, torch.rand(36) + 0.5)
    layer_norm(out, x, gamma, beta, residual, eps=1e-12, codes=codes, num_tokens=ints(5))
    exact = functional.layer_norm(double(x + residual), double(gamma), double(beta))[:5]
    assert codes.input_scales is not None
    rows = exact * double(codes.input_scales)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    share = 2**-4 if dtype.is_floating_point else 0.5 / 127  # of the number itself, or of the largest
    bound = share * np.maximum(np.abs(rows) if dtype.is_floating_point else largest, largest * 2**-6) + 1e-4 * largest
    assert (np.abs(double(plain_factor(codes))[:5] - rows) <= bound).all()
    assert codes.scales[5:].isnan().all()
    assert untouched(codes.codes[5:])
    assert out[5:].isnan().all()


@CODES
@pytest.mark.parametrize("form", ["", "persistent", "stream"])
@pytest.mark.parametrize("activation", ["", "gelu"])
def test_products(form: str, activation: str, dtype: torch.dtype, normal: Normal, assert_close: Close,
                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Ragged ends on all sides, in bfloat16 with bias and residual; rows that are not real hold NaN."""
    tokens, spare, n, k, name = 65, 12, 40, 144, launch.DTYPE_NAMES[dtype]
    tile = LinearTile(32, 16, 32, 4, 2, form)
    monkeypatch.setattr(launch, "stand_in", Chip(90, 5))
    monkeypatch.setitem(tiles.MEASURED, ("linear", 90, name, n, k), {tokens + spare: tile})
    assert tiles.linear_tile(tokens + spare, n, k, name, launch.stand_in) == tile
    x, weight = quantized(normal(tokens + spare, k), dtype), quantized(normal(n, k) * k**-0.5, dtype)
    x.scales[tokens:] = float("nan")
    bias, residual = normal(n), normal(tokens + spare, n, dtype=torch.bfloat16)
    out, relay = empty(tokens + spare, n, dtype=torch.bfloat16), Relay(ints(*[0] * 5), empty(5 * 32 * 16))
    linear(out, x, weight, bias, residual, activation=activation, num_tokens=ints(tokens), relay=relay)
    rows, matrix = plain_factor(x)[:tokens], plain_factor(weight)
    exact, plain = double(rows) @ double(matrix).T + double(bias), rows @ matrix.T + bias
    if activation:
        exact, plain = functional.activation(activation, exact), torch.nn.functional.gelu(plain)
    assert_close(out[:tokens], exact + double(residual[:tokens]), plain.bfloat16() + residual[:tokens])
    assert out[tokens:].isnan().all()
    assert not relay.begun.any()


@pytest.mark.parametrize("segments", [1, 3])
def test_sums_of_int8_are_exact(segments: int, normal: Normal) -> None:
    """At the ends of the range over a depth whose sums float32 could not hold, in parts of the depth too."""
    codes = torch.full((40, 3072), 127, dtype=torch.int8)
    codes[:, ::2] = -127
    codes[:, :1535] = 127
    x, weight = Quantized(codes, torch.ones(40)), Quantized(codes[:24].clone(), torch.ones(24))
    exact = double(codes) @ double(codes[:24]).T
    partials = empty(segments, 40, 24)
    linear(partials, x, weight)
    assert np.abs(double(partials.sum(0)) - exact).max() <= 3  # of 5e7: what float32 holds
    assert (double(partials[0]) == double(torch.from_numpy(exact).float())).all() or segments > 1


@CODES
def test_few_rows_stay_in_16_bits(dtype: torch.dtype, normal: Normal, assert_close: Close) -> None:
    """Codes of the weight are widened, and what a layer norm before leaves behind is not multiplied by input scales."""
    tokens, n, k, bfloat16 = 17, 40, 300, torch.bfloat16
    found = quantized(normal(n, k) * k**-0.5, dtype)
    input_scales = torch.rand(k) + 0.5
    weight, matrix = Quantized(found.codes, found.scales, input_scales), plain_factor(found) * input_scales
    x, bias, residual = normal(tokens, k, dtype=bfloat16), normal(n), normal(tokens, n, dtype=bfloat16)
    out = empty(tokens, n, dtype=bfloat16)
    linear(out, x, weight, bias, residual, num_tokens=ints(tokens - 2))
    exact = double(x) @ double(matrix).T + double(bias) + double(residual)
    plain = torch.nn.functional.linear(x, matrix.bfloat16(), bias.bfloat16()) + residual
    assert_close(out[:-2], exact[:-2], plain[:-2])
    assert out[-2:].isnan().all()

    rows, gamma, beta = normal(tokens, k) * 3 + 1, normal(k), normal(k)
    normed = empty(tokens, k, dtype=bfloat16)
    norm_linear(out, normed, rows, gamma, beta, weight, bias, eps=1e-12, activation="gelu")
    exact = functional.layer_norm(double(rows), double(gamma), double(beta))
    plain = torch.nn.functional.layer_norm(rows, [k], gamma, beta, 1e-12).bfloat16()
    assert_close(normed, exact, plain)
    plain = torch.nn.functional.gelu(torch.nn.functional.linear(plain, matrix.bfloat16(), bias.bfloat16()))
    assert_close(out, functional.activation("gelu", exact @ double(matrix).T + double(bias)), plain)


@CODES
def test_other_rows_do_not_matter(dtype: torch.dtype, normal: Normal) -> None:
    x, weight, results = normal(40, 96), quantized(normal(24, 96), dtype), []
    for others in (x, torch.full_like(x, float("inf"))):
        rows, codes, out = others.clone(), empty_codes(40, 96, dtype), empty(40, 24, dtype=torch.bfloat16)
        rows[3] = x[3]
        quantize(codes, rows)
        linear(out, codes, weight)
        results.append(out[3])
    assert torch.equal(*results)


def test_bad_arguments(normal: Normal) -> None:
    x, weight = quantized(normal(40, 32), torch.int8), quantized(normal(24, 32), torch.float8_e4m3fn)
    out = empty(40, 24, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"x.codes must be contiguous float8_e4m3fn of shape \[any, 32\], found int8"):
        linear(out, x, weight)
    with pytest.raises(ValueError, match="weight must be codes as x is, found a tensor"):
        linear(out, x, normal(24, 32))
    with pytest.raises(ValueError, match="at most 32 rows, found 40"):
        linear(out, normal(40, 32, dtype=torch.bfloat16), weight)
    with pytest.raises(ValueError, match="x must be codes as weight is; make them with quantize"):
        linear(empty(2, 40, 24), normal(40, 32, dtype=torch.bfloat16), weight)
    with pytest.raises(ValueError, match="x must be contiguous bfloat16"):
        linear(out[:8], normal(8, 32), weight)
    with pytest.raises(ValueError, match=r"out.scales must be contiguous float32 of shape \[40\]"):
        quantize(Quantized(x.codes, x.scales[:3]), normal(40, 32))
    with pytest.raises(ValueError, match=r"out.codes must be contiguous float8_e4m3fn or int8 of shape \[40, 32\]"):
        quantize(Quantized(x.codes.float(), x.scales), normal(40, 32))

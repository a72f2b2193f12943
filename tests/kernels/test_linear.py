from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distilrt.kernels import launch, tiles
from distilrt.kernels.linear import linear
from distilrt.model import functional
from distilrt.model.config import ACTIVATIONS
from tests.kernels.conftest import LENGTHS, Array, Close, double, empty, ints

Normal = Callable[..., torch.Tensor]
OF_ALL = (*tiles._CANDIDATES.values(), tiles._FLOAT32, tiles._TF32X3, tiles._TF32X3_OF_GROUPS)
TILES = sorted({tile for tiles_ in OF_ALL for tile in tiles_}, key=repr)
TORCH = {
    "": lambda x: x,
    "gelu": torch.nn.functional.gelu,
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "gelu_new": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def _exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
           activation: str) -> Array:  # fmt: skip
    zero = np.zeros(len(weight))
    out = functional.linear(double(x), double(weight), zero if bias is None else double(bias))
    if activation:
        out = functional.activation(activation, out)
    return out if residual is None else out + double(residual)


def _plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
           activation: str) -> torch.Tensor:  # fmt: skip
    out: torch.Tensor = TORCH[activation](torch.nn.functional.linear(x, weight, bias))  # type: ignore[no-untyped-call]
    return out if residual is None else out + residual


def _check(normal: Normal, assert_close: Close, dtype: torch.dtype, tokens: int, n: int, k: int, *,
           activation: str = "", with_bias: bool = True, with_residual: bool = False,
           spare: int = 0) -> None:  # fmt: skip
    """One product of which `spare` rows more than `tokens` are there but not real."""
    x, weight = normal(tokens + spare, k, dtype=dtype), normal(n, k, dtype=dtype) * k**-0.5
    bias = normal(n, dtype=dtype) if with_bias else None
    residual = normal(tokens + spare, n, dtype=dtype) if with_residual else None
    if spare:
        x[tokens:] = float("nan")
    out = empty(tokens + spare, n, dtype=dtype)
    linear(out, x, weight, bias, residual, activation=activation, num_tokens=ints(tokens) if spare else None)
    real = None if residual is None else residual[:tokens]
    assert_close(out[:tokens], _exact(x[:tokens], weight, bias, real, activation),
                 _plain(x[:tokens], weight, bias, real, activation))  # fmt: skip
    assert out[tokens:].isnan().all()


@pytest.mark.parametrize("tokens", LENGTHS)
def test_lengths(tokens: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    _check(normal, assert_close, dtype, tokens, 40, 72)


@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("tokens", [9, 70])
def test_epilogues(
    tokens: int, activation: str, with_residual: bool, normal: Normal, assert_close: Close, dtype: torch.dtype
) -> None:
    _check(normal, assert_close, dtype, tokens, 48, 64, activation=activation, with_residual=with_residual)


@pytest.mark.parametrize(("n", "k"), [(1, 16), (2, 768), (3, 33), (130, 48), (300, 200)])
@pytest.mark.parametrize("tokens", [5, 40])
def test_odd_widths(n: int, k: int, tokens: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    _check(normal, assert_close, dtype, tokens, n, k)


@pytest.mark.parametrize("tokens", [1, 17, 100, 130])
def test_rows_that_are_not_real_are_left_alone(
    tokens: int, normal: Normal, assert_close: Close, dtype: torch.dtype
) -> None:
    _check(normal, assert_close, dtype, tokens, 40, 64, with_bias=False, with_residual=True, spare=200)


@pytest.mark.parametrize("tile", TILES, ids=repr)
def test_every_tile(
    tile: tiles.LinearTile, normal: Normal, assert_close: Close, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More row blocks than one group has, and ragged ends on all sides."""
    tokens = tile.block_m * (tiles.GROUP_M + 1) + 3
    n, k = tile.block_n + 8, tile.block_k + 8
    monkeypatch.setitem(tiles.MEASURED, ("linear", launch.stand_in.capability, "float32", n, k), {tokens: tile})
    assert tiles.linear_tile(tokens, n, k, "float32", launch.stand_in) == tile
    _check(normal, assert_close, torch.float32, tokens, n, k, activation="gelu", with_residual=True)


@pytest.mark.parametrize("segments", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [64, 200, 384])
def test_split(segments: int, k: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    tokens, n = 67, 40
    x, weight = normal(tokens + 9, k, dtype=dtype), normal(n, k, dtype=dtype) * k**-0.5
    partials = empty(segments, tokens + 9, n)
    linear(partials, x, weight, num_tokens=ints(tokens))
    assert_close(partials[:, :tokens].sum(0), _exact(x[:tokens], weight, None, None, ""),
                 _plain(x[:tokens], weight, None, None, "").float() if dtype == torch.float32 else
                 _plain(x[:tokens], weight, None, None, ""))  # fmt: skip
    assert partials[:, tokens:].isnan().all()


def test_float32_result_of_half_inputs(normal: Normal) -> None:
    for tokens in (7, 70):
        x, weight = normal(tokens, 64, dtype=torch.bfloat16), normal(24, 64, dtype=torch.bfloat16) / 8
        out = empty(tokens, 24)
        linear(out, x, weight)
        assert np.abs(double(out) - double(x) @ double(weight).T).max() < 1e-5


@pytest.mark.parametrize("tokens", [16, 64])
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float16, "ieee"), (torch.bfloat16, "ieee"), *((torch.float32, name) for name in launch.PRECISIONS)],
    ids=str,
)
def test_other_rows_do_not_matter(tokens: int, dtype: torch.dtype, precision: str, normal: Normal) -> None:
    x, weight, bias = normal(tokens, 96, dtype=dtype), normal(40, 96, dtype=dtype), normal(40)
    first, second = empty(tokens, 40, dtype=dtype), empty(tokens, 40, dtype=dtype)
    linear(first, x, weight, bias, activation="gelu", precision=precision)
    others = x.clone()
    others[:3], others[4:] = float("inf"), normal(tokens - 4, 96, dtype=dtype)
    linear(second, others, weight, bias, activation="gelu", precision=precision)
    assert torch.equal(first[3], second[3])


@pytest.mark.parametrize("tokens", [3, 70])
def test_tf32(tokens: int, normal: Normal) -> None:
    """Whatever an implementation of it keeps beyond 10 digits: each product within 2^-9 of its size, in both forms."""
    x, weight = normal(tokens, 96), normal(40, 96) * 96**-0.5
    bound = (np.abs(double(x)) @ np.abs(double(weight)).T) * (2**-9 + 96 * 2**-23)
    out, partials = empty(tokens, 40), empty(2, tokens, 40)
    linear(out, x, weight, precision="tf32")
    linear(partials, x, weight, precision="tf32")
    for found in (out, partials.sum(0)):
        assert (np.abs(double(found) - double(x) @ double(weight).T) <= bound).all()


def test_inputs_are_left_alone(normal: Normal) -> None:
    inputs = [normal(40, 64), normal(24, 64), normal(24), normal(40, 24)]
    before = [tensor.clone() for tensor in inputs]
    linear(empty(40, 24), *inputs)
    assert all(torch.equal(old, new) for old, new in zip(before, inputs, strict=True))


def test_no_rows() -> None:
    linear(torch.empty(0, 8), torch.empty(0, 16), torch.empty(8, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.empty(4, 15)}, r"weight must be contiguous float32 of shape \[any, 15\], found .* \[8, 16\]"),
        ({"out": torch.empty(4, 9)}, r"out must be .* \[4, 8\], found float32 of shape \[4, 9\]"),
        ({"weight": torch.empty(16, 8).T}, "weight must be contiguous .* not contiguous"),
        ({"weight": torch.empty(8, 16).half()}, "weight must be contiguous float32 .* found float16"),
        ({"x": torch.empty(4, 16).double()}, "x must be contiguous float32 or float16 or bfloat16"),
        ({"bias": torch.empty(7)}, r"bias must be .* \[8\]"),
        ({"residual": torch.empty(4, 7)}, r"residual must be .* \[4, 8\]"),
        ({"num_tokens": torch.zeros(1)}, "num_tokens must be contiguous int32"),
        ({"activation": "sigmoid"}, "activation must be one of '', 'gelu', .* found 'sigmoid'"),
    ],
)
def test_bad_arguments(changes: dict[str, torch.Tensor | str], message: str) -> None:
    good = {"out": torch.empty(4, 8), "x": torch.empty(4, 16), "weight": torch.empty(8, 16)}
    with pytest.raises(ValueError, match=message):
        linear(**{**good, **changes})  # type: ignore[arg-type]

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from distilrt.kernels import launch, tiles
from distilrt.kernels.layer_norm import layer_norm
from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS
from tests.kernels.conftest import LENGTHS, Close, double, empty, ints

Normal = Callable[..., torch.Tensor]


@pytest.mark.parametrize("tokens", [*LENGTHS[:4], 150])
def test_layer_norm(tokens: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    x, gamma, beta = normal(tokens, 48, dtype=dtype) * 3 + 1, normal(48, dtype=dtype), normal(48, dtype=dtype)
    out = empty(tokens, 48, dtype=dtype)
    layer_norm(out, x, gamma, beta, eps=LAYER_NORM_EPS)
    exact = functional.layer_norm(double(x), double(gamma), double(beta))
    assert_close(out, exact, torch.nn.functional.layer_norm(x, [48], gamma, beta, LAYER_NORM_EPS))


@pytest.mark.parametrize("width", [1, 16, 100, 256, 768, 1025])
@pytest.mark.parametrize("segments", [0, 1, 3, 4])
def test_partial_sums_bias_and_residual(
    width: int, segments: int, normal: Normal, assert_close: Close, dtype: torch.dtype
) -> None:
    tokens, spare = 5, 4
    shape = (segments, tokens + spare, width) if segments else (tokens + spare, width)
    x = normal(*shape, dtype=torch.float32 if segments else dtype)
    residual, gamma, beta = normal(tokens + spare, width, dtype=dtype), normal(width), normal(width)
    bias = normal(width)
    out = empty(tokens + spare, width, dtype=dtype)
    layer_norm(out, x, gamma, beta, residual, bias, eps=LAYER_NORM_EPS, num_tokens=ints(tokens))
    parts = double(x) if segments else double(x)[None]
    total = (parts.sum(0) + double(bias) + double(residual))[:tokens]
    exact = functional.layer_norm(total, double(gamma), double(beta))
    plain = (x.sum(0) if segments else x).to(dtype) + bias.to(dtype) + residual
    plain = torch.nn.functional.layer_norm(plain[:tokens], [width], gamma.to(dtype), beta.to(dtype), LAYER_NORM_EPS)
    if width > 1:  # of one number nothing is left but beta
        assert_close(out[:tokens], exact, plain)
    else:
        assert torch.allclose(out[:tokens].float(), beta.to(dtype).float())
    assert out[tokens:].isnan().all()


def test_large_mean_and_small_spread(normal: Normal, assert_close: Close) -> None:
    x, gamma, beta = normal(70, 96) * 1e-2 + 1000, normal(96), normal(96)
    out = empty(70, 96)
    layer_norm(out, x, gamma, beta, eps=LAYER_NORM_EPS)
    exact = functional.layer_norm(double(x), double(gamma), double(beta))
    assert_close(out, exact, torch.nn.functional.layer_norm(x, [96], gamma, beta, LAYER_NORM_EPS))


def test_out_may_be_the_residual_or_x(normal: Normal, dtype: torch.dtype) -> None:
    x, residual, gamma, beta = normal(9, 48, dtype=dtype), normal(9, 48, dtype=dtype), normal(48), normal(48)
    fresh = empty(9, 48, dtype=dtype)
    layer_norm(fresh, x, gamma, beta, residual, eps=LAYER_NORM_EPS)
    layer_norm(residual, x, gamma, beta, residual, eps=LAYER_NORM_EPS)
    assert torch.equal(fresh, residual)
    layer_norm(fresh, x, gamma, beta, eps=LAYER_NORM_EPS)
    layer_norm(x, x, gamma, beta, eps=LAYER_NORM_EPS)
    assert torch.equal(fresh, x)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_more_rows_than_programs(
    tokens: int, normal: Normal, assert_close: Close, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "stand_in", tiles.Chip(90, 1))
    x, gamma, beta = normal(tokens, 16), normal(16), normal(16)
    out = empty(tokens, 16)
    layer_norm(out, x, gamma, beta, eps=LAYER_NORM_EPS)
    exact = functional.layer_norm(double(x), double(gamma), double(beta))
    assert_close(out, exact, torch.nn.functional.layer_norm(x, [16], gamma, beta, LAYER_NORM_EPS))


def test_nan_stays_in_its_row(normal: Normal) -> None:
    x = normal(3, 48)
    x[1, 7] = float("nan")
    out = torch.zeros(3, 48)
    layer_norm(out, x, torch.ones(48), torch.zeros(48), eps=LAYER_NORM_EPS)
    assert out[1].isnan().all()
    assert not out[[0, 2]].isnan().any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.empty(4, 7)}, r"x must be .* \[4, 8\], found float32 of shape \[4, 7\]"),
        ({"x": torch.empty(2, 3, 8)}, r"x must be .* \[any, 4, 8\]"),
        ({"residual": torch.empty(4, 7)}, r"residual must be .* \[4, 8\]"),
        ({"gamma": torch.empty(7)}, r"gamma must be .* \[8\]"),
        ({"bias": torch.empty(9)}, r"bias must be .* \[8\]"),
        ({"out": torch.empty(8, 4).T}, "out must be contiguous .* not contiguous"),
    ],
)
def test_bad_arguments(changes: dict[str, torch.Tensor], message: str) -> None:
    good = {"out": torch.empty(4, 8), "x": torch.empty(4, 8), "residual": None, "gamma": torch.empty(8),
            "beta": torch.empty(8)}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        layer_norm(**{**good, **changes}, eps=LAYER_NORM_EPS)  # type: ignore[arg-type]

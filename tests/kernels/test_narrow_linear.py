from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distilrt.kernels import launch, tiles
from distilrt.kernels.linear import linear
from distilrt.kernels.narrow_linear import norm_linear
from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS
from tests.kernels.conftest import Close, double, empty, ints

Normal = Callable[..., torch.Tensor]
HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 31, 32])
def test_norm_linear(tokens: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    n, k, spare = 40, 300, tiles.NARROW_ROWS - tokens
    x, gamma, beta = normal(tokens + spare, k) * 3 + 1, normal(k), normal(k)
    weight, bias = normal(n, k, dtype=dtype) * k**-0.5, normal(n)
    x[tokens:] = float("nan")
    out, normed = empty(tokens + spare, n, dtype=dtype), empty(tokens + spare, k, dtype=dtype)
    norm_linear(
        out, normed, x, gamma, beta, weight, bias, eps=LAYER_NORM_EPS, activation="gelu", num_tokens=ints(tokens)
    )

    exact = functional.layer_norm(double(x[:tokens]), double(gamma), double(beta))
    plain = torch.nn.functional.layer_norm(x[:tokens], [k], gamma, beta, LAYER_NORM_EPS).to(dtype)
    assert_close(normed[:tokens], exact, plain)
    exact = functional.activation("gelu", functional.linear(double(normed[:tokens]), double(weight), double(bias)))
    plain = torch.nn.functional.gelu(torch.nn.functional.linear(normed[:tokens], weight, bias.to(dtype)))
    assert_close(out[:tokens], exact, plain)
    assert out[tokens:].isnan().all()
    assert normed[tokens:].isnan().all()


@pytest.mark.parametrize(("n", "block_n"), [(24, 8), (50, 16), (120, 32), (200, 64)])
def test_every_tile(n: int, block_n: int, normal: Normal, assert_close: Close, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "stand_in", tiles.Chip(90, 2))
    assert tiles.narrow_tile(16, n, 64, launch.stand_in).block_n == block_n
    for tokens in (16, 32):
        x, weight = normal(tokens, 64, dtype=torch.float16), normal(n, 64, dtype=torch.float16) / 8
        out = empty(tokens, n, dtype=torch.float16)
        linear(out, x, weight)
        assert_close(out, double(x) @ double(weight).T, x @ weight.T)


@pytest.mark.parametrize("k", [16, 256, 257, 768])
def test_depths(k: int, normal: Normal, assert_close: Close) -> None:
    x, weight = normal(5, k, dtype=torch.bfloat16), normal(9, k, dtype=torch.bfloat16) * k**-0.5
    out = empty(5, 9, dtype=torch.bfloat16)
    linear(out, x, weight)
    assert_close(out, double(x) @ double(weight).T, x @ weight.T)


def test_other_rows_do_not_matter(normal: Normal) -> None:
    x, gamma, beta = normal(16, 96), normal(96), normal(96)
    weight = normal(24, 96, dtype=torch.float16)
    results = []
    for others in (x, torch.full_like(x, float("inf"))):
        rows = others.clone()
        rows[3] = x[3]
        out, normed = empty(16, 24, dtype=torch.float16), empty(16, 96, dtype=torch.float16)
        norm_linear(out, normed, rows, gamma, beta, weight, eps=LAYER_NORM_EPS)
        results.append((out[3], normed[3]))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_residual_of_large_mean_and_small_spread(normal: Normal) -> None:
    """Two passes over the row keep the digits that a sum of squares would lose."""
    x = normal(4, 128) * 1e-3 + 100
    out, normed = empty(4, 8, dtype=torch.float16), empty(4, 128, dtype=torch.float16)
    norm_linear(out, normed, x, torch.ones(128), torch.zeros(128), torch.zeros(8, 128, dtype=torch.float16),
                eps=LAYER_NORM_EPS)  # fmt: skip
    exact = functional.layer_norm(double(x), np.ones(128), np.zeros(128))
    assert np.abs(double(normed) - exact).max() < 0.02  # x itself has steps of 7.6e-6, 1 % of the spread
    assert (double(out) == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.empty(8, 16)}, "weight must be contiguous float16 or bfloat16"),
        ({"x": torch.empty(4, 15)}, r"x must be .* \[any, 16\]"),
        ({"normed": torch.empty(4, 16)}, "normed must be contiguous float16"),
        ({"gamma": torch.empty(15)}, r"gamma must be .* \[16\]"),
        ({"out": torch.empty(4, 9).half()}, r"out must be .* \[4, 8\]"),
        (
            {"x": torch.empty(33, 16), "normed": torch.empty(33, 16).half(), "out": torch.empty(33, 8).half()},
            "at most 32 rows, found 33; use linear",
        ),
    ],
)
def test_bad_arguments(changes: dict[str, torch.Tensor], message: str) -> None:
    good = {"out": torch.empty(4, 8).half(), "normed": torch.empty(4, 16).half(), "x": torch.empty(4, 16),
            "gamma": torch.empty(16), "beta": torch.empty(16), "weight": torch.empty(8, 16).half()}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        norm_linear(**{**good, **changes}, eps=LAYER_NORM_EPS)  # type: ignore[arg-type]

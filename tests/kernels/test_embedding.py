from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from distilrt.kernels.embedding import embed
from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS
from tests.kernels.conftest import LENGTHS, Close, double, empty, ints

Normal = Callable[..., torch.Tensor]


def _ids(rng: np.random.Generator, count: int, below: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, below, count)).to(torch.int32)


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("tokens", [*LENGTHS[:4], 150])
def test_embed(
    tokens: int, by_id: bool, normal: Normal, rng: np.random.Generator, assert_close: Close, dtype: torch.dtype
) -> None:
    spare, width = 3, 48
    words, positions = normal(101, width, dtype=dtype), normal(600, width, dtype=dtype)
    gamma, beta = normal(width), normal(width)
    ids, places = _ids(rng, tokens + spare, 101), _ids(rng, tokens + spare, 600)
    embeds = words[ids.long()]
    out = empty(tokens + spare, width, dtype=dtype)
    embed(out, ids if by_id else embeds, places, words, positions, gamma, beta, eps=LAYER_NORM_EPS,
          num_tokens=ints(tokens))  # fmt: skip

    sums = (embeds.double() + positions[places.long()].double())[:tokens]
    exact = functional.layer_norm(double(sums), double(gamma), double(beta))
    plain = (embeds + positions[places.long()])[:tokens]
    plain = torch.nn.functional.layer_norm(plain, [width], gamma.to(dtype), beta.to(dtype), LAYER_NORM_EPS)
    assert_close(out[:tokens], exact, plain)
    assert out[tokens:].isnan().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": torch.empty(4, dtype=torch.int64)}, r"tokens must be contiguous int32 of shape \[4\], found int64"),
        ({"tokens": torch.empty(4, 7)}, r"tokens must be .* \[4, 8\]"),
        ({"position_ids": ints(1, 2)}, r"position_ids must be contiguous int32 of shape \[4\]"),
        ({"words": torch.empty(9, 7)}, r"words must be .* \[any, 8\]"),
        ({"positions": torch.empty(9, 7)}, r"positions must be .* \[any, 8\]"),
        ({"beta": torch.empty(7)}, r"beta must be .* \[8\]"),
    ],
)
def test_bad_arguments(changes: dict[str, torch.Tensor], message: str) -> None:
    good = {"out": torch.empty(4, 8), "tokens": ints(0, 1, 2, 3), "position_ids": ints(0, 1, 2, 3),
            "words": torch.empty(9, 8), "positions": torch.empty(9, 8), "gamma": torch.empty(8),
            "beta": torch.empty(8)}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        embed(**{**good, **changes}, eps=LAYER_NORM_EPS)  # type: ignore[arg-type]

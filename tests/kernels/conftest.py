"""Fixtures of the kernels' tests, which run in Triton's interpreter, and the one tolerance rule."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton loads; the root conftest has done so for the whole suite

import numpy as np
import numpy.typing as npt
import pytest
import torch

Array = npt.NDArray[Any]
Close = Callable[[torch.Tensor, Array, torch.Tensor], None]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LENGTHS = (1, 2, 63, 64, 65, 127, 511, 512)


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """A dtype that kernels compute in."""
    assert isinstance(request.param, torch.dtype)
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()  # fresh numbers every run: the bound must hold for all of them


@pytest.fixture
def normal(rng: np.random.Generator) -> Callable[..., torch.Tensor]:
    """Makes a tensor of normal numbers, float32 or rounded to `dtype`."""

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).to(dtype)

    return make


@pytest.fixture
def assert_close() -> Close:
    """`actual` may be twice as far from the float64 `exact` as torch's `plain` computation in its dtype is.

    Both in the root mean square and in the largest difference; torch's may be small by luck where numbers are few. So
    half an ulp of the largest result, which the best possible result may be off, comes on top, and as much again of the
    largest difference (float32, where sums matter more than the rounding of the result: 2 and 8 ulp).
    """

    def check(actual: torch.Tensor, exact: Array, plain: torch.Tensor) -> None:
        assert tuple(actual.shape) == exact.shape == tuple(plain.shape)
        ulp = torch.finfo(plain.dtype).eps * np.abs(exact).max(initial=0)
        floors = (2, 8) if plain.dtype == torch.float32 else (0.5, 1)
        for name, size, floor in (("rms", _rms, floors[0]), ("max", _largest, floors[1])):
            error, bound = size(_float64(actual) - exact), 2 * size(_float64(plain) - exact) + floor * ulp
            assert error <= bound, f"{name} difference from the exact result {error:.3g}, allowed {bound:.3g}"

    return check


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A buffer of NaN, so that what is not written is seen; integers start as -77."""
    return torch.full(shape, float("nan") if dtype.is_floating_point else -77, dtype=dtype)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def double(tensor: torch.Tensor) -> Array:
    """The exact values as NumPy float64."""
    return _float64(tensor)


def _float64(tensor: torch.Tensor) -> Array:
    array: Array = tensor.double().numpy()
    return array


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def _largest(x: Array) -> float:
    return float(np.abs(x).max(initial=0))

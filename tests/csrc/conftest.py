"""Fixtures of the native ops' tests: every instruction set that this machine can run, and the one tolerance rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from distilrt import _C

Array = npt.NDArray[Any]


@pytest.fixture(params=_C.available_isas())
def kernels(request: pytest.FixtureRequest) -> _C.Kernels:
    """The native ops compiled for one instruction set."""
    return _C.Kernels(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()  # fresh numbers every run: the bound must hold for all of them


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """`actual` may be twice as far from the float64 `exact` as a plain float32 computation is.

    Both in the root mean square and in the largest difference; the largest of few numbers is a matter of luck, so it
    gets 8 ulp of the largest result on top (2 for the mean, for results of one or two numbers). Where terms may cancel,
    `largest_term` says how large they were: their ulp is what counts then, not that of the little which is left.
    """

    def check(actual: Array, exact: Array, plain: Array, largest_term: float = 0) -> None:
        assert actual.shape == exact.shape
        ulp = np.finfo(np.float32).eps * max(np.abs(exact).max(), largest_term)
        for name, size, floor in (("rms", _rms, 2), ("max", _largest, 8)):
            error, bound = size(actual - exact), 2 * size(plain - exact) + floor * ulp
            assert error <= bound, f"{name} difference from the exact result {error:.3g}, allowed {bound:.3g}"

    return check


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def _largest(x: Array) -> float:
    return float(np.abs(x).max())

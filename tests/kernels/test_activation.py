"""The epilogue's functions, one program over a range of numbers, against the reference in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import triton
import triton.language as tl

from distilrt.kernels import activation
from distilrt.model import functional
from distilrt.model.config import ACTIVATIONS


@triton.jit  # type: ignore[untyped-decorator]
def _apply_kernel(out_ptr, x_ptr, size: tl.constexpr, name: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.arange(0, size)
    tl.store(out_ptr + offsets, activation.activate(tl.load(x_ptr + offsets), name))


def _apply(x: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    size = triton.next_power_of_2(len(x))
    values, out = torch.zeros(size), torch.full((size,), float("nan"))
    values[: len(x)] = torch.from_numpy(x)
    _apply_kernel[(1,)](out, values, size=size, name=name)
    result: npt.NDArray[np.float32] = out[: len(x)].numpy()
    return result


def test_the_config_and_the_kernels_have_the_same_activations() -> None:
    assert set(activation.ACTIVATIONS) == {"", "tanh", *ACTIVATIONS}  # a pooler has tanh, and no config


@pytest.mark.parametrize("name", [*ACTIVATIONS, "tanh"])
def test_activation(name: str) -> None:
    x = np.linspace(-30, 30, 60001, dtype=np.float32)
    exact = functional.activation(name, x.astype(np.float64))
    bound = 1e-6 * np.maximum(1, np.abs(exact))
    assert (np.abs(_apply(x, name) - exact) <= bound).all()


def test_gelu_is_the_exact_form() -> None:
    x = np.linspace(-7, 7, 200001, dtype=np.float32)
    exact = functional.activation("gelu", x.astype(np.float64))
    error = np.abs(_apply(x, "gelu") - exact) / np.maximum(1, np.abs(exact))
    assert error.max() < 1.5e-7  # 9e-8 of the fit, and half an ulp of the result
    assert np.abs(functional.activation("gelu_new", x.astype(np.float64)) - exact).max() > 1e-4


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_infinity_and_nan(name: str) -> None:
    found = _apply(np.array([np.inf, np.nan, 3e38, -3e38], np.float32), name)
    assert found[0] == np.inf
    assert np.isnan(found[1])
    assert found[2] == np.float32(3e38)
    assert abs(found[3]) < 1e-8


def test_none_is_the_identity() -> None:
    x = np.array([1.5, -2.0], np.float32)
    assert (_apply(x, "") == x).all()

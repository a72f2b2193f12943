"""What all forms of a linear layer's product have in common: its start, what becomes of its sums, and references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
import triton
import triton.language as tl

from distilrt.kernels.activation import activate, plain_activation
from distilrt.kernels.launch import allow_next, await_previous, prefetch_rows
from distilrt.kernels.op import double
from distilrt.kernels.quantize import Factor, plain_factor
from distilrt.model import functional


@dataclass(frozen=True, slots=True)
class Product:
    """A product as `linear.linear` has checked it, of which codes and their scales are apart."""

    out: torch.Tensor  # [T, N], or [segments, T, N] for more than one segment of the depth
    x: torch.Tensor  # [T, K]
    weight: torch.Tensor  # [N, K]
    scales: tuple[torch.Tensor, torch.Tensor] | tuple[None, None]  # [T] of the rows and [N] of the columns
    bias: torch.Tensor | None  # [N]
    residual: torch.Tensor | None  # [T, N]
    num_tokens: torch.Tensor | None  # [1]
    segments: int
    activation: str
    pdl: bool


@triton.jit
def start(
    weight_ptr, row0, N: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, ASK: tl.constexpr, PDL: tl.constexpr
):
    """`launch.begin`, if `ASK` with BLOCK rows of the weight on their way to L2 while the kernel before ends."""
    allow_next(PDL)
    prefetch_rows(weight_ptr, row0, N, K, BLOCK, ASK and PDL)
    await_previous(PDL)


@triton.jit
def finished(
    sums,  # [BLOCK_M, BLOCK_N] float32, or int32 of codes
    row_scales_ptr,  # [rows] float32 or None
    column_scales_ptr,  # [N] float32 or None
    bias_ptr,  # [N] or None
    residual_ptr,  # or None
    rows,  # [BLOCK_M], of which those below num_rows are real
    cols,  # [BLOCK_N]
    where,  # [BLOCK_M, BLOCK_N]: of the residual
    inside,  # [BLOCK_M, BLOCK_N]
    num_rows,
    N: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """`activation(sums * scales + bias) + residual` in float32, without what is None."""
    if column_scales_ptr is not None:
        sums = sums.to(tl.float32) * tl.load(column_scales_ptr + cols, cols < N, other=0.0)[None, :]
    if row_scales_ptr is not None:
        sums *= tl.load(row_scales_ptr + rows, rows < num_rows, other=0.0)[:, None]
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + cols, cols < N, other=0.0).to(tl.float32)[None, :]
    sums = activate(sums, ACTIVATION)
    if residual_ptr is not None:
        sums += tl.load(residual_ptr + where, inside, other=0.0).to(tl.float32)
    return sums


def exact_product(x: npt.NDArray[Any], weight: Factor, bias: torch.Tensor, activation: str = "") -> Any:
    """`activation(x @ weight.T + bias)` in float64."""
    y = functional.linear(x, double(plain_factor(weight)), double(bias))
    return functional.activation(activation, y) if activation else y


def plain_product(x: torch.Tensor, weight: Factor, bias: torch.Tensor, dtype: torch.dtype, activation: str = "") -> Any:
    """The same by torch: the product in the dtype of x, its activation in `dtype`."""
    y = torch.nn.functional.linear(x, plain_factor(weight).to(x.dtype), bias.to(x.dtype)).to(dtype)
    return plain_activation(activation, y)

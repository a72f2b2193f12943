"""Rows in codes of 8 bits: `codes = round(x / scale)` with one scale a row, `scale = max|x| / largest code`.

Products multiply the codes on tensor cores and put the scales of rows and columns on the sums. A code is a number of
E4M3, up to 448 (Micikevicius et al. 2022, arXiv:2209.05433), or a whole number up to 127; what is larger stops there. A
row never depends on others. One with NaN or infinity gets NaN for its scale, so that all its products are NaN.

Bytes moved: x once, half as many of codes. Reference: `quantized`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
import triton
import triton.language as tl

from distilrt.kernels import tiles
from distilrt.kernels.launch import (
    FLOATS,
    begin,
    check,
    check_count,
    check_given,
    chip_of,
    count_rows,
    launch_options,
    rounded,
)
from distilrt.kernels.op import Arguments, Arrays, Example, Op, OpOutput, Sizes, double, given, nbytes
from distilrt.model.config import DistilBertConfig

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
_LEAST = 1e-30  # Rows of smaller numbers count as zero, for the reciprocal of their scale would overflow.


@dataclass(frozen=True, slots=True)
class Quantized:
    """The matrix `codes * scales[:, None]`. Of rows, these are multiplied by `input_scales` already; a weight is for
    such rows."""

    codes: torch.Tensor  # [n, k] float8_e4m3fn or int8
    scales: torch.Tensor  # [n] float32
    input_scales: torch.Tensor | None = None  # [k] float32

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def check(self, name: str, rows: int | None, width: int | None, dtype: torch.dtype | None = None) -> None:
        """Raise ValueError unless codes are `[rows, width]` (None: any size, any dtype of codes) and scales fit."""
        check(f"{name}.codes", self.codes, [rows, width], list(LARGEST) if dtype is None else [dtype])
        check(f"{name}.scales", self.scales, [len(self.codes)], [torch.float32])
        check_given(f"{name}.input_scales", self.input_scales, [self.codes.shape[1]], [torch.float32])


Factor = torch.Tensor | Quantized  # of a product


def pointers(factor: Factor | None) -> tuple[torch.Tensor | None, ...]:
    """Numbers or codes, scales and input scales, as kernels take them."""
    if isinstance(factor, Quantized):
        return factor.codes, factor.scales, factor.input_scales
    return factor, None, None


def row_dtype(weight: Factor) -> torch.dtype:
    """The dtype in which rows for a weight are where they are no codes."""
    return torch.bfloat16 if isinstance(weight, Quantized) else weight.dtype


@triton.jit
def store_codes(codes_ptr, scales_ptr, input_scales_ptr, x, row, cols, inside, WIDTH: tl.constexpr):
    """Write the codes and the scale of one row `x` `[BLOCK]` float32 of which `inside` are real; nothing without a
    pointer to codes."""
    if codes_ptr is not None:
        LARGEST: tl.constexpr = 127.0 if codes_ptr.dtype.element_ty == tl.int8 else 448.0
        if input_scales_ptr is not None:
            x *= tl.load(input_scales_ptr + cols, inside, other=0.0)
        # The bits of sizes, taken for integers, are in the order of the sizes, with NaN above all of them.
        sizes = tl.where(inside, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0)
        largest = tl.maximum(tl.max(sizes), 0x0DA24260).to(tl.float32, bitcast=True)  # _LEAST at least
        finite = largest < float("inf")
        codes = rounded(tl.where(finite, x * (LARGEST / largest), 0.0), codes_ptr.dtype.element_ty)
        tl.store(codes_ptr + tl.cast(row, tl.int64) * WIDTH + cols, codes, inside)
        tl.store(scales_ptr + row, tl.where(finite, largest * (1 / LARGEST), float("nan")))


@triton.jit(do_not_specialize=["num_tokens_ptr", "max_tokens"])
def _quantize_kernel(
    codes_ptr,  # [max_tokens, WIDTH]
    scales_ptr,  # [max_tokens]
    input_scales_ptr,  # [WIDTH] or None
    x_ptr,  # [max_tokens, WIDTH]
    num_tokens_ptr,  # [1] or None
    max_tokens,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    cols = tl.arange(0, BLOCK)
    inside = cols < WIDTH
    begin(PDL)
    num_tokens = count_rows(num_tokens_ptr, max_tokens)
    for row in range(tl.program_id(0), num_tokens, tl.num_programs(0)):
        x = tl.load(x_ptr + tl.cast(row, tl.int64) * WIDTH + cols, inside, other=0.0).to(tl.float32)
        store_codes(codes_ptr, scales_ptr, input_scales_ptr, x, row, cols, inside, WIDTH)


def quantize(
    out: Quantized,
    x: torch.Tensor,
    *,
    num_tokens: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """Codes and scales of the first `num_tokens` rows of `x * out.input_scales`; others are left as they are.

    Args:
        out: codes `[T, K]` and scales `[T]`, which are written, and the input scales of the weight to be multiplied.
        x: `[T, K]` float32, float16 or bfloat16.
        num_tokens: `[1]` int32 on the device; None: all T rows.
        pdl: start before the kernel before has finished (`launch.begin`).

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    check("x", x, [None, None], FLOATS)
    max_tokens, width = x.shape
    out.check("out", max_tokens, width)
    check_count(num_tokens)
    if not max_tokens:
        return
    tile = tiles.row_tile(max_tokens, width, chip_of(x))
    _quantize_kernel[(tile.programs,)](
        *pointers(out), x, num_tokens, max_tokens,
        WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=tile.num_warps, maxnreg=tiles.ROW_REGISTERS,
        **launch_options(pdl),
    )  # fmt: skip


def plain_factor(factor: Factor) -> torch.Tensor:
    """A factor as torch multiplies it: codes as the float32 numbers that they stand for."""
    return factor if isinstance(factor, torch.Tensor) else factor.codes.float() * factor.scales[:, None]


def as_factors(a: Arrays, weights: torch.Tensor) -> list[Factor]:
    """Weights `[copies, n, k]` of an example as products take them."""
    return [weight if a.codes is None else quantized(weight, getattr(torch, a.codes)) for weight in weights]


def quantized(x: torch.Tensor, dtype: torch.dtype) -> Quantized:
    """torch's way to the same codes and scales, for weights `[n, k]` and as a reference; NaN as above."""
    x = x.float()
    largest = x.abs().amax(1).clamp(min=_LEAST)
    finite = largest.isfinite()
    codes = torch.where(finite[:, None], x * (LARGEST[dtype] / largest)[:, None], 0)
    codes = codes.clamp(-LARGEST[dtype], LARGEST[dtype])
    scales = torch.where(finite, largest / LARGEST[dtype], torch.nan)
    return Quantized((codes if dtype.is_floating_point else codes.round()).to(dtype), scales)


def empty_codes(a: Arrays, rows: int, width: int) -> Quantized | None:
    """What a row-wise op of an example writes codes to; None where the dtype has none."""
    if a.codes is None:
        return None
    codes = a.empty(rows, width, dtype=getattr(torch, a.codes))
    return Quantized(codes, a.empty(rows, dtype=torch.float32), a.vector(width))


def coded(out: Quantized | None, exact: Callable[[], npt.NDArray[Any]]) -> dict[str, OpOutput]:
    """The outputs of such an op beside its rows, by these rows in float64: a code may be off by the largest step."""
    if out is None:
        return {}

    def wanted() -> Quantized:
        x = torch.from_numpy(exact()).to(out.codes.device, torch.float32)
        return quantized(x * (1 if out.input_scales is None else out.input_scales), out.codes.dtype)

    step = 32.0 if out.codes.dtype.is_floating_point else 1.0
    return {
        "codes": OpOutput(out.codes, lambda: double(wanted().codes), bound=lambda: step),
        "scales": OpOutput(
            out.scales, lambda: double(wanted().scales), bound=lambda: 1e-5 * float(wanted().scales.max())
        ),
    }


def _example(a: Arrays, tokens: int, width: int, spare: int = 0) -> Example:
    x, count, out = a.random(tokens + spare, width), a.ints(tokens), empty_codes(a, tokens + spare, width)
    assert out is not None
    return Example(
        f"quantize {tokens}x{width}",
        lambda: quantize(out, x, num_tokens=count, pdl=a.pdl),
        coded(out, lambda: double(x[:tokens])),
        nbytes(x, out),
    )


def _in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    wide = dtype in tiles.CODES and not tiles.is_narrow(tokens, dtype)
    return [given(tokens=tokens, width=width) for width in (config.hidden_size, config.intermediate_size) if wide]


def _odd(sizes: Sizes, dtype: str) -> list[Arguments]:
    shapes = itertools.product(sizes.tokens, (sizes.width, 36)) if dtype in tiles.CODES else ()
    return [given(tokens=tokens, width=width, spare=3) for tokens, width in shapes]


OPS = (Op("quantize", _example, _in_model, _odd, has_codes=True),)

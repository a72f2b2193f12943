"""`LayerNorm(x + residual)`, where x may still be the partial sums of a split product.

`(x - mean) / sqrt(variance + eps) * gamma + beta` over each row, statistics in float32 from the row in registers (two
passes). Bytes moved: each input and the output once. Reference: `distilrt.model.functional.layer_norm`.
"""

from __future__ import annotations

import itertools
from typing import Any

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
from distilrt.kernels.op import Arguments, Arrays, Choice, Example, Op, OpOutput, Sizes, double, given, nbytes
from distilrt.kernels.quantize import Quantized, coded, empty_codes, pointers, store_codes
from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig


@triton.jit
def normalise(x, gamma, beta, inside, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """Layer norm of one row `x` `[BLOCK]` float32, of which `inside` are real and the others zero."""
    mean = tl.sum(x) / WIDTH
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centred * centred) / WIDTH
    return centred * tl.math.rsqrt(variance + EPS) * gamma + beta


@triton.jit(do_not_specialize=["num_tokens_ptr", "max_tokens"])
def _layer_norm_kernel(
    out_ptr,  # [max_tokens, WIDTH]
    codes_ptr,  # [max_tokens, WIDTH] or None
    scales_ptr,  # [max_tokens] or None
    input_scales_ptr,  # [WIDTH] or None
    x_ptr,  # [SEGMENTS, max_tokens, WIDTH]
    bias_ptr,  # [WIDTH] or None
    residual_ptr,  # [max_tokens, WIDTH] or None
    gamma_ptr,  # [WIDTH]
    beta_ptr,  # [WIDTH]
    num_tokens_ptr,  # [1] or None
    max_tokens,
    SEGMENTS: tl.constexpr,
    WIDTH: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    cols = tl.arange(0, BLOCK)
    inside = cols < WIDTH
    gamma = tl.load(gamma_ptr + cols, inside, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + cols, inside, other=0.0).to(tl.float32)
    begin(PDL)
    num_tokens = count_rows(num_tokens_ptr, max_tokens)
    for row in range(tl.program_id(0), num_tokens, tl.num_programs(0)):
        start = tl.cast(row, tl.int64) * WIDTH
        x = tl.load(x_ptr + start + cols, inside, other=0.0).to(tl.float32)
        for segment in tl.static_range(1, SEGMENTS):
            ahead = tl.cast(max_tokens, tl.int64) * (segment * WIDTH)
            x += tl.load(x_ptr + ahead + start + cols, inside, other=0.0).to(tl.float32)
        if bias_ptr is not None:
            x += tl.load(bias_ptr + cols, inside, other=0.0).to(tl.float32)
        if residual_ptr is not None:
            x += tl.load(residual_ptr + start + cols, inside, other=0.0).to(tl.float32)
        y = normalise(x, gamma, beta, inside, WIDTH, EPS)
        tl.store(out_ptr + start + cols, rounded(y, out_ptr.dtype.element_ty), inside)
        store_codes(codes_ptr, scales_ptr, input_scales_ptr, y, row, cols, inside, WIDTH)


def layer_norm(
    out: torch.Tensor,
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    residual: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    eps: float,
    codes: Quantized | None = None,
    num_tokens: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """`out = LayerNorm(x + bias + residual)` in the first `num_tokens` rows; others are left as they are.

    Args:
        out: `[T, H]` float32, float16 or bfloat16; may be `residual` or x itself.
        x: `[T, H]`, or partial sums `[S, T, H]` float32 of `linear.linear`.
        gamma, beta: `[H]`.
        residual: `[T, H]` or None.
        bias: `[H]` of the product that x is, or None where x has it already.
        eps: added to the variance.
        codes: where the result goes once more, `[T, H]` in codes of its `input_scales`; or None.
        num_tokens: `[1]` int32 on the device; None: all T rows.
        pdl: start before the kernel before has finished (`launch.begin`).

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    check("out", out, [None, None], FLOATS)
    max_tokens, width = out.shape
    check("x", x, [max_tokens, width] if x.dim() == 2 else [None, max_tokens, width], FLOATS)
    check_given("residual", residual, [max_tokens, width], FLOATS)
    for name, vector in (("gamma", gamma), ("beta", beta), ("bias", bias)):
        check_given(name, vector, [width], FLOATS)
    if codes is not None:
        codes.check("codes", max_tokens, width)
    check_count(num_tokens)
    if not max_tokens:
        return
    tile = tiles.row_tile(max_tokens, width, chip_of(out))
    _layer_norm_kernel[(tile.programs,)](
        out, *pointers(codes), x, bias, residual, gamma, beta, num_tokens, max_tokens,
        SEGMENTS=1 if x.dim() == 2 else x.shape[0], WIDTH=width, EPS=eps, BLOCK=triton.next_power_of_2(width),
        num_warps=tile.num_warps, maxnreg=tiles.ROW_REGISTERS, **launch_options(pdl),
    )  # fmt: skip


def plain_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """torch's layer norm in the dtype of x."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:], gamma.to(x.dtype), beta.to(x.dtype), LAYER_NORM_EPS)


def _example(a: Arrays, tokens: int, width: int, with_residual: bool = True, spare: int = 0) -> Example:
    shape = (tokens + spare, width)
    x, gamma, beta, count, out = a.random(*shape), a.vector(width), a.vector(width), a.ints(tokens), a.empty(*shape)
    residual, bias = (a.random(*shape), a.vector(width)) if with_residual else (None, None)

    def exact() -> Any:
        added = 0 if residual is None or bias is None else double(bias) + double(residual[:tokens])
        return functional.layer_norm(double(x[:tokens]) + added, double(gamma), double(beta))

    def plain() -> torch.Tensor:
        added = 0 if residual is None or bias is None else bias.to(x.dtype) + residual[:tokens]
        return plain_norm(x[:tokens] + added, gamma, beta)

    arrays, codes = (out, x, gamma, beta, residual, bias), empty_codes(a, *shape)
    return Example(
        f"layer_norm {tokens}x{width}" + (" of a sum" if with_residual else ""),
        lambda: layer_norm(*arrays, eps=LAYER_NORM_EPS, codes=codes, num_tokens=count, pdl=a.pdl),
        {"out": OpOutput(out, exact, plain), **coded(codes, exact)},
        nbytes(out, x) + (0 if residual is None else residual.nbytes),
    )


def _in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    return [given(tokens=tokens, width=config.hidden_size, with_residual=added) for added in (True, False)]


def _odd(sizes: Sizes, dtype: str) -> list[Arguments]:
    shapes = itertools.product(sizes.tokens, (sizes.width, 36), (True, False))
    return [given(tokens=tokens, width=width, with_residual=added, spare=3) for tokens, width, added in shapes]


def _choice(arguments: Arguments, dtype: str, chip: tiles.Chip) -> Choice:
    tokens, width = arguments["tokens"], arguments["width"]
    return Choice(("rows", chip.capability, width), tokens, tiles.row_tiles(tokens, width, chip))


OPS = (Op("layer_norm", _example, _in_model, _odd, choice=_choice, has_codes=True),)

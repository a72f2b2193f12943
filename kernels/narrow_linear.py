"""`activation(norm(x) @ weight.T + bias) + residual` for few rows, where the time is that of reading the weight.

Like `linear`, but a program's warps share the depth instead of the output: each sums its own slice of every step, and
the slices' sums are added in a fixed order at the end. So blocks can be small enough to give every multiprocessor a
part of the weight, and no chain of products is long. `norm` is nothing, or the layer norm that comes before: then every
program normalises the few rows itself, which saves a kernel.

Bytes moved: the weight once; x by every program, from L2. Reference: `distilrt.model.functional.linear`, `layer_norm`
and `activation`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from distilrt.kernels import tiles
from distilrt.kernels.activation import check_activation
from distilrt.kernels.launch import (
    FLOATS,
    HALVES,
    check,
    check_count,
    check_given,
    chip_of,
    count_rows,
    dot,
    launch_options,
    rounded,
)
from distilrt.kernels.layer_norm import plain_norm
from distilrt.kernels.op import Arguments, Arrays, Choice, Example, Op, OpOutput, Sizes, double, given, nbytes
from distilrt.kernels.product import exact_product, finished, plain_product, start
from distilrt.kernels.quantize import Factor, Quantized, as_factors, pointers, row_dtype
from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig


@triton.jit
def statistics(x_ptr, rows, K: tl.constexpr, EPS: tl.constexpr, WIDTH: tl.constexpr):
    """Mean and 1 / standard deviation of rows of `[…, K]`, of which WIDTH numbers are in registers at a time."""
    total = tl.zeros(rows.shape, tl.float32)
    for first in range(0, K, WIDTH):
        cols = first + tl.arange(0, WIDTH)[None, :]
        total += tl.sum(tl.load(x_ptr + rows[:, None] * K + cols, cols < K, other=0.0).to(tl.float32), 1)
    mean = total / K
    squares = tl.zeros(rows.shape, tl.float32)
    for first in range(0, K, WIDTH):
        cols = first + tl.arange(0, WIDTH)[None, :]
        x = tl.load(x_ptr + rows[:, None] * K + cols, cols < K, other=0.0).to(tl.float32)
        centred = tl.where(cols < K, x - mean[:, None], 0.0)
        squares += tl.sum(centred * centred, 1)
    return mean, tl.math.rsqrt(squares / K + EPS)


@triton.jit
def narrow_multiply(
    out_ptr,
    normed_ptr,
    x_ptr,
    gamma_ptr,
    beta_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    mean,  # [BLOCK_M], of rows of x, or None
    scale,  # [BLOCK_M] or None
    rows,  # [BLOCK_M]: of x and residual, for each row of out; all of them can be read
    num_rows,  # The first so many are real.
    col0,
    N: tl.constexpr,
    K: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SLICES: tl.constexpr,
    column_scales_ptr=None,  # [N] where the weight is codes, else None
    input_scales_ptr=None,
):
    """Columns of out from `col0` on; those from 0 on write the normalised rows too. Pointers as in the kernel below."""
    BLOCK_M: tl.constexpr = rows.shape[0]
    KIND: tl.constexpr = weight_ptr.dtype.element_ty if column_scales_ptr is None else tl.bfloat16
    STEP: tl.constexpr = SLICES * BLOCK_K
    WHOLE: tl.constexpr = K % STEP == 0
    depth = tl.arange(0, SLICES)[:, None, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, None, :]
    x_ptrs = x_ptr + rows[None, :, None] * K + depth
    own_cols = tl.minimum(tl.arange(0, BLOCK_N), N - 1 - col0)
    weight_ptrs = weight_ptr + tl.cast(col0, tl.int64) * K + own_cols[None, :, None] * K + depth
    acc = tl.zeros((SLICES, BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, STEP):
        if WHOLE:
            x = tl.load(x_ptrs + k)
            weight = tl.load(weight_ptrs + k)
        else:
            x = tl.load(x_ptrs + k, depth + k < K, other=0.0)
            weight = tl.load(weight_ptrs + k, depth + k < K, other=0.0)
        if gamma_ptr is not None:
            gamma = tl.load(gamma_ptr + k + depth, depth + k < K, other=0.0).to(tl.float32)
            beta = tl.load(beta_ptr + k + depth, depth + k < K, other=0.0).to(tl.float32)
            y = (x.to(tl.float32) - mean[None, :, None]) * scale[None, :, None] * gamma + beta
            x = rounded(y, KIND)
            if col0 == 0:
                real = (tl.arange(0, BLOCK_M)[None, :, None] < num_rows) & (depth + k < K)
                tl.store(normed_ptr + rows[None, :, None] * K + depth + k, x, real)
        if input_scales_ptr is not None:
            input_scales = tl.load(input_scales_ptr + k + depth, depth + k < K, other=0.0)
            x = rounded(x.to(tl.float32) * input_scales, KIND)
        acc = dot(x, tl.permute(weight, (0, 2, 1)), acc, "ieee")

    out_rows = tl.arange(0, BLOCK_M)
    cols = col0 + tl.arange(0, BLOCK_N)
    inside = (out_rows < num_rows)[:, None] & (cols < N)[None, :]
    y = finished(tl.sum(acc, 0), None, column_scales_ptr, bias_ptr, residual_ptr, out_rows, cols,
                 rows[:, None] * N + cols[None, :], inside, num_rows, N, ACTIVATION)  # fmt: skip
    tl.store(out_ptr + out_rows[:, None] * N + cols[None, :], rounded(y, out_ptr.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["num_tokens_ptr", "max_tokens"])
def _narrow_linear_kernel(
    out_ptr,  # [max_tokens, N]
    normed_ptr,  # [max_tokens, K] or None
    x_ptr,  # [max_tokens, K]
    gamma_ptr,  # [K] or None
    beta_ptr,  # [K] or None
    weight_ptr,  # [N, K]
    column_scales_ptr,  # [N] or None
    input_scales_ptr,  # [K] or None
    bias_ptr,  # [N] or None
    residual_ptr,  # [max_tokens, N] or None
    num_tokens_ptr,  # [1] or None
    max_tokens,
    N: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SLICES: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    col0 = tl.program_id(0) * BLOCK_N
    start(weight_ptr, col0, N, K, BLOCK_N, True, PDL)
    num_tokens = count_rows(num_tokens_ptr, max_tokens)
    rows = tl.minimum(tl.arange(0, BLOCK_M), max_tokens - 1)
    mean, scale = None, None
    if gamma_ptr is not None:
        mean, scale = statistics(x_ptr, rows, K, EPS, WIDTH)
    narrow_multiply(out_ptr, normed_ptr, x_ptr, gamma_ptr, beta_ptr, weight_ptr, bias_ptr, residual_ptr, mean, scale,
                    rows, num_tokens, col0, N, K, ACTIVATION, BLOCK_N, BLOCK_K, SLICES, column_scales_ptr,
                    input_scales_ptr)  # fmt: skip


def norm_linear(
    out: torch.Tensor,
    normed: torch.Tensor,
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    weight: Factor,
    bias: torch.Tensor | None = None,
    *,
    eps: float,
    activation: str = "",
    num_tokens: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """`normed = LayerNorm(x)` and `out = activation(normed @ weight.T + bias)` in one kernel, for few rows.

    Right for any number of rows up to `tiles.NARROW_ROWS`, meant for those. Rows from `num_tokens` on are left as they
    are.

    Args:
        out: `[T, N]`, of the dtype of `normed` or float32.
        normed: `[T, K]`, of the dtype of weight; bfloat16 where that has codes.
        x: `[T, K]` float32, float16 or bfloat16; not `normed` itself.
        gamma, beta: `[K]`.
        weight: `[N, K]` float16, bfloat16, or codes of `quantize`, which are widened to bfloat16.
        bias, activation, num_tokens, pdl: as in `linear.linear`.
        eps: added to the variance.

    Raises:
        ValueError: a shape, dtype or activation that does not fit, or too many rows.
    """
    if isinstance(weight, Quantized):
        weight.check("weight", None, None)
        n, k = weight.codes.shape
    else:
        check("weight", weight, [None, None], HALVES)
        n, k = weight.shape
    check_activation(activation)
    check("x", x, [None, k], FLOATS)
    check("out", out, [len(x), n], [row_dtype(weight), torch.float32])
    check("normed", normed, [len(x), k], [row_dtype(weight)])
    check_given("bias", bias, [n], FLOATS)
    check_count(num_tokens)
    check("gamma", gamma, [k], FLOATS)
    check("beta", beta, [k], FLOATS)
    launch_narrow(out, x, weight, bias, None, num_tokens, activation, pdl, norm=(normed, gamma, beta, eps))


def launch_narrow(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: Factor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    num_tokens: torch.Tensor | None,
    activation: str,
    pdl: bool,
    norm: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float] | None = None,
) -> None:
    """What `norm_linear`, and `linear.linear` for few rows, launch; all but the number of rows is checked already."""
    max_tokens, k = x.shape
    matrix, *scales = pointers(weight)
    assert matrix is not None
    n = len(matrix)
    if max_tokens > tiles.NARROW_ROWS:
        raise ValueError(f"x must have at most {tiles.NARROW_ROWS} rows, found {max_tokens}; use linear.linear")
    if not max_tokens:
        return
    tile = tiles.narrow_tile(max_tokens, n, k, chip_of(x), norm is not None)
    normed, gamma, beta, eps = norm or (None, None, None, 0.0)
    _narrow_linear_kernel[(triton.cdiv(n, tile.block_n),)](
        out, normed, x, gamma, beta, matrix, *scales, bias, residual, num_tokens, max_tokens,
        N=n, K=k, EPS=eps, ACTIVATION=activation,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, SLICES=tile.slices,
        WIDTH=triton.next_power_of_2(k),
        num_warps=tile.num_warps, num_stages=tile.num_stages, **launch_options(pdl),
    )  # fmt: skip


def _example(a: Arrays, tokens: int, n: int, k: int, activation: str = "") -> Example:
    x, gamma, beta = a.random(tokens, k, dtype=torch.float32, scale=3), a.vector(k), a.vector(k)
    weights, bias, count = as_factors(a, a.weights(n, k)), a.vector(n), a.ints(tokens)
    out, normed = a.empty(tokens, n), a.empty(tokens, k)

    def launch() -> None:
        options: dict[str, Any] = {"activation": activation, "num_tokens": count, "pdl": a.pdl}
        for weight in weights:
            norm_linear(out, normed, x, gamma, beta, weight, bias, eps=LAYER_NORM_EPS, **options)

    def exact_norm() -> Any:
        return functional.layer_norm(double(x), double(gamma), double(beta))

    def plain_normed() -> torch.Tensor:
        return plain_norm(x.to(a.dtype), gamma, beta)

    def exact() -> Any:
        return exact_product(exact_norm(), weights[-1], bias, activation)

    def plain() -> Any:
        return plain_product(plain_normed(), weights[-1], bias, a.dtype, activation)

    return Example(
        f"norm_linear {tokens}x{k}x{n} {activation}".rstrip(),
        launch,
        {"out": OpOutput(out, exact, plain), "normed": OpOutput(normed, exact_norm, plain_normed)},
        nbytes(x, out, normed, weights[0]),
        2.0 * tokens * n * k,
        len(weights),
    )


def _in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    width = config.hidden_size
    products = ((3 * width, ""), (config.intermediate_size, config.activation))
    narrow = tiles.is_narrow(tokens, dtype)
    return [given(tokens=tokens, n=n, k=width, activation=name) for n, name in products if narrow]


def _odd(sizes: Sizes, dtype: str) -> list[Arguments]:
    counts = [tokens for tokens in sizes.tokens if tiles.is_narrow(tokens, dtype)]
    return [given(tokens=tokens, n=sizes.inner, k=sizes.width, activation="gelu") for tokens in counts]


def _choice(arguments: Arguments, dtype: str, chip: tiles.Chip) -> Choice:
    tokens, n, k = (arguments[name] for name in ("tokens", "n", "k"))
    return Choice(("narrow", chip.capability, n, k, True), tokens, tiles.narrow_tiles(tokens, n, k, chip, True))


OPS = (Op("norm_linear", _example, _in_model, _odd, choice=_choice, has_codes=True),)

"""`linear` with a program for each block of the result, and for each part of the depth of one.

Programs that run together share a few rows of blocks and their weights in L2. Where blocks are too few to fill the
chip, the depth comes in parts, whose sums are left for a layer norm: no atomics, so that the order of sums is fixed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from distilrt.kernels import tiles
from distilrt.kernels.launch import PRECISIONS, chip_of, count_rows, dot, launch_options, rounded
from distilrt.kernels.product import Product, finished, start


@triton.jit(do_not_specialize=["num_tokens_ptr", "max_tokens"])
def _linear_kernel(
    out_ptr,  # [max_tokens, N], or [segments, max_tokens, N] float32
    x_ptr,  # [max_tokens, K]
    weight_ptr,  # [N, K]
    row_scales_ptr,  # [max_tokens] or None
    column_scales_ptr,  # [N] or None
    bias_ptr,  # [N] or None
    residual_ptr,  # [max_tokens, N] or None
    num_tokens_ptr,  # [1] or None
    max_tokens,
    N: tl.constexpr,
    K: tl.constexpr,
    SEGMENT: tl.constexpr,
    WHOLE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    ONE_ROW_OF_BLOCKS: tl.constexpr,
    PREFETCH: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    program = tl.program_id(0)
    segment = tl.program_id(1)
    if ONE_ROW_OF_BLOCKS:
        block_m = 0
        block_n = program
    else:
        # Programs that run together share a few row blocks and their weights in L2.
        blocks_m = tl.cdiv(max_tokens, BLOCK_M)
        per_group: tl.constexpr = GROUP_M * ((N + BLOCK_N - 1) // BLOCK_N)
        first = program // per_group * GROUP_M
        height = tl.minimum(blocks_m - first, GROUP_M)
        block_m = first + program % per_group % height
        block_n = program % per_group // height
    start(weight_ptr, block_n * BLOCK_N, N, K, BLOCK_N, PREFETCH, PDL)
    num_tokens = count_rows(num_tokens_ptr, max_tokens)
    if not ONE_ROW_OF_BLOCKS:  # noqa: SIM102, the outer condition is of compile time
        if block_m * BLOCK_M >= num_tokens:
            return
    row0 = block_m * BLOCK_M
    col0 = block_n * BLOCK_N
    k0 = segment * SEGMENT
    # Beyond the last row or column the last one is read again: cheaper than a mask, and never stored.
    rows = tl.minimum(tl.arange(0, BLOCK_M), max_tokens - 1 - row0)
    cols = tl.minimum(tl.arange(0, BLOCK_N), N - 1 - col0)
    ks = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + row0.to(tl.int64) * K + k0 + rows[:, None] * K + ks[None, :]
    weight_ptrs = weight_ptr + col0.to(tl.int64) * K + k0 + cols[:, None] * K + ks[None, :]
    out_rows = row0 + tl.arange(0, BLOCK_M)
    out_cols = col0 + tl.arange(0, BLOCK_N)
    where = out_rows.to(tl.int64)[:, None] * N + out_cols[None, :]
    inside = (out_rows < num_tokens)[:, None] & (out_cols < N)[None, :]
    EARLY: tl.constexpr = residual_ptr is not None and ACTIVATION == "" and row_scales_ptr is None
    if EARLY:
        # Before the sums: afterwards a large block has no registers left for it.
        acc = tl.load(residual_ptr + where, inside, other=0.0).to(tl.float32)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32 if x_ptr.dtype.element_ty == tl.int8 else tl.float32)
    for k in range(0, SEGMENT, BLOCK_K):
        if WHOLE:
            x = tl.load(x_ptrs)
            weight = tl.load(weight_ptrs)
        else:
            left = ks[None, :] < tl.minimum(SEGMENT, K - k0) - k
            x = tl.load(x_ptrs, left, other=0.0)
            weight = tl.load(weight_ptrs, left, other=0.0)
        acc = dot(x, tl.trans(weight), acc, PRECISION)
        x_ptrs += BLOCK_K
        weight_ptrs += BLOCK_K

    acc = finished(acc, row_scales_ptr, column_scales_ptr, bias_ptr, None if EARLY else residual_ptr, out_rows,
                   out_cols, where, inside, num_tokens, N, ACTIVATION)  # fmt: skip
    out_ptr += segment.to(tl.int64) * max_tokens * N
    tl.store(out_ptr + where, rounded(acc, out_ptr.dtype.element_ty), inside)


def launch_blocks(tile: tiles.LinearTile, p: Product, products: str) -> None:
    """What `linear` launches with a tile of this form, for products that `tiles` calls so."""
    (max_tokens, k), n = p.x.shape, len(p.weight)
    segment = triton.cdiv(k, p.segments * tile.block_k) * tile.block_k
    blocks_m = triton.cdiv(max_tokens, tile.block_m)
    _linear_kernel[blocks_m * triton.cdiv(n, tile.block_n), p.segments](
        p.out, p.x, p.weight, *p.scales, p.bias, p.residual, p.num_tokens, max_tokens,
        N=n, K=k, SEGMENT=segment, WHOLE=segment * p.segments == k, ACTIVATION=p.activation,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, GROUP_M=tiles.GROUP_M,
        ONE_ROW_OF_BLOCKS=blocks_m == 1, PREFETCH=p.segments == 1 and max_tokens <= 256,
        PRECISION=products if products in PRECISIONS else "ieee",
        num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.max_registers(products, chip_of(p.x)),
        **launch_options(p.pdl),
    )  # fmt: skip

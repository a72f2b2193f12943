"""Rows that heads read: the first of each sequence, the mean of each sequence, rows of a list.

Bytes moved: the rows that are read, and out. Reference: `rows[cu_seqlens[:-1]]`, `rows[start:start + keys].mean(0)` and
`rows[index]`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from distilrt.kernels.launch import FLOATS, begin, check, check_count, count_rows, launch_options, rounded


@triton.jit(do_not_specialize=["num_rows_ptr", "max_rows"])
def _gather_kernel(
    out_ptr,  # [max_rows, WIDTH]
    rows_ptr,  # [rows, WIDTH]
    index_ptr,  # [max_rows]
    num_rows_ptr,  # [1] or None
    max_rows,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    begin(PDL)
    to = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if to < count_rows(num_rows_ptr, max_rows):
        row = tl.load(index_ptr + to).to(tl.int64)
        if row >= 0:
            x = tl.load(rows_ptr + row * WIDTH + cols, cols < WIDTH, other=0.0)
            tl.store(
                out_ptr + to.to(tl.int64) * WIDTH + cols,
                rounded(x.to(tl.float32), out_ptr.dtype.element_ty),
                cols < WIDTH,
            )


@triton.jit
def _first_rows_kernel(
    out_ptr,  # [max_seqs, WIDTH]
    rows_ptr,  # [max_tokens, WIDTH]
    cu_seqlens_ptr,  # [max_seqs + 1]
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    begin(PDL)
    seq = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(cu_seqlens_ptr + seq)
    if start < tl.load(cu_seqlens_ptr + seq + 1):
        x = tl.load(rows_ptr + start.to(tl.int64) * WIDTH + cols, cols < WIDTH, other=0.0)
        tl.store(
            out_ptr + seq.to(tl.int64) * WIDTH + cols, rounded(x.to(tl.float32), out_ptr.dtype.element_ty), cols < WIDTH
        )


@triton.jit
def _mean_kernel(
    out_ptr,  # [max_seqs, WIDTH] float32
    rows_ptr,  # [max_tokens, WIDTH]
    cu_seqlens_ptr,  # [max_seqs + 1]
    key_lengths_ptr,  # [max_seqs]
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    begin(PDL)
    seq = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(cu_seqlens_ptr + seq)
    if start < tl.load(cu_seqlens_ptr + seq + 1):
        num_keys = tl.load(key_lengths_ptr + seq)
        first = rows_ptr + start.to(tl.int64) * WIDTH
        total = tl.zeros((ROWS, BLOCK), tl.float32)
        for row in range(0, num_keys, ROWS):
            rows = row + tl.arange(0, ROWS)
            inside = (rows < num_keys)[:, None] & (cols < WIDTH)[None, :]
            total += tl.load(first + rows[:, None] * WIDTH + cols[None, :], inside, other=0.0).to(tl.float32)
        tl.store(out_ptr + seq.to(tl.int64) * WIDTH + cols, tl.sum(total, 0) / num_keys, cols < WIDTH)


def gather(
    out: torch.Tensor,
    rows: torch.Tensor,
    index: torch.Tensor,
    *,
    num_rows: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """`out[i] = rows[index[i]]` for i below `num_rows`; where `index[i]` is negative, `out[i]` is left as it is.

    Args:
        out: `[n, H]` float32, float16 or bfloat16.
        rows: `[T, H]` of any of these.
        index: `[n]` int32, below T.
        num_rows: `[1]` int32 on the device; None: all n.
        pdl: start before the kernel before has finished (`launch.begin`).

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    check("out", out, [None, None], FLOATS)
    count, width = out.shape
    check("rows", rows, [None, width], FLOATS)
    check("index", index, [count], [torch.int32])
    check_count(num_rows)
    if count:
        _gather_kernel[count, triton.cdiv(width, 1024)](
            out, rows, index, num_rows, count, WIDTH=width, BLOCK=_block(width), **launch_options(pdl)
        )


def first_rows(out: torch.Tensor, rows: torch.Tensor, cu_seqlens: torch.Tensor, *, pdl: bool = False) -> None:
    """`out[s] = rows[cu_seqlens[s]]` for each sequence that has rows; others are left as they are.

    Where position 0 may be masked, its row is not the first: use `gather` with `first_rows` of `packing.pack`.

    Args:
        out: `[S, H]` float32, float16 or bfloat16.
        rows: `[T, H]` of any of these.
        cu_seqlens: `[S + 1]` int32.
        pdl: start before the kernel before has finished (`launch.begin`).

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    check("out", out, [None, None], FLOATS)
    count, width = out.shape
    check("rows", rows, [None, width], FLOATS)
    check("cu_seqlens", cu_seqlens, [count + 1], [torch.int32])
    if count:
        _first_rows_kernel[count, triton.cdiv(width, 1024)](
            out, rows, cu_seqlens, WIDTH=width, BLOCK=_block(width), **launch_options(pdl)
        )


def mean(
    out: torch.Tensor, rows: torch.Tensor, cu_seqlens: torch.Tensor, key_lengths: torch.Tensor, *, pdl: bool = False
) -> None:
    """Mean over the first `key_lengths[s]` rows of each sequence that has rows; others are left as they are.

    Args:
        out: `[S, H]` float32.
        rows: `[T, H]` float32, float16 or bfloat16.
        cu_seqlens: `[S + 1]` int32.
        key_lengths: `[S]` int32.
        pdl: start before the kernel before has finished (`launch.begin`).

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    check("out", out, [None, None], [torch.float32])
    count, width = out.shape
    check("rows", rows, [None, width], FLOATS)
    check("cu_seqlens", cu_seqlens, [count + 1], [torch.int32])
    check("key_lengths", key_lengths, [count], [torch.int32])
    if count:
        _mean_kernel[count, triton.cdiv(width, 128)](
            out, rows, cu_seqlens, key_lengths, WIDTH=width, BLOCK=128, ROWS=16, **launch_options(pdl)
        )


def _block(width: int) -> int:
    return min(1024, int(triton.next_power_of_2(width)))

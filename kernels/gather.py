"""Rows of a list, which heads read. Bytes moved: the rows that are read, and out. Reference: `rows[index]`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from distilrt.kernels.launch import FLOATS, begin, check, check_count, count_rows, launch_options, rounded
from distilrt.kernels.op import Arrays, Example, Op, OpOutput, double, given


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
        block = min(1024, triton.next_power_of_2(width))
        _gather_kernel[count, triton.cdiv(width, block)](
            out, rows, index, num_rows, count, WIDTH=width, BLOCK=block, **launch_options(pdl)
        )


def _example(a: Arrays, tokens: int, count: int, width: int) -> Example:
    """Every n-th row, where room for two more is left as it is."""
    rows, out = a.random(tokens, width), a.empty(count + 2, width)
    step = tokens // count
    index, num_rows = a.ints(*range(0, count * step, step), -1, -1), a.ints(count)
    return Example(
        f"gather {count}x{width}",
        lambda: gather(out, rows, index, num_rows=num_rows, pdl=a.pdl),
        {"out": OpOutput(out, lambda: double(rows[: count * step : step]))},
        2 * out.nbytes,
    )


OPS = (
    Op(
        "gather",
        _example,
        in_model=lambda config, tokens, dtype: [
            given(tokens=tokens, count=max(1, tokens // 128), width=config.hidden_size)
        ],
        odd=lambda sizes, dtype: [given(tokens=count * 3, count=count, width=sizes.width) for count in (1, 7)],
    ),
)

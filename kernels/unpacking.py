"""Packed rows back to a padded batch, on the device, without reading anything back.

Reference: `distilrt.batch.Layout.unpack`. Bytes moved: the packed rows once, the padded batch once, and where rows are
once more.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from distilrt.kernels.launch import FLOATS, begin, check, check_count, count_rows, launch_options, rounded
from distilrt.kernels.op import Arguments, Arrays, Example, Op, OpOutput, Sizes, double, given
from distilrt.kernels.packing import BLOCK, odd_grids
from distilrt.model.config import DistilBertConfig


@triton.jit(do_not_specialize=["mask_ptr", "num_tokens_ptr", "max_tokens"])
def _scatter_kernel(
    out_ptr,  # [positions, WIDTH]
    rows_ptr,  # [max_tokens, WIDTH]
    index_ptr,  # [max_tokens]
    mask_ptr,  # [positions] or None
    num_tokens_ptr,  # [1] or None
    max_tokens,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    begin(PDL)
    row = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if row < count_rows(num_tokens_ptr, max_tokens):
        position = tl.load(index_ptr + row).to(tl.int64)
        inside = cols < WIDTH
        if mask_ptr is not None:
            inside = inside & (tl.load(mask_ptr + position + tl.zeros_like(cols)).to(tl.float32) == 1.0)
        x = tl.load(rows_ptr + row.to(tl.int64) * WIDTH + cols, inside, other=0.0)
        tl.store(out_ptr + position * WIDTH + cols, rounded(x.to(tl.float32), out_ptr.dtype.element_ty), inside)


def unpack(
    out: torch.Tensor,
    rows: torch.Tensor,
    index: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    num_tokens: torch.Tensor | None = None,
) -> None:
    """Spread packed rows over the padded grid, with zeros everywhere else.

    Args:
        out: `[batch_size, seq_len, H]` or `[batch_size, seq_len]` to write.
        rows: `[T, H]` or `[T]`, float32, float16 or bfloat16.
        index: `[T]` int32, flat padded position of each row.
        attention_mask: `[batch_size, seq_len]`, contiguous; rows of masked positions, which only ask, are then left
            out. None: every packed row is shown.
        num_tokens: `[1]` int32 on the device; None: all T rows.

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    check("out", out, [None, None, *rows.shape[1:]], FLOATS)
    check("rows", rows, [None] if rows.dim() == 1 else [None, None], FLOATS)
    max_tokens = rows.shape[0]
    check("index", index, [max_tokens], [torch.int32])
    check_count(num_tokens)
    if attention_mask is not None:
        check("attention_mask", attention_mask, out.shape[:2], [attention_mask.dtype])
    width = 1 if rows.dim() == 1 else rows.shape[1]
    out.zero_()
    if max_tokens:
        block = min(BLOCK, triton.next_power_of_2(width))
        _scatter_kernel[max_tokens, triton.cdiv(width, block)](
            out, rows, index, attention_mask, num_tokens, max_tokens, WIDTH=width, BLOCK=block, **launch_options(False)
        )


def _example(a: Arrays, batch_size: int, seq_len: int, width: int, masked: bool = True) -> Example:
    """Every row is there, as where masked positions ask; those are not shown."""
    size = batch_size * seq_len
    rows, index, count = a.random(size, width), a.ints(*range(size)), a.ints(size)
    mask = a.below(2, batch_size, seq_len).long() if masked else None
    out = a.empty(batch_size, seq_len, width)

    def exact() -> Any:
        grid = double(rows).reshape(batch_size, seq_len, width)
        return grid if mask is None else grid * double(mask)[:, :, None]

    return Example(
        f"unpack {batch_size}x{seq_len}x{width}",
        lambda: unpack(out, rows, index, attention_mask=mask, num_tokens=count),
        {"out": OpOutput(out, exact)},
        3 * out.nbytes,  # zeros are written first
    )


def _in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    length = min(tokens, 128)
    return [given(batch_size=tokens // length, seq_len=length, width=config.hidden_size)]


def _odd(sizes: Sizes, dtype: str) -> list[Arguments]:
    return [grid | {"width": 5, "masked": masked} for grid in odd_grids(sizes, dtype) for masked in (True, False)]


OPS = (Op("unpack", _example, _in_model, _odd),)

"""`softmax(q Kᵀ / sqrt(head_dim)) V` for some queries alone: what a head that reads few rows needs of the last layer.

One program has one query and head and walks over the keys of the query's sequence in blocks from the sequence's own
first row, so a result doesn't depend on batch mates. One query has nothing to share a block of scores with: products
are plain multiply-adds in float32, and the time is that of reading K and V. The same program copies the query's part of
the residual, which saves a kernel that gathers. Bytes moved: K and V of a query's sequence, out and picked. Reference:
`distilrt.model.functional.attention`, of which the rows `index`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from distilrt.kernels import tiles
from distilrt.kernels.attention import (
    MIN_BLOCK_D,
    Heads,
    Packed,
    heads_in_model,
    load_rows,
    odd_heads,
    other_heads,
    width_of_head,
)
from distilrt.kernels.launch import DTYPE_NAMES, FLOATS, begin, check, chip_of, launch_options, rounded
from distilrt.kernels.op import Arrays, Example, Op, OpOutput, double, nbytes

SEARCH_BLOCK = 1024  # sequences that the search looks at in one step


@triton.jit
def _sequence_of(cu_seqlens_ptr, max_seqs, row, BLOCK_S: tl.constexpr):
    """The sequence that has a row of the batch: the last that starts at or before it."""
    count = 0
    for first in range(0, max_seqs, BLOCK_S):
        seqs = first + tl.arange(0, BLOCK_S)
        starts = tl.load(cu_seqlens_ptr + seqs, seqs < max_seqs, other=2147483647)
        count += tl.sum((starts <= row).to(tl.int32))
    return count - 1


@triton.jit(do_not_specialize=["max_rows", "max_seqs"])
def _row_attention_kernel(
    out_ptr,  # [max_rows, HEADS * HEAD_DIM]
    picked_ptr,  # [max_rows, HEADS * HEAD_DIM]
    qkv_ptr,  # [max_tokens, 3 * HEADS * HEAD_DIM]
    rows_ptr,  # [max_tokens, HEADS * HEAD_DIM]
    index_ptr,  # [max_rows + 1]
    cu_seqlens_ptr,  # [max_seqs + 1]
    key_lengths_ptr,  # [max_seqs]
    max_rows,
    max_seqs,
    SCALE: tl.constexpr,  # log2(e) / sqrt(HEAD_DIM)
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
    PDL: tl.constexpr,
):
    WIDTH: tl.constexpr = HEADS * HEAD_DIM
    ROW: tl.constexpr = 3 * WIDTH
    begin(PDL)
    num_rows = tl.load(index_ptr + max_rows)
    dims = tl.arange(0, BLOCK_D)
    inside = dims < HEAD_DIM
    for item in range(tl.program_id(0), num_rows * HEADS, tl.num_programs(0)):
        to = item // HEADS
        head = item % HEADS
        row = tl.load(index_ptr + to)
        seq = _sequence_of(cu_seqlens_ptr, max_seqs, row, BLOCK_S)
        start = tl.load(cu_seqlens_ptr + seq).to(tl.int64)
        num_keys = tl.load(key_lengths_ptr + seq)
        q = tl.load(qkv_ptr + row.to(tl.int64) * ROW + head * HEAD_DIM + dims, inside, other=0.0).to(tl.float32) * SCALE
        k_ptr = qkv_ptr + start * ROW + head * HEAD_DIM + WIDTH
        acc = tl.zeros((BLOCK_D,), tl.float32)
        top = float("-inf")
        total = 0.0
        for first_key in range(0, num_keys, BLOCK_N):
            keys = first_key + tl.arange(0, BLOCK_N)
            k = load_rows(k_ptr, keys, num_keys, dims, ROW, HEAD_DIM, True).to(tl.float32)
            scores = tl.where(keys < num_keys, tl.sum(k * q[None, :], 1), float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, 0))
            old = tl.exp2(top - new_top)
            weights = tl.exp2(scores - new_top)
            v = load_rows(k_ptr + WIDTH, keys, num_keys, dims, ROW, HEAD_DIM, True).to(tl.float32)
            acc = acc * old + tl.sum(weights[:, None] * v, 0)
            total = total * old + tl.sum(weights, 0)
            top = new_top
        there = to.to(tl.int64) * WIDTH + head * HEAD_DIM + dims
        context = tl.where(num_keys > 0, acc / total, 0.0)
        tl.store(out_ptr + there, rounded(context, out_ptr.dtype.element_ty), inside)
        own = tl.load(rows_ptr + row.to(tl.int64) * WIDTH + head * HEAD_DIM + dims, inside, other=0.0)
        tl.store(picked_ptr + there, own, inside)


def row_attention(
    out: torch.Tensor,
    picked: torch.Tensor,
    qkv: torch.Tensor,
    rows: torch.Tensor,
    index: torch.Tensor,
    cu_seqlens: torch.Tensor,
    key_lengths: torch.Tensor,
    num_heads: int,
    *,
    max_seqlen: int,
    pdl: bool = False,
) -> None:
    """Attention of the queries `index` alone, and `picked[i] = rows[index[i]]`; rows beyond are left as they are.

    Args:
        out: `[n, H]`.
        picked: `[n, H]` of the same dtype.
        qkv: `[T, 3 * H]` of the same dtype: queries, keys and values side by side, heads side by side in each.
        rows: `[T, H]` of the same dtype.
        index: `[n + 1]` int32: rows of the batch, each below the total; the last entry is how many there are.
        cu_seqlens: `[max_seqs + 1]` int32, first row of each sequence; entries after the last repeat the total.
        key_lengths: `[max_seqs]` int32, how many rows of each sequence, from its first, are attended to. Where that is
            none, `out` is 0.
        num_heads, pdl: as in `attention.attention`.
        max_seqlen: no sequence is longer, also not when a captured graph is replayed with other contents.

    Raises:
        ValueError: a shape, dtype or head_dim that does not fit.
    """
    check("out", out, [None, None], FLOATS)
    max_rows, width = out.shape
    check("picked", picked, [max_rows, width], [out.dtype])
    check("qkv", qkv, [None, 3 * width], [out.dtype])
    check("rows", rows, [qkv.shape[0], width], [out.dtype])
    check("index", index, [max_rows + 1], [torch.int32])
    max_seqs = key_lengths.shape[0]
    check("key_lengths", key_lengths, [None], [torch.int32])
    check("cu_seqlens", cu_seqlens, [max_seqs + 1], [torch.int32])
    head_dim = width_of_head(width, num_heads)
    if not max_rows or not max_seqs:
        return
    tile = tiles.row_attention_tile(max_seqlen, head_dim, DTYPE_NAMES[out.dtype], chip_of(out))
    _row_attention_kernel[(min(max_rows * num_heads, tile.programs),)](
        out, picked, qkv, rows, index, cu_seqlens, key_lengths, max_rows, max_seqs,
        SCALE=math.log2(math.e) / math.sqrt(head_dim), HEADS=num_heads, HEAD_DIM=head_dim,
        BLOCK_D=max(MIN_BLOCK_D, triton.next_power_of_2(head_dim)), BLOCK_N=tile.block_n,
        BLOCK_S=min(SEARCH_BLOCK, triton.next_power_of_2(max_seqs)),
        num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.max_registers, **launch_options(pdl),
    )  # fmt: skip


def _example(a: Arrays, heads: Heads) -> Example:
    """The first row of each sequence; there may be as many rows as sequences."""
    p, width = Packed(a, heads), heads.num_heads * heads.head_dim
    rows, firsts, room = a.random(len(p.qkv), width), p.ends[:-1], len(p.key_lengths)
    index = a.ints(*firsts, *[-1] * (room - len(firsts)), len(firsts))
    out, picked = a.empty(room, width), a.empty(room, width)
    arrays = (out, picked, p.qkv, rows, index, p.cu_seqlens, p.key_lengths, heads.num_heads)
    return Example(
        f"row_attention {heads}",
        lambda: row_attention(*arrays, max_seqlen=heads.max_seqlen, pdl=a.pdl),
        {
            "out": OpOutput(out, lambda: p.exact()[firsts], lambda: p.plain()[firsts]),
            "picked": OpOutput(picked, lambda: double(rows[firsts])),
        },
        2 * len(firsts) * nbytes(rows[0]) + p.qkv.nbytes * 2 // 3,
        4.0 * sum(p.keys) * width,
    )


OPS = (Op("row_attention", _example, heads_in_model, odd_heads, other_heads),)

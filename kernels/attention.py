"""`softmax(Q Kᵀ / sqrt(head_dim)) V` in each head of each sequence of a packed batch.

One program handles blocks of queries of one sequence and head and walks over the sequence's keys; scores stay in
registers (Dao et al. 2022, arXiv:2205.14135). Blocks of keys start at the sequence's own first row, so a result doesn't
depend on batch mates. Bytes moved: the rows of qkv once (re-read from L2) and out once. Reference:
`distilrt.model.functional.attention`.

The blocks of queries of a batch are listed once a forward, by the host (`query_blocks`) or on the device
(`packing.pack`), and every layer reads the list. It has no gaps, so the numbers of entries that programs take in turns
differ by one at most.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from distilrt.kernels import tiles
from distilrt.kernels.launch import FLOATS, begin, check, chip_of, dot, launch_options, product_name, rounded
from distilrt.kernels.op import Arguments, Arrays, Choice, Entries, Example, Op, OpOutput, Sizes, double, given, nbytes
from distilrt.model import functional
from distilrt.model.config import DistilBertConfig

MIN_BLOCK_D = 16  # the smallest depth of a product on tensor cores; a narrower head is padded with zeros
BLOCK_FIELDS = 4  # An entry of the list of query blocks has so many numbers.


def max_query_blocks(max_tokens: int, max_seqs: int, block_m: int) -> int:
    """The most blocks of `block_m` queries that a batch of such a size can have."""
    return max_tokens // block_m + max_seqs


def query_blocks(cu_seqlens: npt.NDArray[np.int32], key_lengths: npt.NDArray[np.int32], block_m: int) -> Any:
    """The blocks of `block_m` queries of a packed batch, sequence by sequence.

    Args:
        cu_seqlens: `[num_seqs + 1]`, first row of each sequence, and the total.
        key_lengths: `[num_seqs]`, how many rows of each sequence are attended to.
        block_m: queries of a block.

    Returns:
        `[n + 1, 4]` int32. The first entry begins with n. The others are the sequence's first row, the block's first
        query in the sequence, the sequence's rows, and its keys.
    """
    found = np.zeros((len(cu_seqlens), BLOCK_FIELDS), np.int32)
    found[1:, 0], found[1:, 2], found[1:, 3] = cu_seqlens[:-1], cu_seqlens[1:] - cu_seqlens[:-1], key_lengths
    if np.count_nonzero(found[:, 2] > block_m):  # Some sequence has several blocks.
        counts = (found[:, 2] + (block_m - 1)) // block_m
        counts[0] = 1
        found = found.repeat(counts, axis=0)
        found[:, 1] = block_m * (np.arange(len(found)) - (counts.cumsum() - counts).repeat(counts))
    found[0, 0] = len(found) - 1
    return found


@triton.jit
def load_rows(ptr, rows, num_rows, dims, ROW: tl.constexpr, HEAD_DIM: tl.constexpr, MASKED: tl.constexpr):
    """One head's part `[…, BLOCK_D]` of rows of the sequence, zero beyond its width (and last row, if `MASKED`)."""
    wanted = dims[None, :] < HEAD_DIM
    if MASKED:
        wanted = wanted & (rows[:, None] < num_rows)
    return tl.load(ptr + rows[:, None] * ROW + dims[None, :], wanted, other=0.0)


@triton.jit
def _scores(q, q_ptr, rows, length, k_ptr, keys, num_keys, ROW: tl.constexpr, HEAD_DIM: tl.constexpr,
            BLOCK_D: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """`q @ kᵀ` `[BLOCK_M, BLOCK_N]`, -inf beyond the last key; `DEPTH` dims at a time, for which q is read again."""
    if DEPTH == BLOCK_D:
        k = load_rows(k_ptr, keys, num_keys, tl.arange(0, BLOCK_D), ROW, HEAD_DIM, MASKED)
        scores = dot(q, tl.trans(k), None, PRECISION)
    else:
        scores = tl.zeros((rows.shape[0], keys.shape[0]), tl.float32)
        for first in tl.static_range(0, BLOCK_D, DEPTH):
            dims = first + tl.arange(0, DEPTH)
            part = load_rows(q_ptr, rows, length, dims, ROW, HEAD_DIM, True)
            k = load_rows(k_ptr, keys, num_keys, dims, ROW, HEAD_DIM, MASKED)
            scores = dot(part, tl.trans(k), scores, PRECISION)
    if MASKED:
        scores = tl.where(keys[None, :] < num_keys, scores, float("-inf"))
    return scores


@triton.jit
def _step(acc, top, total, q, q_ptr, rows, length, k_ptr, v_ptr, first_key, num_keys, SCALE: tl.constexpr,
          ROW: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
          DEPTH: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Take in one block of keys; rescale what was summed so far if it has a higher score (`exp2` of scaled scores)."""
    keys = first_key + tl.arange(0, BLOCK_N)
    scores = _scores(q, q_ptr, rows, length, k_ptr, keys, num_keys, ROW, HEAD_DIM, BLOCK_D, DEPTH, PRECISION, MASKED)
    new_top = tl.maximum(top, tl.max(scores, 1))
    old = tl.exp2((top - new_top) * SCALE)
    weights = tl.exp2(scores * SCALE - (new_top * SCALE)[:, None])
    v = load_rows(v_ptr, keys, num_keys, tl.arange(0, BLOCK_D), ROW, HEAD_DIM, MASKED)
    acc = dot(rounded(weights, v.dtype), v, acc * old[:, None], PRECISION)
    return acc, new_top, total * old + tl.sum(weights, 1)


@triton.jit
def attend(
    out_ptr,  # [max_tokens, HEADS * HEAD_DIM]
    qkv_ptr,  # [max_tokens, 3 * HEADS * HEAD_DIM]
    blocks_ptr,  # [max_blocks + 1, 4]
    SCALE: tl.constexpr,  # log2(e) / sqrt(HEAD_DIM)
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPTH: tl.constexpr,
    ONE_BLOCK: tl.constexpr,  # so many keys are taken in one block; 0: `BLOCK_N` at a time however many there are
    MANY_BLOCKS: tl.constexpr,  # whether a sequence may have more
    PRECISION: tl.constexpr,
):
    """All heads of all blocks of queries of a list, which the programs of the kernel take in turns."""
    WIDTH: tl.constexpr = HEADS * HEAD_DIM
    ROW: tl.constexpr = 3 * WIDTH
    num_blocks = tl.load(blocks_ptr)
    dims = tl.arange(0, BLOCK_D)
    for item in range(tl.program_id(0), num_blocks * HEADS, tl.num_programs(0)):
        head = item % HEADS
        block_ptr = blocks_ptr + (item // HEADS + 1) * 4
        start = tl.load(block_ptr).to(tl.int64)
        length = tl.load(block_ptr + 2)
        num_keys = tl.load(block_ptr + 3)
        rows = tl.load(block_ptr + 1) + tl.arange(0, BLOCK_M)
        q_ptr = qkv_ptr + start * ROW + head * HEAD_DIM
        k_ptr = q_ptr + WIDTH
        v_ptr = q_ptr + 2 * WIDTH
        acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        if num_keys > 0:
            q = load_rows(q_ptr, rows, length, dims, ROW, HEAD_DIM, True)
            if ONE_BLOCK > 0 and (not MANY_BLOCKS or num_keys <= ONE_BLOCK):
                keys = tl.arange(0, ONE_BLOCK)
                scores = _scores(q, q_ptr, rows, length, k_ptr, keys, num_keys, ROW, HEAD_DIM, BLOCK_D, DEPTH,
                                 PRECISION, True)  # fmt: skip
                weights = tl.exp2(scores * SCALE - (tl.max(scores, 1) * SCALE)[:, None])
                v = load_rows(v_ptr, keys, num_keys, dims, ROW, HEAD_DIM, True)
                acc = dot(rounded(weights, v.dtype), v, None, PRECISION) / tl.sum(weights, 1)[:, None]
            if MANY_BLOCKS and (ONE_BLOCK == 0 or num_keys > ONE_BLOCK):
                top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
                total = tl.zeros((BLOCK_M,), tl.float32)
                whole = num_keys // BLOCK_N * BLOCK_N
                for first_key in range(0, whole, BLOCK_N):
                    acc, top, total = _step(acc, top, total, q, q_ptr, rows, length, k_ptr, v_ptr, first_key, num_keys,
                                            SCALE, ROW, HEAD_DIM, BLOCK_D, BLOCK_N, DEPTH, PRECISION,
                                            False)  # fmt: skip
                if whole < num_keys:
                    acc, top, total = _step(acc, top, total, q, q_ptr, rows, length, k_ptr, v_ptr, whole, num_keys,
                                            SCALE, ROW, HEAD_DIM, BLOCK_D, BLOCK_N, DEPTH, PRECISION, True)  # fmt: skip
                acc = acc / total[:, None]
        out = out_ptr + start * WIDTH + head * HEAD_DIM
        inside = (rows < length)[:, None] & (dims < HEAD_DIM)[None, :]
        tl.store(out + rows[:, None] * WIDTH + dims[None, :], rounded(acc, out_ptr.dtype.element_ty), inside)


@triton.jit
def _attention_kernel(
    out_ptr, qkv_ptr, blocks_ptr, SCALE: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DEPTH: tl.constexpr, ONE_BLOCK: tl.constexpr,
    MANY_BLOCKS: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    begin(PDL)
    attend(out_ptr, qkv_ptr, blocks_ptr, SCALE, HEADS, HEAD_DIM, BLOCK_D, BLOCK_M, BLOCK_N, DEPTH, ONE_BLOCK,
           MANY_BLOCKS, PRECISION)  # fmt: skip


def attention(
    out: torch.Tensor,
    qkv: torch.Tensor,
    blocks: torch.Tensor,
    num_heads: int,
    *,
    max_seqlen: int,
    precision: str = "ieee",
    pdl: bool = False,
) -> None:
    """`softmax(Q Kᵀ / sqrt(head_dim)) V` in each head of each sequence; rows of no sequence are left as they are.

    Args:
        out: `[T, H]`.
        qkv: `[T, 3 * H]` of the same dtype: queries, keys and values side by side, heads side by side in each.
        blocks: `[n + 1, 4]` int32, the list that `query_blocks` or `packing.pack` makes, with as many queries in a
            block as `tiles.attention_tile` says; entries beyond are not read. Where a sequence has no key, `out` is 0.
        num_heads: divides H; H / num_heads is at most 128.
        max_seqlen: no sequence is longer, also not when a captured graph is replayed with other contents.
        precision: as in `linear.linear`, but three products of tf32, for which registers are too few, are exact.
        pdl: start before the kernel before has finished (`launch.begin`).

    Raises:
        ValueError: a shape, dtype, head_dim or precision that does not fit.
    """
    check("out", out, [None, None], FLOATS)
    max_tokens, width = out.shape
    check("qkv", qkv, [max_tokens, 3 * width], [out.dtype])
    check("blocks", blocks, [None, BLOCK_FIELDS], [torch.int32])
    head_dim = width_of_head(width, num_heads)
    max_blocks = blocks.shape[0] - 1
    if not max_tokens or not max_blocks:
        return
    name, max_seqlen = product_name(out.dtype, precision), min(max_seqlen, max_tokens)
    tile = tiles.attention_tile(max_seqlen, head_dim, name, chip_of(out))
    _attention_kernel[(min(max_blocks * num_heads, tile.programs),)](
        out, qkv, blocks, **constants(max_seqlen, num_heads, head_dim, name, tile),
        num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.max_registers, **launch_options(pdl),
    )  # fmt: skip


def constants(max_seqlen: int, num_heads: int, head_dim: int, name: str, tile: tiles.AttentionTile) -> dict[str, Any]:
    """Those of `attend`, for sequences of up to so many rows and products that `tiles` calls `name`."""
    block_d = max(MIN_BLOCK_D, triton.next_power_of_2(head_dim))
    one_block = tile.block_n if max_seqlen <= tile.block_n else tile.one_block
    return {
        "SCALE": math.log2(math.e) / math.sqrt(head_dim), "HEADS": num_heads, "HEAD_DIM": head_dim, "BLOCK_D": block_d,
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "DEPTH": min(tile.depth, block_d), "ONE_BLOCK": one_block,
        "MANY_BLOCKS": max_seqlen > one_block, "PRECISION": "tf32" if name == "tf32" else "ieee",
    }  # fmt: skip


def width_of_head(width: int, num_heads: int) -> int:
    """`width / num_heads`.

    Raises:
        ValueError: it is no whole number of 1 to 128.
    """
    if width % num_heads or not 1 <= width // num_heads <= 128:
        raise ValueError(f"hidden_size / num_heads must be a whole number of 1 to 128, found {width} / {num_heads}")
    return width // num_heads


@dataclass(frozen=True, slots=True)
class Heads:
    """Sizes of an example: lengths of sequences, heads, and room for sequences and rows that are not there.

    With `asking` the last row of each sequence of more than two is no key.
    """

    lengths: Sequence[int]
    num_heads: int
    head_dim: int
    max_seqlen: int
    max_seqs: int = 0
    asking: bool = False
    spare: int = 0

    def __str__(self) -> str:
        return f"{sum(self.lengths)} head_dim {self.head_dim} up to {self.max_seqlen}"


class Packed:
    """Queries, keys and values of a batch of such sizes."""

    def __init__(self, a: Arrays, heads: Heads) -> None:
        self.num_heads, self.ends = heads.num_heads, [0, *itertools.accumulate(heads.lengths)]
        self.keys = [length - (heads.asking and length > 2) for length in heads.lengths]
        self.total, empty = self.ends[-1], max(0, heads.max_seqs - len(self.keys))
        self.qkv = a.random(self.total + heads.spare, 3 * heads.num_heads * heads.head_dim)
        self.cu_seqlens = a.ints(*self.ends, *[self.total] * empty)
        self.key_lengths = a.ints(*self.keys, *[0] * empty)

    def exact(self) -> Any:
        """Attention of all rows in float64."""
        query, key, value = np.split(double(self.qkv[: self.total]), 3, axis=1)
        ends, keys = (np.array(numbers, np.int32) for numbers in (self.ends, self.keys))
        return functional.attention(query, key, value, ends, keys, self.num_heads)

    def plain(self) -> torch.Tensor:
        """The same by torch."""
        return plain_attention(self.qkv, self.ends, self.keys, self.num_heads)


def plain_attention(qkv: torch.Tensor, ends: Sequence[int], keys: Sequence[int], num_heads: int) -> torch.Tensor:
    """torch's attention of each sequence by itself, `[ends[-1], H]` in the dtype of qkv."""
    found = []
    for (start, end), count in zip(pairwise(ends), keys, strict=True):
        rows = qkv[start:end].unflatten(1, (3, num_heads, -1))
        query, key, value = rows.permute(1, 2, 0, 3)[:, None]
        out = torch.nn.functional.scaled_dot_product_attention(query, key[:, :, :count], value[:, :, :count])
        found.append(out[0].transpose(0, 1).flatten(1))
    return torch.cat(found)


def heads_in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    """Sequences of 128, in room for as many as a batch of so many tokens may have."""
    length = min(tokens, 128)
    lengths, room = [length] * (tokens // length), max(4, tokens // 8)
    return [given(heads=Heads(lengths, config.num_heads, config.head_dim, tokens, room))]


def odd_heads(sizes: Sizes, dtype: str) -> list[Arguments]:
    """Odd lengths beside each other, for tiles of short and of long sequences."""
    limits = {min(limit, max(sizes.lengths)) for limit in (16, 128, 512)} if not dtype.startswith("tf32") else ()
    found = []
    for head_dim, limit in itertools.product(sizes.head_dims, sorted(limits)):
        lengths = [length for length in sizes.lengths if length <= limit]
        found.append(given(heads=Heads(lengths, 2, head_dim, limit, len(lengths) + 2, asking=True, spare=4)))
    return found


def other_heads(config: DistilBertConfig, dtype: str, chip: tiles.Chip) -> Iterator[tuple[Arguments, Entries]]:
    """Other widths of a head, for short and for long sequences."""
    for head_dim, length in itertools.product((16, 32, 128), (16, 128, 512)):
        yield given(heads=Heads([length] * (4096 // length), config.hidden_size // head_dim, head_dim, length)), {}


def _example(a: Arrays, heads: Heads) -> Example:
    p = Packed(a, heads)
    out = a.empty(len(p.qkv), heads.num_heads * heads.head_dim)
    max_seqlen, name = min(heads.max_seqlen, len(p.qkv)), product_name(a.dtype, a.precision)
    block_m = tiles.attention_tile(max_seqlen, heads.head_dim, name, chip_of(out)).block_m
    ends, keys = (np.array(numbers, np.int32) for numbers in (p.ends, p.keys))
    listed = query_blocks(ends, keys, block_m)
    most = max_query_blocks(len(p.qkv), len(p.key_lengths), block_m)
    blocks = a.ints(*np.pad(listed.ravel(), (0, BLOCK_FIELDS * (most + 1 - len(listed))), constant_values=-77).tolist())
    arrays = (out, p.qkv, blocks.view(-1, BLOCK_FIELDS), heads.num_heads)
    pairs = sum(map(operator.mul, heads.lengths, p.keys))
    return Example(
        f"attention {heads}",
        lambda: attention(*arrays, max_seqlen=heads.max_seqlen, precision=a.precision, pdl=a.pdl),
        {"out": OpOutput(out, p.exact, p.plain)},
        nbytes(p.qkv, out),
        4.0 * pairs * out.shape[1],
    )


def _choice(arguments: Arguments, dtype: str, chip: tiles.Chip) -> Choice:
    size, head_dim = arguments["heads"].max_seqlen, arguments["heads"].head_dim
    key = ("attention", chip.capability, dtype, head_dim)
    return Choice(key, size, tiles.attention_tiles(size, head_dim, dtype, chip))


OPS = (Op("attention", _example, heads_in_model, odd_heads, other_heads, _choice),)

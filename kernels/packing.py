"""Padded batches to packed rows, on the device, without reading anything back.

Reference: `distilrt.batch.pack_padded`. What the host would raise as an error is a bit of a flag
here, and whatever could lead outside a table is held within it, so a bad id never faults. Bytes moved: the padded batch
twice, the packed rows once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from distilrt.batch import PaddedInputs, pack_padded
from distilrt.kernels.attention import BLOCK_FIELDS, max_query_blocks, query_blocks
from distilrt.kernels.launch import begin, check, check_given, launch_options
from distilrt.kernels.op import Arguments, Arrays, Example, Op, OpOutput, Sizes, given, nbytes
from distilrt.model.config import DistilBertConfig

# Bits of the error flag.
BAD_ID = 1
BAD_POSITION = 2
BAD_MASK = 4

INTEGERS = (torch.int32, torch.int64)
BLOCK = 1024
_EXAMPLE_ROWS = 64  # A block of queries of the example has so many.
# One compiled kernel for all shapes and any alignment: a new batch must not wait for a compiler.
_ANY = ["ids_ptr", "mask_ptr", "positions_ptr", "batch_size", "seq_len", "ids_stride", "ids_step", "mask_stride",
        "mask_step", "positions_stride", "positions_step", "vocab_size", "max_positions"]  # fmt: skip


@triton.jit
def _mask_at(mask_ptr, where, inside):
    """Whether positions are attended to; without a mask all are."""
    if mask_ptr is None:
        kept = inside
    else:
        kept = inside & (tl.load(mask_ptr + where, inside, other=0).to(tl.float32) == 1.0)
    return kept


@triton.jit(do_not_specialize=_ANY)
def _key_lengths_kernel(
    key_lengths_ptr,  # [max_seqs]
    errors_ptr,  # [1]
    mask_ptr,  # [batch_size, seq_len] or None
    seq_len,
    mask_stride,
    mask_step,
    BLOCK: tl.constexpr,
    BAD_MASK: tl.constexpr,
    PDL: tl.constexpr,
):
    begin(PDL)
    seq = tl.program_id(0)
    row_ptr = mask_ptr + seq.to(tl.int64) * mask_stride
    count = 0
    strange = 0
    for first in range(0, seq_len, BLOCK):
        positions = first + tl.arange(0, BLOCK)
        mask = tl.load(row_ptr + positions.to(tl.int64) * mask_step, positions < seq_len, other=0).to(tl.float32)
        count += tl.sum((mask == 1.0).to(tl.int32))
        strange += tl.sum(((mask != 1.0) & (mask != 0.0)).to(tl.int32))
    tl.store(key_lengths_ptr + seq, count)
    if strange > 0:
        tl.atomic_or(errors_ptr, BAD_MASK)


@triton.jit(do_not_specialize=_ANY)
def _pack_kernel(
    input_ids_ptr,  # [max_tokens] or None
    position_ids_ptr,  # [max_tokens]
    index_ptr,  # [max_tokens]
    cu_seqlens_ptr,  # [max_seqs + 1]
    key_lengths_ptr,  # [max_seqs]
    first_rows_ptr,  # [max_seqs + 1]
    blocks_ptr,  # [max_blocks + 1, 4]
    errors_ptr,  # [1]
    ids_ptr,  # [batch_size, seq_len] or None
    mask_ptr,  # [batch_size, seq_len] or None
    positions_ptr,  # [batch_size, seq_len]
    batch_size,
    seq_len,
    ids_stride,
    ids_step,
    mask_stride,
    mask_step,
    positions_stride,
    positions_step,
    vocab_size,
    max_positions,
    KEEP_FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BAD_ID: tl.constexpr,
    BAD_POSITION: tl.constexpr,
    PDL: tl.constexpr,
):
    begin(PDL)
    seq = tl.program_id(0)
    # Rows and blocks of queries of the sequences before this one; programs after the last sequence find the totals.
    start = 0
    blocks = 0
    length = 0
    for first in range(0, tl.minimum(seq + 1, batch_size), BLOCK):
        seqs = first + tl.arange(0, BLOCK)
        inside = seqs < tl.minimum(seq + 1, batch_size)
        if mask_ptr is None:
            lengths = tl.where(inside, seq_len, 0)
        else:
            lengths = tl.load(key_lengths_ptr + seqs, inside, other=0)
            if KEEP_FIRST:
                kept = _mask_at(mask_ptr, seqs.to(tl.int64) * mask_stride, inside)
                lengths += (inside & (kept == 0)).to(tl.int32)
        length += tl.sum(tl.where(seqs == seq, lengths, 0))
        before = tl.where(seqs == seq, 0, lengths)
        start += tl.sum(before)
        blocks += tl.sum((before + BLOCK_M - 1) // BLOCK_M)
    tl.store(cu_seqlens_ptr + seq, start)
    if seq == tl.num_programs(0) - 1:
        tl.store(first_rows_ptr + seq, batch_size)
        tl.store(blocks_ptr, blocks)
    if seq < batch_size:
        if mask_ptr is None:
            num_keys = seq_len
            tl.store(key_lengths_ptr + seq, num_keys)
        else:
            num_keys = tl.load(key_lengths_ptr + seq)
        for first in range(0, length, BLOCK * BLOCK_M):
            numbers = tl.arange(0, BLOCK)
            there = blocks_ptr + (1 + blocks + first // BLOCK_M + numbers) * 4
            inside = first + numbers * BLOCK_M < length
            tl.store(there, start + tl.zeros_like(numbers), inside)
            tl.store(there + 1, first + numbers * BLOCK_M, inside)
            tl.store(there + 2, length + tl.zeros_like(numbers), inside)
            tl.store(there + 3, num_keys + tl.zeros_like(numbers), inside)
        keys_so_far = 0
        errors = 0
        for first in range(0, seq_len, BLOCK):
            positions = first + tl.arange(0, BLOCK)
            inside = positions < seq_len
            wide = positions.to(tl.int64)
            kept = _mask_at(mask_ptr, seq.to(tl.int64) * mask_stride + wide * mask_step, inside)
            rank = keys_so_far + tl.cumsum(kept.to(tl.int32), 0) - kept.to(tl.int32)  # keys before this position
            # Rows that only ask go behind the keys, so that the keys stay one contiguous run.
            packed = kept
            if KEEP_FIRST:
                packed = kept | (positions == 0)
            row = start + tl.where(kept, rank, num_keys + positions - rank)
            tl.store(index_ptr + row, seq * seq_len + positions, packed)
            tl.store(first_rows_ptr + seq + tl.zeros_like(row), tl.where(packed, row, -1), positions == 0)
            if ids_ptr is not None:
                ids = tl.load(ids_ptr + seq.to(tl.int64) * ids_stride + wide * ids_step, packed, other=0)
                good = (ids >= 0) & (ids < vocab_size)
                errors |= tl.where(tl.sum((packed & (good == 0)).to(tl.int32)) > 0, BAD_ID, 0)
                tl.store(input_ids_ptr + row, tl.where(good, ids, 0).to(tl.int32), packed)
            where = seq.to(tl.int64) * positions_stride + wide * positions_step
            numbers = tl.load(positions_ptr + where, packed, other=0)
            good = (numbers >= 0) & (numbers < max_positions)
            errors |= tl.where(tl.sum((packed & (good == 0)).to(tl.int32)) > 0, BAD_POSITION, 0)
            tl.store(position_ids_ptr + row, tl.where(good, numbers, 0).to(tl.int32), packed)
            keys_so_far += tl.sum(kept.to(tl.int32))
        if errors != 0:
            tl.atomic_or(errors_ptr, errors)


def pack(
    input_ids: torch.Tensor | None,
    position_ids: torch.Tensor,
    index: torch.Tensor,
    cu_seqlens: torch.Tensor,
    key_lengths: torch.Tensor,
    first_rows: torch.Tensor,
    blocks: torch.Tensor,
    errors: torch.Tensor,
    *,
    block_m: int,
    padded_shape: tuple[int, int],
    padded_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None = None,
    padded_positions: torch.Tensor,
    keep_first: bool = False,
    vocab_size: int,
    max_positions: int,
    pdl: bool = False,
) -> None:
    """Write the packed batch of a padded one, as `distilrt.batch.pack_padded` does, into buffers of the caller.

    But a sequence that is wholly masked has no row without `keep_first`, where the host packs its first position.

    Args:
        input_ids: `[T]` int32 to write, or None without `padded_ids`; T is at least batch_size * seq_len.
        position_ids: `[T]` int32 to write.
        index: `[T]` int32 to write: flat padded position of each packed row.
        cu_seqlens: `[max_seqs + 1]` int32 to write; entries after the last sequence repeat the total.
        key_lengths: `[max_seqs]` int32 to write; entries after the last sequence are left as they are.
        first_rows: `[max_seqs + 1]` int32 to write likewise: packed row of padded position 0; -1 where it was not
            packed. The last entry is batch_size.
        blocks: `[n + 1, 4]` int32 to write: what `attention.query_blocks` lists of the batch; n is at least
            `attention.max_query_blocks` of the buffers.
        errors: `[1]` int32; what is wrong is OR-ed into it: `BAD_ID` and `BAD_POSITION` of a packed row (0 is used in
            its place), `BAD_MASK` (a value that is not 0 or 1, taken as 0). The caller sets it to 0.
        block_m: queries of a block.
        padded_shape: batch_size, at most max_seqs, and seq_len.
        padded_ids: `[batch_size, seq_len]` int32 or int64, any strides; None where the words come as embeddings.
        attention_mask: `[batch_size, seq_len]` of 0 and 1 of any dtype, any strides; None: all 1.
        padded_positions: `[batch_size, seq_len]`, `[1, seq_len]` or `[seq_len]` int32 or int64.
        keep_first: pack position 0 even where it is masked, then to ask, after the keys.
        vocab_size, max_positions: ids and positions are below these.
        pdl: start before the kernel before has finished (`launch.begin`).

    Raises:
        ValueError: a shape or dtype that does not fit, or buffers that are too small.
    """
    batch_size, seq_len = padded_shape
    check("position_ids", position_ids, [None], [torch.int32])
    max_tokens, max_seqs = position_ids.shape[0], key_lengths.shape[0]
    if batch_size * seq_len > max_tokens or batch_size > max_seqs:
        raise ValueError(
            f"the buffers hold {max_seqs} sequences and {max_tokens} rows, "
            f"the padded batch has {batch_size} and {batch_size} * {seq_len}"
        )
    if (input_ids is None) != (padded_ids is None):
        raise ValueError("give input_ids and padded_ids, or neither")
    for name, tensor, size in (
        ("input_ids", input_ids, max_tokens), ("index", index, max_tokens), ("cu_seqlens", cu_seqlens, max_seqs + 1),
        ("key_lengths", key_lengths, max_seqs), ("first_rows", first_rows, max_seqs + 1), ("errors", errors, 1),
    ):  # fmt: skip
        check_given(name, tensor, [size], [torch.int32])
    check("blocks", blocks, [None, BLOCK_FIELDS], [torch.int32])
    if len(blocks) <= (most := max_query_blocks(max_tokens, max_seqs, block_m)):
        raise ValueError(f"blocks must have more than the {most} entries that there may be, found {len(blocks)}")
    ids_strides = _strides("padded_ids", padded_ids, padded_shape, integers=True)
    mask_strides = _strides("attention_mask", attention_mask, padded_shape, integers=False)
    position_strides = _strides("padded_positions", padded_positions, padded_shape, integers=True)
    if attention_mask is not None and batch_size:
        _key_lengths_kernel[(batch_size,)](
            key_lengths, errors, attention_mask, seq_len, *mask_strides,
            BLOCK=BLOCK, BAD_MASK=BAD_MASK, **launch_options(pdl),
        )  # fmt: skip
    _pack_kernel[(max_seqs + 1,)](
        input_ids, position_ids, index, cu_seqlens, key_lengths, first_rows, blocks, errors,
        padded_ids, attention_mask, padded_positions, batch_size, seq_len,
        *ids_strides, *mask_strides, *position_strides, vocab_size, max_positions,
        KEEP_FIRST=keep_first, BLOCK=BLOCK, BLOCK_M=block_m, BAD_ID=BAD_ID, BAD_POSITION=BAD_POSITION,
        num_warps=8, maxnreg=128, **launch_options(pdl),
    )  # fmt: skip


def _strides(
    name: str, tensor: torch.Tensor | None, padded_shape: tuple[int, int], *, integers: bool
) -> tuple[int, int]:
    """Elements from one row and one column of a padded input to the next, 0 where it is shared."""
    if tensor is None:
        return 0, 0
    allowed = [padded_shape]
    if name == "padded_positions":
        allowed += [(1, padded_shape[1]), padded_shape[1:]]  # type: ignore[list-item]
    if tuple(tensor.shape) not in allowed or (integers and tensor.dtype not in INTEGERS):
        shapes = " or ".join(str(list(shape)) for shape in allowed)
        kinds = "int32 or int64 " if integers else ""
        raise ValueError(f"{name} must be {kinds}of shape {shapes}, found {tensor.dtype} of {list(tensor.shape)}")
    strides = tensor.broadcast_to(padded_shape).stride()
    return strides[0], strides[1]


def _pack_example(a: Arrays, batch_size: int, seq_len: int, keep_first: bool = False, masked: bool = True) -> Example:
    config, size, shape = DistilBertConfig(), batch_size * seq_len, (batch_size, seq_len)
    ids, numbers = a.below(config.vocab_size, *shape).long(), a.ints(*range(seq_len)).long()
    mask = a.below(2, *shape).long() if masked else None
    if mask is not None:
        mask[:, -1] = 1
    names = ("input_ids", "position_ids", "index", "cu_seqlens", "key_lengths", "first_rows")
    sizes = (size, size, size, batch_size + 3, batch_size + 2, batch_size + 3)
    found: dict[str, Any] = {
        name: a.empty(length, dtype=torch.int32) for name, length in zip(names, sizes, strict=True)
    }
    room = max_query_blocks(size, batch_size + 2, _EXAMPLE_ROWS) + 1
    found["blocks"], errors = a.empty(room, BLOCK_FIELDS, dtype=torch.int32), a.ints(0)

    def exact(name: str) -> Any:
        given = None if mask is None else mask.cpu().numpy()
        batch, layout = pack_padded(config, PaddedInputs(ids.cpu().numpy(), given), keep_first=keep_first)
        if name == "index":
            return np.arange(size) if layout.index is None else layout.index
        if name == "blocks":
            blocks = query_blocks(batch.cu_seqlens, batch.key_lengths, _EXAMPLE_ROWS)
            blocks[0, 1:] = -77  # of the first entry, only the count is written
            return blocks
        if name == "first_rows":
            return np.array([*layout.first_rows, -77, -77, batch_size])
        values = getattr(batch, name)
        return np.array([*values, values[-1], values[-1]]) if name == "cu_seqlens" else values

    limits: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "max_positions": max(seq_len, config.max_position_embeddings),
    }
    padded: dict[str, Any] = {"padded_ids": ids, "attention_mask": mask, "padded_positions": numbers}
    return Example(
        f"pack {batch_size}x{seq_len}{' keep first' * keep_first}",
        lambda: pack(
            **found,
            errors=errors,
            block_m=_EXAMPLE_ROWS,
            padded_shape=shape,
            keep_first=keep_first,
            **padded,
            **limits,
            pdl=a.pdl,
        ),
        {name: OpOutput(tensor, partial(exact, name)) for name, tensor in found.items()},
        nbytes(ids, ids if mask is None else mask) + 3 * 4 * size,
    )


def _in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    length = min(tokens, 128)
    kinds = ((False, False), (False, True), (True, True))
    return [given(batch_size=tokens // length, seq_len=length, keep_first=first, masked=mask) for first, mask in kinds]


def odd_grids(sizes: Sizes, dtype: str) -> list[Arguments]:
    """Padded batches of odd sizes."""
    grids = ((1, 1), (3, max(sizes.lengths)), (17, 7)) if dtype == "float32" else ()
    return [given(batch_size=batch_size, seq_len=seq_len) for batch_size, seq_len in grids]


def _odd(sizes: Sizes, dtype: str) -> list[Arguments]:
    return [grid | {"keep_first": keep_first} for grid in odd_grids(sizes, dtype) for keep_first in (False, True)]


OPS = (Op("pack", _pack_example, _in_model, _odd),)

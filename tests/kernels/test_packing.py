"""Packing on the device against packing on the host, which is tested by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from distilrt import batch
from distilrt.kernels import packing
from distilrt.kernels.attention import max_query_blocks, query_blocks
from distilrt.kernels.packing import pack
from distilrt.model.config import DistilBertConfig
from tests.kernels.conftest import empty, ints

CONFIG = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=50, max_position_embeddings=2000)
Ids = npt.NDArray[Any]


class Buffers:
    """Room for `tokens` rows and `seqs` sequences, and what `pack` wrote there."""

    def __init__(self, tokens: int, seqs: int) -> None:
        self.input_ids, self.position_ids, self.index = (empty(tokens, dtype=torch.int32) for _ in range(3))
        self.cu_seqlens = empty(seqs + 1, dtype=torch.int32)
        self.key_lengths, self.first_rows = (empty(seqs + more, dtype=torch.int32) for more in (0, 1))
        self.blocks = empty(max_query_blocks(tokens, seqs, 4) + 1, 4, dtype=torch.int32)
        self.errors = ints(0)

    def pack(self, ids: torch.Tensor | None, mask: torch.Tensor | None = None, positions: torch.Tensor | None = None,
             keep_first: bool = False, shape: tuple[int, int] | None = None) -> None:  # fmt: skip
        grid = shape or (tuple(ids.shape) if ids is not None else (0, 0))
        positions = torch.arange(grid[1]) if positions is None else positions
        pack(None if ids is None else self.input_ids, self.position_ids, self.index, self.cu_seqlens, self.key_lengths,
             self.first_rows, self.blocks, self.errors, block_m=4, padded_shape=grid,  # type: ignore[arg-type]
             padded_ids=ids, attention_mask=mask, padded_positions=positions,
             keep_first=keep_first, vocab_size=50, max_positions=2000)  # fmt: skip

    def check(self, packed: batch.Batch, layout: batch.Layout) -> None:
        """The same as on the host, and nothing written beyond."""
        rows, seqs = packed.total_tokens, packed.num_seqs
        if packed.input_ids is not None:
            assert (self.input_ids[:rows].numpy() == packed.input_ids).all()
        assert (self.position_ids[:rows].numpy() == packed.position_ids).all()
        index = np.arange(rows) if layout.index is None else layout.index
        assert (self.index[:rows].numpy() == index).all()
        assert (self.cu_seqlens[: seqs + 1].numpy() == packed.cu_seqlens).all()
        assert (self.cu_seqlens[seqs:] == rows).all()
        assert (self.key_lengths[:seqs].numpy() == packed.key_lengths).all()
        assert (self.first_rows[:seqs].numpy() == layout.first_rows).all()
        assert self.first_rows[-1] == seqs
        blocks = query_blocks(packed.cu_seqlens, packed.key_lengths, 4)
        assert (self.blocks[1 : len(blocks)].numpy() == blocks[1:]).all()
        assert self.blocks[0, 0] == len(blocks) - 1
        for tensor, size in (
            (self.blocks, len(blocks)),
            (self.position_ids, rows),
            (self.index, rows),
            (self.first_rows[:-1], seqs),
        ):
            assert (tensor[size:] == -77).all()
        assert self.errors.item() == 0


def _grid(rng: np.random.Generator, *shape: int) -> tuple[Ids, Ids]:
    """Ids, and a mask of any pattern with at least one key a row."""
    mask = (rng.random(shape) < rng.random()).astype(np.int64)
    mask[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = 1
    return rng.integers(0, 50, shape), mask


@pytest.mark.parametrize("keep_first", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (5, 13), (2, 1100)])
def test_any_mask(keep_first: bool, shape: tuple[int, int], rng: np.random.Generator) -> None:
    ids, mask = _grid(rng, *shape)
    buffers = Buffers(shape[0] * shape[1] + 3, shape[0] + 2)
    buffers.pack(torch.from_numpy(ids), torch.from_numpy(mask), keep_first=keep_first)
    buffers.check(*batch.pack_padded(CONFIG, batch.PaddedInputs(ids, mask), keep_first=keep_first))


@pytest.mark.parametrize("keep_first", [False, True])
def test_no_mask(keep_first: bool, rng: np.random.Generator) -> None:
    ids, _ = _grid(rng, 4, 9)
    buffers = Buffers(40, 6)
    buffers.pack(torch.from_numpy(ids), keep_first=keep_first)
    buffers.check(*batch.pack_padded(CONFIG, batch.PaddedInputs(ids), keep_first=keep_first))


@pytest.mark.parametrize("keep_first", [False, True])
def test_more_of_everything_than_one_step(
    keep_first: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences, of which each program adds up those before its own, and positions of a sequence."""
    monkeypatch.setattr(packing, "BLOCK", 4)
    ids, mask = _grid(rng, 13, 11)
    buffers = Buffers(150, 14)
    buffers.pack(torch.from_numpy(ids), torch.from_numpy(mask), keep_first=keep_first)
    buffers.check(*batch.pack_padded(CONFIG, batch.PaddedInputs(ids, mask), keep_first=keep_first))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float32, torch.float16])
def test_dtypes_of_the_mask(kind: torch.dtype, rng: np.random.Generator) -> None:
    ids, mask = _grid(rng, 4, 9)
    buffers = Buffers(40, 6)
    buffers.pack(torch.from_numpy(ids).to(torch.int32), torch.from_numpy(mask).to(kind))
    buffers.check(*batch.pack_padded(CONFIG, batch.PaddedInputs(ids, mask)))


def test_positions_and_strides(rng: np.random.Generator) -> None:
    ids, mask = _grid(rng, 4, 9)
    for shape in ((4, 9), (1, 9), (9,)):
        positions = rng.integers(0, 2000, shape)
        buffers = Buffers(40, 6)
        transposed = torch.from_numpy(np.ascontiguousarray(ids.T)).T
        shared = torch.from_numpy(mask[:1]).expand(4, 9)
        buffers.pack(transposed, shared, torch.from_numpy(positions))
        buffers.check(
            *batch.pack_padded(
                CONFIG, batch.PaddedInputs(ids, np.broadcast_to(mask[:1], (4, 9)), position_ids=positions)
            )
        )


def test_words_as_embeddings(rng: np.random.Generator) -> None:
    _, mask = _grid(rng, 4, 9)
    buffers = Buffers(40, 6)
    buffers.pack(None, torch.from_numpy(mask), shape=(4, 9))
    packed, layout = batch.pack_padded(CONFIG, batch.PaddedInputs(None, mask, np.zeros((4, 9, 32), np.float32)))
    buffers.check(packed, layout)
    assert (buffers.input_ids == -77).all()


@pytest.mark.parametrize(
    ("bad", "bit"),
    [("id", packing.BAD_ID), ("negative id", packing.BAD_ID), ("huge id", packing.BAD_ID),
     ("position", packing.BAD_POSITION), ("mask", packing.BAD_MASK)],
)  # fmt: skip
def test_what_is_wrong_is_flagged_and_held_in_range(bad: str, bit: int) -> None:
    ids, mask = torch.full((3, 4), 7), torch.ones(3, 4)
    positions = torch.zeros(3, 4, dtype=torch.int64)
    if bad.endswith("id"):
        ids[1, 2] = {"id": 50, "negative id": -1, "huge id": 2**40 + 3}[bad]
    elif bad == "position":
        positions[1, 2] = 2000
    else:
        mask[1] = torch.tensor([0, 0.5, 1, 0])
    buffers = Buffers(12, 3)
    buffers.pack(ids, mask, positions)
    assert buffers.errors.item() == bit
    total = int(buffers.cu_seqlens[-1])
    assert ((buffers.input_ids[:total] >= 0) & (buffers.input_ids[:total] < 50)).all()
    assert ((buffers.position_ids[:total] >= 0) & (buffers.position_ids[:total] < 2000)).all()
    buffers.pack(torch.full((3, 4), 7))
    assert buffers.errors.item() == bit  # kept until the caller has seen it


def test_a_sequence_without_keys() -> None:
    ids, mask = np.arange(12).reshape(3, 4), np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]])
    buffers = Buffers(12, 4)
    buffers.pack(torch.from_numpy(ids), torch.from_numpy(mask), keep_first=True)
    buffers.check(*batch.pack_padded(CONFIG, batch.PaddedInputs(ids, mask), keep_first=True))
    buffers.pack(torch.from_numpy(ids), torch.from_numpy(mask))
    assert buffers.cu_seqlens.tolist() == [0, 2, 2, 5, 5]
    assert buffers.key_lengths.tolist()[:3] == [2, 0, 3]
    assert buffers.input_ids.tolist()[:5] == [0, 1, 9, 10, 11]
    assert buffers.errors.item() == 0


def test_bad_values_at_masked_positions_do_not_matter() -> None:
    ids, mask = torch.full((2, 4), 7), torch.ones(2, 4)
    ids[0, 3], mask[0, 3] = -100, 0
    buffers = Buffers(8, 2)
    buffers.pack(ids, mask)
    assert buffers.errors.item() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": torch.zeros(4, 4, dtype=torch.int64)}, "hold 3 sequences and 12 rows, the padded batch has 4 and 4"),
        ({"ids": torch.zeros(3, 4)}, "padded_ids must be int32 or int64 of shape"),
        ({"ids": torch.zeros(3, 4).int(), "mask": torch.ones(3, 5)}, r"attention_mask must be of shape \[3, 4\]"),
        ({"ids": torch.zeros(3, 4).int(), "positions": torch.ones(3).int()}, r"padded_positions must be .* or \[4\]"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Buffers(12, 3).pack(**arguments)


def test_a_list_of_blocks_that_is_too_short() -> None:
    b = Buffers(12, 3)
    b.blocks = b.blocks[:6]
    with pytest.raises(ValueError, match="more than the 6 entries that there may be, found 6"):
        b.pack(torch.zeros(3, 4).int())


def test_ids_without_a_buffer() -> None:
    b = Buffers(12, 3)
    with pytest.raises(ValueError, match="give input_ids and padded_ids, or neither"):
        pack(None, b.position_ids, b.index, b.cu_seqlens, b.key_lengths, b.first_rows, b.blocks, b.errors, block_m=4,
             padded_shape=(3, 4), padded_ids=torch.zeros(3, 4).int(),
             padded_positions=torch.arange(4), vocab_size=5, max_positions=9)  # fmt: skip

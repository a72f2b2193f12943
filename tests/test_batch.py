"""Packing and unpacking: where rows go, and every input that is refused."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distilrt.batch
from distilrt import _C
from distilrt.batch import PaddedInputs, check_padded, pack, pack_padded
from distilrt.errors import InvalidInput, TooLong
from distilrt.model.config import DistilBertConfig

CONFIG = DistilBertConfig(dim=32, n_heads=2, vocab_size=100, max_position_embeddings=16)


@st.composite
def grids(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    """Token ids that name their own flat position, and a mask with a 1 in each row."""
    batch_size, seq_len = draw(st.integers(1, 5)), draw(st.integers(1, 16))
    rows = st.lists(st.booleans(), min_size=seq_len, max_size=seq_len).filter(any)
    mask = np.array(draw(st.lists(rows, min_size=batch_size, max_size=batch_size)))
    return np.arange(batch_size * seq_len).reshape(batch_size, seq_len), mask


@given(grids(), st.sampled_from([bool, np.int64, np.float32]))
def test_pack_padded_takes_unmasked_positions_in_order(grid: tuple[np.ndarray, np.ndarray], dtype: Any) -> None:
    ids, mask = grid
    batch, layout = pack_padded(CONFIG, PaddedInputs(ids, mask.astype(dtype)))
    assert batch.input_ids is not None
    assert batch.input_ids.tolist() == ids[mask].tolist()
    assert batch.position_ids.tolist() == [p for row in mask for p in np.flatnonzero(row)]
    assert np.diff(batch.cu_seqlens).tolist() == batch.key_lengths.tolist() == mask.sum(axis=1).tolist()
    assert batch.max_seqlen == mask.sum(axis=1).max()
    assert (batch.num_seqs, batch.total_tokens) == (len(ids), mask.sum())
    for array in (batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.key_lengths):
        assert array.dtype == np.int32
        assert array.flags.c_contiguous
    assert layout.gather(ids).tolist() == batch.input_ids.tolist()
    assert layout.unpack(batch.input_ids + 1).tolist() == np.where(mask, ids + 1, 0).tolist()
    for row, first in zip(mask, layout.first_rows, strict=True):
        assert (first == -1) != row[0]


@given(grids(), st.booleans())
def test_asking_rows_go_behind_the_keys(grid: tuple[np.ndarray, np.ndarray], everything: bool) -> None:
    ids, mask = grid
    batch, layout = pack_padded(CONFIG, PaddedInputs(ids, mask), keep_first=not everything, keep_masked=everything)
    assert batch.input_ids is not None
    assert batch.key_lengths.tolist() == mask.sum(axis=1).tolist()
    for seq, row in enumerate(mask):
        own = batch.input_ids[batch.cu_seqlens[seq] : batch.cu_seqlens[seq + 1]]
        asking = ~row if everything else ~row & (np.arange(len(row)) == 0)
        assert own.tolist() == [*ids[seq][row], *ids[seq][asking]]
        assert batch.input_ids[layout.first_rows[seq]] == ids[seq, 0]
    assert batch.max_seqlen == np.diff(batch.cu_seqlens).max()
    assert layout.unpack(batch.input_ids + 1).tolist() == np.where(mask, ids + 1, 0).tolist()
    shown = mask | everything
    shown[:, 0] = True
    assert layout.unpack(batch.input_ids + 1, masked=True).tolist() == np.where(shown, ids + 1, 0).tolist()


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=16), max_size=6), st.booleans())
def test_pack_is_pack_padded_without_padding(sequences: list[list[int]], native: bool) -> None:
    with mock.patch.object(distilrt.batch, "pack_lists", _C.pack_lists if native else None):
        batch = pack(CONFIG, sequences)
    assert all(array.dtype == np.int32 for array in (batch.position_ids, batch.cu_seqlens, batch.key_lengths))
    assert batch.input_ids is not None
    assert batch.input_ids.tolist() == [i for ids in sequences for i in ids]
    assert batch.position_ids.tolist() == [p for ids in sequences for p in range(len(ids))]
    assert batch.cu_seqlens.tolist() == np.cumsum([0, *map(len, sequences)]).tolist()
    assert batch.key_lengths.tolist() == [*map(len, sequences)]
    assert batch.max_seqlen == max(map(len, sequences), default=0)


@pytest.mark.parametrize("native", [False, True])
def test_more_tokens_than_offsets_can_count(native: bool) -> None:
    """It is found before anything is laid out, which would take 8 GiB."""
    error = pytest.raises(InvalidInput, match=r"at most 2147483647 tokens, found 2147483648; .* several batches")
    with mock.patch.object(distilrt.batch, "pack_lists", _C.pack_lists if native else None), error:
        pack(CONFIG, [[0] * 2**20] * 2**11)


def test_more_positions_than_offsets_can_count() -> None:
    grid = np.broadcast_to(np.int8(0), (2**11, 2**20))
    for inputs in (PaddedInputs(grid), PaddedInputs(grid, grid)):
        with pytest.raises(InvalidInput, match=r"at most 2147483647 tokens, found 2147483648; .* several batches"):
            check_padded(CONFIG, inputs)


def test_unmasked_rows_are_the_grid_itself() -> None:
    batch, layout = pack_padded(CONFIG, PaddedInputs(np.ones((2, 3), np.int32), np.ones((2, 3))))
    assert layout.index is None
    assert layout.first_rows.tolist() == [0, 3]
    rows = np.zeros((6, 4), np.float32)
    assert np.shares_memory(layout.unpack(rows), rows)
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5)])
@pytest.mark.parametrize("masked", [False, True])
def test_no_sequences(shape: tuple[int, int], masked: bool) -> None:
    batch, layout = pack_padded(CONFIG, PaddedInputs(np.zeros(shape), np.zeros(shape) if masked else None))
    assert (batch.num_seqs, batch.total_tokens, batch.max_seqlen) == (0, 0, 0)
    assert batch.cu_seqlens.tolist() == [0]
    assert layout.first_rows.tolist() == []
    assert layout.unpack(np.zeros((0, 7), np.float32)).shape == (*shape, 7)


def test_position_ids_and_inputs_embeds() -> None:
    embeds = np.arange(2 * 3 * 32, dtype=np.float64).reshape(2, 3, 32)
    mask = [[1, 0, 1], [1, 1, 0]]
    for positions in ([5, 4, 3], [[5, 4, 3]], [[5, 4, 3], [5, 4, 3]]):
        batch, _ = pack_padded(CONFIG, PaddedInputs(None, mask, embeds, positions))
        assert batch.position_ids.tolist() == [5, 3, 5, 4]
    assert batch.input_ids is None
    assert batch.inputs_embeds is not None
    assert batch.inputs_embeds.dtype == np.float32
    assert np.array_equal(batch.inputs_embeds, embeds[np.array(mask, bool)])


def test_views_lists_and_read_only_arrays_are_accepted_and_unchanged() -> None:
    ids = np.arange(24).reshape(2, 12)[:, ::-2]
    frozen = ids.copy()
    frozen.flags.writeable = False
    mask = np.ones((6, 2), np.uint8).T
    expected = pack_padded(CONFIG, PaddedInputs(ids.tolist(), mask.tolist()))[0].input_ids
    assert expected is not None
    for value in (ids, frozen, ids.astype(np.uint8), ids.astype(np.int16), np.asfortranarray(ids)):
        before = value.copy()
        found = pack_padded(CONFIG, PaddedInputs(value, mask))[0].input_ids
        assert np.array_equal(found, expected)  # type: ignore[arg-type]
        assert np.array_equal(value, before)


ONES = np.ones((2, 3), np.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of input_ids and inputs_embeds"),
        ({"input_ids": ONES, "inputs_embeds": np.ones((2, 3, 32))}, "exactly one of input_ids and inputs_embeds"),
        ({"input_ids": [1, 2]}, r"\[batch_size, seq_len\], found \[2\]"),
        ({"input_ids": ONES[None]}, r"found \[1, 2, 3\]"),
        ({"input_ids": [[1, 2], [3]]}, "input_ids is not a rectangular array.*Pad"),
        ({"input_ids": ONES * 1.0}, "integers, found dtype float64"),
        ({"input_ids": ONES == 1}, "integers, found dtype bool"),
        ({"input_ids": [["a"]]}, "integers, found dtype <U1"),
        ({"input_ids": [[2**70]]}, "integers, found dtype object"),
        ({"input_ids": ONES * 100}, "holds 100; token ids of this model are 0 to 99"),
        ({"input_ids": -ONES}, "holds -1"),
        ({"input_ids": np.full((1, 1), 2**63 + 5, np.uint64)}, "holds 9223372036854775813"),
        ({"input_ids": np.ones((2, 0), int)}, "seq_len is 0"),
        ({"input_ids": ONES, "attention_mask": ONES[:1]}, r"attention_mask must have shape \[2, 3\].*found \[1, 3\]"),
        ({"input_ids": ONES, "attention_mask": ONES[0]}, r"found \[3\]"),
        ({"input_ids": ONES, "attention_mask": [[1, 1, 1], [1]]}, "attention_mask is not a rectangular array"),
        ({"input_ids": ONES, "attention_mask": ONES * 2}, "only 0 and 1"),
        ({"input_ids": ONES, "attention_mask": -ONES}, "only 0 and 1"),
        ({"input_ids": ONES, "attention_mask": ONES * 0.5}, "only 0 and 1"),
        ({"input_ids": ONES, "attention_mask": ONES * np.nan}, "only 0 and 1"),
        ({"input_ids": ONES, "attention_mask": [["a"] * 3] * 2}, "0 and 1, found dtype <U1"),
        ({"input_ids": ONES, "position_ids": ONES * 0.5}, "position_ids must hold integers, found dtype float64"),
        ({"input_ids": ONES, "position_ids": ONES[:, :2]}, r"\[2, 3\], \[1, 3\] or \[3\], found \[2, 2\]"),
        ({"input_ids": ONES, "position_ids": [[1], [1, 2]]}, "position_ids is not a rectangular array"),
        ({"input_ids": ONES, "position_ids": -ONES}, "position_ids holds -1; this model has positions 0 to 15"),
        ({"inputs_embeds": np.ones((2, 3, 31))}, r"\[batch_size, seq_len, 32\], found \[2, 3, 31\]"),
        ({"inputs_embeds": np.ones((2, 32))}, r"found \[2, 32\]"),
        ({"inputs_embeds": np.ones((2, 3, 32), int)}, "floating-point numbers, found dtype int64"),
        ({"inputs_embeds": [[[1.0], [1.0, 2.0]]]}, "inputs_embeds is not a rectangular array"),
    ],
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        pack_padded(CONFIG, PaddedInputs(**arguments))
    assert not isinstance(caught.value, TooLong)


@pytest.mark.parametrize("keep", [{}, {"keep_first": True}, {"keep_masked": True}], ids=str)
def test_a_sequence_without_keys_still_asks(keep: dict[str, bool]) -> None:
    batch, layout = pack_padded(CONFIG, PaddedInputs(ONES * [[1], [2]], [[0, 0, 0], [0, 1, 1]]), **keep)
    assert batch.key_lengths.tolist() == [0, 2]
    lengths = np.diff(batch.cu_seqlens).tolist()
    assert lengths == {"keep_first": [1, 3], "keep_masked": [3, 3]}.get(next(iter(keep), ""), [1, 2])
    rows = np.ones((batch.total_tokens, 1))
    assert layout.unpack(rows)[..., 0].tolist() == [[0, 0, 0], [0, 1, 1]]


def test_too_long() -> None:
    with pytest.raises(TooLong, match="at position 16; this model has positions 0 to 15"):
        pack_padded(CONFIG, PaddedInputs(np.ones((1, 17), int)))
    with pytest.raises(TooLong, match="at position 99"):
        pack_padded(CONFIG, PaddedInputs(ONES, position_ids=ONES * 99))
    with pytest.raises(TooLong, match="at position 16"):
        pack(CONFIG, [[1] * 17])
    mask = np.arange(20) < 16
    assert pack_padded(CONFIG, PaddedInputs(np.ones((1, 20), int), mask[None]))[0].total_tokens == 16


def test_masked_positions_are_not_checked() -> None:
    batch, _ = pack_padded(CONFIG, PaddedInputs([[5, -100]], [[1, 0]], position_ids=[[0, 999]]))
    assert batch.total_tokens == 1


def test_pack_refuses() -> None:
    for sequences, message in (
        ([[1], []], "sequence 1 is empty"),
        ([[1], [[2]]], r"sequence 1 must have shape \[seq_len\], found \[1, 1\]"),
        ([[1.5]], "sequence 0 must hold integers"),
        ([[1, 100]], "holds 100"),
        ([[1, -1]], "holds -1"),
        ([[1, 1 << 70]], "sequence 0 must hold integers"),
        ([[True]], "sequence 0 must hold integers"),
    ):
        with pytest.raises(InvalidInput, match=message):
            pack(CONFIG, sequences)

"""The packed batch: sequences laid end to end without padding, and the way there and back.

Padding and masks exist only in `pack_padded` and `Layout.unpack`; everything between them sees rows. This module
checks all inputs once, so that backends need not, and knows nothing of weights or devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distilrt.errors import InvalidInput, TooLong
from distilrt.model.config import DistilBertConfig

IntArray = npt.NDArray[np.int32]
IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class PaddedInputs(NamedTuple):
    """A padded batch as a caller gives it, of any kind of array; `pack_padded` says what each is."""

    input_ids: Any
    attention_mask: Any
    inputs_embeds: Any
    position_ids: Any
    token_type_ids: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows of `num_seqs` sequences; exactly one of `input_ids` and `inputs_embeds` is set.

    Rows of sequence i are `cu_seqlens[i]` to `cu_seqlens[i + 1] - 1`. The first `key_lengths[i]` of them are attended
    to; a row after those only asks (the masked first position of a left-padded sequence, which the reference's
    classification heads read). Without such rows `key_lengths` is the difference of `cu_seqlens`.
    """

    input_ids: IntArray | None  # [total_tokens]
    inputs_embeds: FloatArray | None  # [total_tokens, hidden_size], before position embeddings
    position_ids: IntArray  # [total_tokens]
    cu_seqlens: IntArray  # [num_seqs + 1], starts at 0
    key_lengths: IntArray  # [num_seqs]; 0 where a mask leaves no key, and attention then gives zeros
    max_seqlen: int

    @property
    def num_seqs(self) -> int:
        """Sequences in the batch."""
        return len(self.key_lengths)

    @property
    def total_tokens(self) -> int:
        """Rows of the packed batch."""
        return len(self.position_ids)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the packed rows lie in the padded `[batch_size, seq_len]` grid they came from."""

    shape: tuple[int, int]
    index: IndexArray | None  # [total_tokens] flat padded position of each row; None: rows are the whole grid, in order
    first_rows: IndexArray  # [batch_size] packed row of padded position 0; -1 where it was not packed
    masked_rows: IndexArray | None = None  # packed rows of masked positions, which only ask; None: there are none

    def unpack(self, rows: npt.NDArray[Any], *, masked: bool = False) -> npt.NDArray[Any]:
        """Spread packed `[total_tokens, …]` rows over `[batch_size, seq_len, …]`, with zeros at masked positions.

        With `masked`, a masked position that was packed shows its row. Where nothing was masked the result is a view.
        """
        if self.index is None:
            return rows.reshape(*self.shape, *rows.shape[1:])
        padded = np.zeros((self.shape[0] * self.shape[1], *rows.shape[1:]), rows.dtype)
        padded[self.index] = rows
        if self.masked_rows is not None and not masked:
            padded[self.index[self.masked_rows]] = 0
        return padded.reshape(*self.shape, *rows.shape[1:])

    def gather(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Take the packed rows out of a padded `[batch_size, seq_len, …]` array."""
        flat = padded.reshape(self.shape[0] * self.shape[1], *padded.shape[2:])
        return flat if self.index is None else flat[self.index]


def pack(config: DistilBertConfig, sequences: Sequence[Any]) -> Batch:
    """Lay token-id sequences of any lengths end to end.

    Args:
        config: gives the vocabulary and the longest allowed sequence.
        sequences: one list or 1-D integer array of token ids each, not empty.

    Raises:
        InvalidInput: an id outside the vocabulary, an empty sequence, a wrong rank or dtype.
        TooLong: a sequence longer than `max_position_embeddings`.
    """
    parts = [_as_ids(ids, f"sequence {i}", rank=1) for i, ids in enumerate(sequences)]
    lengths = np.array([len(part) for part in parts], np.int64)
    if (lengths == 0).any():
        raise InvalidInput(f"sequence {int(np.argmin(lengths))} is empty; each needs at least one token id")
    cu_seqlens = _cumulative(lengths)
    ids = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    positions = np.arange(len(ids)) - np.repeat(cu_seqlens[:-1], lengths)
    return _checked(config, ids, None, positions, cu_seqlens, lengths, int(lengths.max(initial=0)))


def pack_padded(
    config: DistilBertConfig,
    input_ids: Any = None,
    attention_mask: Any = None,
    position_ids: Any = None,
    inputs_embeds: Any = None,
    *,
    keep_first: bool = False,
    keep_masked: bool = False,
) -> tuple[Batch, Layout]:
    """Take the unmasked positions of a padded batch as packed rows.

    Args:
        config: gives vocabulary, width and the longest allowed sequence.
        input_ids: `[batch_size, seq_len]` integers; or None with `inputs_embeds`.
        attention_mask: `[batch_size, seq_len]` of 0 and 1 in any pattern; None: all 1.
        position_ids: `[batch_size, seq_len]`, `[1, seq_len]` or `[seq_len]` integers; None: 0, 1, 2, … as in the
            reference, which counts masked positions too.
        inputs_embeds: `[batch_size, seq_len, hidden_size]` floats in place of looked-up word embeddings.
        keep_first: pack position 0 of every sequence even where it is masked; it then asks but is not attended to.
        keep_masked: pack every masked position so.

    Raises:
        InvalidInput: wrong shape, dtype or values; the message names the argument.
        TooLong: a position beyond `max_position_embeddings`.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise InvalidInput("give exactly one of input_ids and inputs_embeds")
    embeds = None
    if inputs_embeds is not None:
        embeds = _as_embeds(inputs_embeds, config.hidden_size)
        shape = (embeds.shape[0], embeds.shape[1])
        embeds = embeds.reshape(-1, config.hidden_size)
        ids = None
    else:
        grid = _as_ids(input_ids, "input_ids", rank=2)
        shape = (grid.shape[0], grid.shape[1])
        ids = grid.reshape(-1)
    batch_size, seq_len = shape
    if batch_size and not seq_len:
        raise InvalidInput("the sequences are empty: seq_len is 0; each needs at least one token id")
    positions = _as_positions(position_ids, shape)
    mask = None if attention_mask is None else _as_mask(attention_mask, shape)
    if mask is None:
        cu_seqlens = np.arange(0, batch_size * seq_len + 1, seq_len or 1)
        key_lengths = np.full(batch_size, seq_len)
        layout = Layout(shape, None, cu_seqlens[:-1])
        return _checked(config, ids, embeds, positions, cu_seqlens, key_lengths, seq_len if batch_size else 0), layout

    key_lengths = mask.sum(axis=1)
    # A sequence without a key still has a row, position 0, which asks and gets zeros.
    lengths = key_lengths if key_lengths.all() else np.maximum(key_lengths, 1)
    if keep_masked:
        lengths = np.full(batch_size, seq_len)
    elif keep_first:
        lengths = key_lengths + ~mask[:, 0]
    cu_seqlens = _cumulative(lengths)
    masked_rows = None
    if lengths is key_lengths or not (lengths > key_lengths).any():
        index = np.flatnonzero(mask)
    else:
        # A sequence's asking rows go behind its keys, so that the keys stay one contiguous run.
        order = np.argsort(~mask, axis=1, kind="stable") + np.arange(batch_size)[:, None] * seq_len
        index = order[np.arange(seq_len) < lengths[:, None]]
        masked_rows = np.flatnonzero(~mask.reshape(-1)[index])
    masked_first = np.where(lengths > key_lengths, cu_seqlens[:-1] + key_lengths, -1)
    first_rows = np.where(mask[:, 0], cu_seqlens[:-1], masked_first)
    batch = _checked(
        config,
        None if ids is None else ids[index],
        None if embeds is None else embeds[index],
        positions[index],
        cu_seqlens,
        key_lengths,
        int(lengths.max()),
    )
    return batch, Layout(shape, index, first_rows, masked_rows)


def _cumulative(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def _checked(
    config: DistilBertConfig,
    ids: npt.NDArray[Any] | None,
    embeds: FloatArray | None,
    positions: npt.NDArray[Any],
    cu_seqlens: npt.NDArray[np.int64],
    key_lengths: npt.NDArray[np.int64],
    max_seqlen: int,
) -> Batch:
    """Range-check ids and positions of the packed rows and narrow everything to int32."""
    if ids is not None and _any_outside(ids, config.vocab_size):
        bad = int(ids[(ids < 0) | (ids >= config.vocab_size)][0])
        raise InvalidInput(
            f"input_ids holds {bad}; token ids of this model are 0 to {config.vocab_size - 1}. "
            "Was the text tokenized with another model's tokenizer?"
        )
    limit = config.max_position_embeddings
    if _any_outside(positions, limit):
        lowest, highest = int(positions.min()), int(positions.max())
        if lowest < 0:
            raise InvalidInput(f"position_ids holds {lowest}; this model has positions 0 to {limit - 1}")
        raise TooLong(f"a token is at position {highest}; this model has positions 0 to {limit - 1}. "
                      "Truncate or split the text")  # fmt: skip
    return Batch(
        input_ids=None if ids is None else np.ascontiguousarray(ids, np.int32),
        inputs_embeds=None if embeds is None else np.ascontiguousarray(embeds, np.float32),
        position_ids=np.ascontiguousarray(positions, np.int32),
        cu_seqlens=cu_seqlens.astype(np.int32),
        key_lengths=key_lengths.astype(np.int32),
        max_seqlen=max_seqlen,
    )


def _any_outside(values: npt.NDArray[Any], limit: int) -> bool:
    """Whether any integer is not in 0 to `limit - 1`; seen as unsigned, a negative one is huge."""
    return bool((values.astype(np.uint64) >= limit).any())


def _as_ids(value: Any, name: str, rank: int) -> npt.NDArray[Any]:
    array = _as_array(value, name)
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int64)  # what NumPy makes of an empty list
    if array.ndim != rank:
        shape = "[batch_size, seq_len]" if rank == 2 else "[seq_len]"
        raise InvalidInput(f"{name} must have shape {shape}, found {list(array.shape)}")
    if array.dtype.kind not in "iu":
        raise InvalidInput(f"{name} must hold integers, found dtype {array.dtype}")
    return array


def _as_embeds(value: Any, hidden_size: int) -> FloatArray:
    array = _as_array(value, "inputs_embeds")
    if array.ndim != 3 or array.shape[2] != hidden_size:
        raise InvalidInput(
            f"inputs_embeds must have shape [batch_size, seq_len, {hidden_size}], found {list(array.shape)}"
        )
    if array.dtype.kind != "f":
        raise InvalidInput(f"inputs_embeds must hold floating-point numbers, found dtype {array.dtype}")
    return array.astype(np.float32, copy=False)


def _as_positions(value: Any, shape: tuple[int, int]) -> npt.NDArray[Any]:
    if value is None:
        positions = np.arange(shape[1], dtype=np.int32)
        return positions if shape[0] == 1 else np.broadcast_to(positions, shape).reshape(-1)
    array = _as_array(value, "position_ids")
    if array.dtype.kind not in "iu":
        raise InvalidInput(f"position_ids must hold integers, found dtype {array.dtype}")
    if array.shape not in (shape, (1, shape[1]), shape[1:]):
        raise InvalidInput(
            f"position_ids must have shape {list(shape)}, [1, {shape[1]}] or [{shape[1]}], found {list(array.shape)}"
        )
    return np.broadcast_to(array, shape).reshape(-1)


def _as_mask(value: Any, shape: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
    """The mask as booleans; None where nothing is masked."""
    array = _as_array(value, "attention_mask")
    if array.shape != shape:
        raise InvalidInput(f"attention_mask must have shape {list(shape)} like the inputs, found {list(array.shape)}")
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"attention_mask must hold 0 and 1, found dtype {array.dtype}")
    mask: npt.NDArray[np.bool_] = array == 1
    kept = np.count_nonzero(mask)
    if kept == array.size:
        return None
    if kept + np.count_nonzero(array == 0) < array.size:
        raise InvalidInput("attention_mask must hold only 0 and 1 (additive and soft masks are not supported)")
    return mask


def _as_array(value: Any, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise InvalidInput(f"{name} is not a rectangular array: {error}. Pad the sequences to one length") from error

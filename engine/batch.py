"""The packed batch: sequences laid end to end without padding, and the way there and back.

Padding and masks exist only in `pack_padded` and `Layout.unpack`; everything between them sees rows. Every input is
checked here and nowhere else: shapes and dtypes also for tensors that a GPU packs itself (`check_padded`). This module
knows nothing of weights or devices.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distilrt.errors import InvalidInput, TooLong
from distilrt.model.array_kinds import as_array, kind_of
from distilrt.model.config import DistilBertConfig

try:
    from distilrt._C import pack_lists
except ImportError:  # The GPU backend runs without the native extension.
    pack_lists = None  # type: ignore[assignment]

IntArray = npt.NDArray[np.int32]
IndexArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.float32]


class PaddedInputs(NamedTuple):
    """A padded batch as a caller gives it, of arrays or of tensors; one of `input_ids` and `inputs_embeds` is None.

    Attributes:
        input_ids: `[batch_size, seq_len]` integers.
        attention_mask: `[batch_size, seq_len]` of 0 and 1 in any pattern; None: all 1.
        inputs_embeds: `[batch_size, seq_len, hidden_size]` floats in place of looked-up word embeddings.
        position_ids: `[batch_size, seq_len]`, `[1, seq_len]` or `[seq_len]` integers; None: 0, 1, 2, … as in the
            reference, which counts masked positions too.
        token_type_ids: `[batch_size, seq_len]` integers below a BERT's `type_vocab_size`; None: 0. A DistilBERT has no
            token types, and they are not read.
    """

    input_ids: Any = None
    attention_mask: Any = None
    inputs_embeds: Any = None
    position_ids: Any = None
    token_type_ids: Any = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows of `num_seqs` sequences; exactly one of `input_ids` and `inputs_embeds` is set.

    Rows of sequence i are `cu_seqlens[i]` to `cu_seqlens[i + 1] - 1`. The first `key_lengths[i]` of them are attended
    to. The rows after those are query-only: they attend, and no row attends to them. Such is the masked first position
    of a left-padded sequence, which the reference's classification heads read. Without query-only rows `key_lengths`
    is the difference of `cu_seqlens`.
    """

    input_ids: IntArray | None  # [total_tokens]
    inputs_embeds: FloatArray | None  # [total_tokens, hidden_size], before position embeddings
    position_ids: IntArray  # [total_tokens]; of a token of type t more by t * max_position_embeddings
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


class TypedIds(list[int]):
    """The token ids of a sequence, with the type of each in `token_types`: in a BERT, which text of a pair it is of.

    None: they are all 0.
    """

    def __init__(self, ids: Iterable[int], token_types: list[int] | None = None) -> None:
        super().__init__(ids)
        self.token_types = token_types

    def __reduce__(self) -> Any:
        return type(self), (list(self), self.token_types)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the packed rows lie in the padded `[batch_size, seq_len]` grid they came from."""

    shape: tuple[int, int]
    index: IndexArray | None  # [total_tokens] flat padded position of each row; None: rows are the whole grid, in order
    first_rows: IndexArray  # [batch_size] packed row of padded position 0; -1 where it was not packed
    masked_rows: IndexArray | None = None  # packed rows of masked positions, which are query-only; None: there are none

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

    Each is a list or a 1-D integer array of token ids of the config's vocabulary, not empty. In a BERT a `TypedIds`
    says the type of each token, which else is 0.

    Raises:
        InvalidInput: an id outside the vocabulary, an empty sequence, a wrong rank or dtype, more than 2^31 - 1 tokens,
            a token type that the model does not have.
        TooLong: a sequence longer than `max_position_embeddings`.
    """
    packed = None if pack_lists is None else pack_lists(sequences, config.vocab_size)
    if packed is None:  # other kinds of sequences, or a wrong one
        packed = _pack_arrays(config, sequences)
    ids, positions, cu_seqlens, key_lengths, longest = packed
    if longest > config.max_position_embeddings:
        raise too_long(longest - 1, config)
    if config.is_bert:
        types = [ids.token_types if isinstance(ids, TypedIds) else None for ids in sequences]
        if any(types):
            rows = [each or [0] * len(ids) for each, ids in zip(types, sequences, strict=True)]
            positions = positions + type_rows(config, np.concatenate(rows))
    return Batch(ids, None, positions, cu_seqlens, key_lengths, longest)


def type_rows(config: DistilBertConfig, token_types: npt.NDArray[Any]) -> IntArray:
    """What token types add to positions, by which backends look up both at once; of the same shape.

    Raises:
        InvalidInput: a type that the model does not have.
    """
    if _any_outside(token_types, config.type_vocab_size):
        bad = int(token_types[(token_types < 0) | (token_types >= config.type_vocab_size)][0])
        raise InvalidInput(
            f"token_type_ids holds {bad}; token types of this model are 0 to {config.type_vocab_size - 1}"
        )
    rows: IntArray = token_types.astype(np.int32) * np.int32(config.max_position_embeddings)
    return rows


def _pack_arrays(
    config: DistilBertConfig, sequences: Sequence[Any]
) -> tuple[IntArray, IntArray, IntArray, IntArray, int]:
    """What `pack_lists` returns, of any kinds of sequences; the errors of `pack`."""
    ids: IndexArray
    try:
        _check_count(sum(map(len, sequences)))
        ids = _ids_of_lists(sequences)
    except (TypeError, OverflowError, LookupError):
        ids = _ids_of_arrays(sequences)
    _check_token_ids(config, ids)
    lengths = list(map(len, sequences))
    cu_seqlens, key_lengths = np.array([0, *accumulate(lengths)], np.int32), np.array(lengths, np.int32)
    positions = np.arange(len(ids), dtype=np.int32) - cu_seqlens[:-1].repeat(key_lengths)
    return np.ascontiguousarray(ids, np.int32), positions, cu_seqlens, key_lengths, max(lengths, default=0)


def _ids_of_lists(sequences: Sequence[Any]) -> IntArray:
    """The ids of lists end to end; an error where one is no list of at least one integer, or holds a huge one."""
    ids = array("i")
    for sequence in sequences:
        if type(sequence[0]) is bool:
            raise TypeError
        ids.fromlist(sequence)
    return np.array(ids)


def _ids_of_arrays(sequences: Sequence[Any]) -> IndexArray:
    parts = [as_array(ids, f"sequence {i}") for i, ids in enumerate(sequences)]
    for i, part in enumerate(parts):
        _check_ids(part, f"sequence {i}", rank=1)
        if not len(part):
            raise InvalidInput(f"sequence {i} is empty; each needs at least one token id")
    return np.concatenate(parts)


def check_padded(config: DistilBertConfig, inputs: PaddedInputs) -> tuple[int, int]:
    """The batch_size and seq_len of a padded batch, of arrays or of tensors, whose values are not read.

    Raises:
        InvalidInput: a wrong shape or dtype, and the message names the argument; more than 2^31 - 1 positions.
    """
    ids, mask, embeds, position_ids, token_type_ids = inputs
    if (ids is None) == (embeds is None):
        by_name = ", and token_type_ids by their name" if config.is_bert else ""
        raise InvalidInput(f"give exactly one of input_ids and inputs_embeds{by_name}")
    if embeds is None:
        _check_ids(ids, "input_ids", rank=2)
        shape = batch_size, seq_len = tuple(ids.shape)
    else:
        width = config.hidden_size
        if embeds.ndim != 3 or embeds.shape[2] != width:
            found = list(embeds.shape)
            raise InvalidInput(f"inputs_embeds must have shape [batch_size, seq_len, {width}], found {found}")
        _check_dtype(embeds, "inputs_embeds", "f", "floating-point numbers")
        shape = batch_size, seq_len = tuple(embeds.shape[:2])
    if batch_size and not seq_len:
        raise InvalidInput("the sequences are empty: seq_len is 0; each needs at least one token id")
    _check_count(batch_size * seq_len)
    if mask is not None:
        _check_grid(mask, "attention_mask", shape)
        _check_dtype(mask, "attention_mask", "biuf", "0 and 1")
    if position_ids is not None:
        _check_dtype(position_ids, "position_ids", "iu", "integers")
        if position_ids.shape not in (shape, (1, seq_len), (seq_len,)):
            allowed = f"{list(shape)}, [1, {seq_len}] or [{seq_len}]"
            raise InvalidInput(f"position_ids must have shape {allowed}, found {list(position_ids.shape)}")
    if config.is_bert and token_type_ids is not None:
        _check_grid(token_type_ids, "token_type_ids", shape)
        _check_dtype(token_type_ids, "token_type_ids", "iu", "integers")
    return shape


def pack_padded(
    config: DistilBertConfig, inputs: PaddedInputs, *, keep_first: bool = False, keep_masked: bool = False
) -> tuple[Batch, Layout]:
    """Take the unmasked positions of a padded batch as packed rows.

    Args:
        inputs: of lists, arrays or tensors.
        keep_first: pack position 0 of every sequence even where it is masked, then as a query-only row.
        keep_masked: pack every masked position so.

    Raises:
        InvalidInput: wrong shape, dtype or values; the message names the argument.
        TooLong: a position beyond `max_position_embeddings`.
    """
    inputs = PaddedInputs(*map(as_array, inputs, PaddedInputs._fields))
    ids, mask, embeds, position_ids, token_type_ids = inputs
    shape = batch_size, seq_len = check_padded(config, inputs)
    unmasked = None if mask is None else _unmasked(mask)
    if unmasked is None:
        cu_seqlens = np.arange(0, batch_size * seq_len + 1, seq_len or 1, dtype=np.int32)
        key_lengths, longest = np.full(batch_size, seq_len, np.int32), seq_len if batch_size else 0
        layout = Layout(shape, None, cu_seqlens[:-1])
    else:
        key_lengths = unmasked.sum(axis=1, dtype=np.int32)
        lengths = _row_counts(unmasked, key_lengths, keep_first, keep_masked)
        cu_seqlens, longest = _cumulative(lengths), int(lengths.max())
        layout = _layout(unmasked, key_lengths, lengths, cu_seqlens)
    index = slice(None) if layout.index is None else layout.index
    if ids is not None:
        ids = ids.reshape(-1)[index]
        _check_token_ids(config, ids)
    if embeds is not None:
        embeds = embeds.reshape(-1, config.hidden_size)[index]
    positions = _flat_positions(position_ids, shape)[index]
    if position_ids is not None or seq_len > config.max_position_embeddings:
        _check_positions(config, positions)
    if config.is_bert and token_type_ids is not None:
        types = layout.gather(token_type_ids)
        positions = positions + type_rows(config, types) if types.any() else positions
    ids = None if ids is None else np.ascontiguousarray(ids, np.int32)
    embeds = None if embeds is None else np.ascontiguousarray(embeds, np.float32)
    positions = np.ascontiguousarray(positions, np.int32)
    return Batch(ids, embeds, positions, cu_seqlens, key_lengths, longest), layout


def _row_counts(
    mask: npt.NDArray[np.bool_], key_lengths: IndexArray, keep_first: bool, keep_masked: bool
) -> IndexArray:
    """How many rows each sequence has: its keys, and masked positions that are kept."""
    if keep_masked:
        return np.full(len(mask), mask.shape[1])
    if keep_first:
        return key_lengths + ~mask[:, 0]
    # A sequence without a key still has one query-only row, position 0, whose attention is zero.
    return np.maximum(key_lengths, 1)


def _layout(mask: npt.NDArray[np.bool_], key_lengths: IndexArray, lengths: IndexArray, cu_seqlens: IntArray) -> Layout:
    batch_size, seq_len = mask.shape
    more = lengths > key_lengths
    masked_rows = None
    if not more.any():
        index = np.flatnonzero(mask)
    else:
        # The query-only rows of a sequence follow its keys, so that the keys stay contiguous.
        order = np.argsort(~mask, axis=1, kind="stable") + np.arange(batch_size)[:, None] * seq_len
        index = order[np.arange(seq_len) < lengths[:, None]]
        masked_rows = np.flatnonzero(~mask.reshape(-1)[index])
    masked_first = np.where(more, cu_seqlens[:-1] + key_lengths, -1)
    first_rows = np.where(mask[:, 0], cu_seqlens[:-1], masked_first)
    return Layout((batch_size, seq_len), index, first_rows, masked_rows)


def _cumulative(lengths: IndexArray) -> IntArray:
    ends = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=ends[1:])
    return ends


def _check_token_ids(config: DistilBertConfig, ids: npt.NDArray[Any]) -> None:
    if _any_outside(ids, config.vocab_size):
        bad = int(ids[(ids < 0) | (ids >= config.vocab_size)][0])
        raise InvalidInput(
            f"input_ids holds {bad}; token ids of this model are 0 to {config.vocab_size - 1}. "
            "Was the text tokenized with another model's tokenizer?"
        )


def _check_positions(config: DistilBertConfig, positions: npt.NDArray[Any]) -> None:
    limit = config.max_position_embeddings
    if _any_outside(positions, limit):
        lowest = int(positions.min())
        if lowest < 0:
            raise InvalidInput(f"position_ids holds {lowest}; this model has positions 0 to {limit - 1}")
        raise too_long(int(positions.max()), config)


def _any_outside(values: npt.NDArray[Any], limit: int) -> bool:
    """Whether any integer is not in 0 to `limit - 1`; seen as unsigned, a negative one is huge."""
    return bool(np.count_nonzero(values.astype(np.uint64) >= limit))


def too_long(position: int, config: DistilBertConfig) -> TooLong:
    """The error for a token at a position that the model does not have."""
    last = config.max_position_embeddings - 1
    return TooLong(
        f"a token is at position {position}; this model has positions 0 to {last}. Truncate or split the text"
    )


def _check_count(tokens: int) -> None:
    if tokens > 2**31 - 1:
        raise InvalidInput(f"a batch has at most 2147483647 tokens, found {tokens}; pass them in several batches")


def _check_ids(array: Any, name: str, rank: int) -> None:
    if array.ndim != rank:
        shape = "[batch_size, seq_len]" if rank == 2 else "[seq_len]"
        raise InvalidInput(f"{name} must have shape {shape}, found {list(array.shape)}")
    _check_dtype(array, name, "iu", "integers")


def _check_dtype(array: Any, name: str, kinds: str, what: str) -> None:
    if kind_of(array) not in kinds and 0 not in array.shape:  # NumPy makes floats of an empty list
        dtype = str(array.dtype).removeprefix("torch.")
        raise InvalidInput(f"{name} must hold {what}, found dtype {dtype}")


def _check_grid(array: Any, name: str, shape: tuple[int, int]) -> None:
    if array.shape != shape:
        raise InvalidInput(f"{name} must have shape {list(shape)} like the inputs, found {list(array.shape)}")


def _flat_positions(position_ids: npt.NDArray[Any] | None, shape: tuple[int, int]) -> npt.NDArray[Any]:
    if position_ids is not None:
        return np.broadcast_to(position_ids, shape).reshape(-1)
    positions = np.arange(shape[1], dtype=np.int32)
    return positions if shape[0] == 1 else np.broadcast_to(positions, shape).reshape(-1)


def _unmasked(attention_mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Where the mask is 1; None where nothing is masked."""
    mask: npt.NDArray[np.bool_] = attention_mask == 1
    kept = np.count_nonzero(mask)
    if kept == mask.size:
        return None
    if kept + np.count_nonzero(attention_mask == 0) < mask.size:
        raise InvalidInput("attention_mask must hold only 0 and 1 (additive and soft masks are not supported)")
    return mask

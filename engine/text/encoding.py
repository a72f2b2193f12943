"""What goes into a tokenizer call and what comes out of it.

`BatchEncoding` is a dict of model inputs that still maps between tokens, words and characters; the functions turn
lists into arrays and back. Nothing here knows a vocabulary, and torch is imported only for torch tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding

# What a tokenizer call returns, and the attribute of a `tokenizers.Encoding` that holds it.
_COLUMNS = {
    "input_ids": "ids",
    "token_type_ids": "type_ids",
    "attention_mask": "attention_mask",
    "special_tokens_mask": "special_tokens_mask",
    "offset_mapping": "offsets",
}
_PER_SEQUENCE = ("length", "overflow_to_sample_mapping")


class Span(NamedTuple):
    """A half-open range of characters or tokens."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """A dict of model inputs (`input_ids`, `attention_mask`, …) whose keys are also attributes.

    An integer key gives the `tokenizers.Encoding` of that sequence, a slice several of them. The methods that take two
    indices take the sequence's place in the batch first, or only the second index where there is one sequence.
    """

    encodings: list[Encoding] | None

    def __init__(self, data: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), encodings: Any = None) -> None:
        """Hold `data`, with the `tokenizers.Encoding` of each sequence where the caller has them."""
        super().__init__(data)
        self.encodings = encodings

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"no {name!r} in this encoding; it has {', '.join(self)}")

    def __getitem__(self, key: Any, /) -> Any:
        if isinstance(key, int | slice) and self.encodings is not None:
            return self.encodings[key]
        if isinstance(key, slice):
            return {name: rows[key] for name, rows in self.items()}
        return super().__getitem__(key)

    @property
    def data(self) -> dict[str, Any]:
        """The model inputs: this same dict."""
        return self

    @property
    def n_sequences(self) -> int | None:
        """How many texts each sequence was made of: 1, or 2 for pairs; None where that is not known."""
        return self.encodings[0].n_sequences if self.encodings else None

    @property
    def is_fast(self) -> bool:
        """Whether tokens can be traced back to words and characters."""
        return self.encodings is not None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of one sequence as text."""
        return self._traced()[batch_index].tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token the number of its word; None for special tokens."""
        return self._traced()[batch_index].word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token 0 (first text) or 1 (second text of a pair); None for special tokens."""
        return self._traced()[batch_index].sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """0 for a token of the first text, 1 for one of the second; None for special tokens."""
        encoding, index = self._locate(batch_or_token_index, token_index)
        return encoding.token_to_sequence(index)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> Span | None:
        """The characters that a token stands for; None for special tokens."""
        encoding, index = self._locate(batch_or_token_index, token_index)
        return _span(encoding.token_to_chars(index))

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that holds a character of text `sequence_index`; None for whitespace and what was cut off."""
        encoding, index = self._locate(batch_or_char_index, char_index)
        return encoding.char_to_token(index, sequence_index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word that a token belongs to; None for special tokens."""
        encoding, index = self._locate(batch_or_token_index, token_index)
        return encoding.token_to_word(index)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> Span | None:
        """The tokens of a word of text `sequence_index`; None when it has none."""
        encoding, index = self._locate(batch_or_word_index, word_index)
        return _span(encoding.word_to_tokens(index, sequence_index))

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> Span | None:
        """The characters of a word of text `sequence_index`; None when it has no token."""
        encoding, index = self._locate(batch_or_word_index, word_index)
        return _span(encoding.word_to_chars(index, sequence_index))

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that holds a character of text `sequence_index`; None for whitespace and what was cut off."""
        encoding, index = self._locate(batch_or_char_index, char_index)
        return encoding.char_to_word(index, sequence_index)

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turn the values into arrays ("np") or tensors ("pt"), in place, and return this same encoding.

        With `prepend_batch_axis`, what is a single sequence becomes a batch of one.

        Raises:
            ValueError: there is no such kind of arrays, or a value is ragged or holds no numbers.
        """
        check_tensor_type("tensor_type", tensor_type)
        if tensor_type is not None:
            lists = {key: as_lists(value) for key, value in self.items()}
            self.update(as_tensors({key: [x] if prepend_batch_axis else x for key, x in lists.items()}, tensor_type))
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> BatchEncoding:
        """Move the torch tensors in this encoding to `device`, in place, and return it; other values stay."""
        for key, value in self.items():
            if hasattr(value, "to"):
                self[key] = value.to(device=device, non_blocking=non_blocking)
        return self

    def _traced(self) -> list[Encoding]:
        if self.encodings is None:
            raise ValueError("this encoding has lost its texts (it comes from pad()); ask the tokenizer call's result")
        return self.encodings

    def _locate(self, first: int, second: int | None) -> tuple[Encoding, int]:
        encodings = self._traced()
        return (encodings[0], first) if second is None else (encodings[first], second)


def as_tensors(data: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The lists in `data` as arrays of the `kind` "np" or tensors of the kind "pt"; integers become int64.

    Raises:
        ValueError: a value is ragged or holds no numbers.
    """
    arrays = {key: _as_array(key, value) for key, value in data.items()}
    if kind == "np":
        return arrays
    import torch

    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def columns(encodings: Sequence[Encoding], names: Iterable[str]) -> dict[str, list[Any]]:
    """The rows that a tokenizer call returns under these names, one for each sequence."""
    return {name: [getattr(encoding, _COLUMNS[name]) for encoding in encodings] for name in names}


def check_tensor_type(option: str, kind: object) -> None:
    """Raise a ValueError that names `option` where `kind` is none of "np", "pt" and None."""
    if kind not in (None, "np", "pt"):
        raise ValueError(f"{option} must be 'np', 'pt' or None, found {kind!r}")


def array_kind(value: Any) -> str | None:
    """What `value`, or the first entry of a list, is: "np" for numpy, "pt" for a tensor, None for a Python value."""
    if isinstance(value, list | tuple) and len(value) > 0:
        value = value[0]
    if not hasattr(value, "tolist"):
        return None
    return "np" if isinstance(value, np.ndarray | np.generic) else "pt"


def as_lists(value: Any) -> Any:
    """Python values in place of an array or tensor, or of a list of them; anything else as it is."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if array_kind(value):
        return [item.tolist() if hasattr(item, "tolist") else item for item in value]
    return value


def _as_array(key: str, value: Any) -> Any:
    try:
        array = np.array(value)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{key!r} cannot become a tensor: its rows must hold numbers and have one length;"
            " pass padding=True (and truncation=True for a limit), or leave return_tensors unset"
        )
    if array.shape == (0,) and key not in _PER_SEQUENCE:
        array = array.reshape(0, 0)
    return array.astype(np.int64, copy=False) if array.dtype.kind in "iu" or array.size == 0 else array


def _span(bounds: tuple[int, int] | None) -> Span | None:
    return None if bounds is None else Span(*bounds)

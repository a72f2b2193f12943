"""How large a request is: what bounds its cost before a tokenizer reads it, and before windows of it are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from distilrt.errors import TooLarge
from distilrt.text.tokenizer import DistilBertTokenizer


class Size(NamedTuple):
    """What a tokenizer has to read: texts, a pair being one, and all of their characters, as often as they are read."""

    texts: int
    characters: int


def characters(value: Any) -> int:
    """Characters of a text, or of all texts in an object or list; what is no text counts as one, as each entry does.

    A list that begins with an integer is token ids, for no task reads texts in such a list.
    """
    number, rest = 0, [value]  # and no recursion, since anybody nests lists as deep as it goes
    while rest:
        value = rest.pop()
        if isinstance(value, Mapping):
            value = [*value.values()]
        if isinstance(value, str):
            number += len(value)
        elif not isinstance(value, list | tuple) or not value:
            number += 1
        else:
            number += len(value)
            if type(value[0]) is not int:
                rest.extend(value)
    return number


def check_windows(
    tokenizer: DistilBertTokenizer, texts: Sequence[Any], max_length: int, stride: int, max_tokens: int, repeated: int
) -> None:
    """Refuse texts whose windows would have more than `max_tokens` tokens together, before the windows are made.

    A window has `max_length` tokens, special ones included, and `repeated` more, and shares `stride` tokens of text
    with the next. A text is a string or a list of words; of a pair, only the second is divided among windows.

    Raises:
        TooLarge: they would.
    """
    # A token seldom has less than a character, so that most requests are let through without counting their tokens.
    whole = max_length + repeated
    windows = _windows(tokenizer, texts, max_length, stride, lambda some: [characters(text) for text in some])
    if windows * whole <= max_tokens:
        return
    total = whole * _windows(tokenizer, texts, max_length, stride, lambda some: _lengths(tokenizer, some))
    if total > max_tokens:
        raise TooLarge(
            f"windows of {whole} tokens that share {stride} make {total} tokens of the texts, at most "
            f"{max_tokens} are allowed; lower the stride, or send fewer or shorter texts at once"
        )


def _windows(
    tokenizer: DistilBertTokenizer,
    texts: Sequence[Any],
    max_length: int,
    stride: int,
    measure: Callable[..., list[int]],
) -> int:
    pairs = bool(texts) and isinstance(texts[0], tuple)
    before = measure([text[0] for text in texts]) if pairs else [0] * len(texts)
    divided = measure([text[1] for text in texts] if pairs else texts)
    total = 0
    for fixed, length in zip(before, divided, strict=True):
        room = max_length - tokenizer.num_special_tokens_to_add(pairs) - fixed
        more = max(0, length - room)
        # Where the first text leaves no room to go on, the tokenizer refuses the pair.
        total += 1 + -(-more // max(1, room - stride))
    return total


def _lengths(tokenizer: DistilBertTokenizer, texts: Sequence[Any]) -> list[int]:
    """The number of tokens of each text, without special tokens."""
    words = bool(texts) and not isinstance(texts[0], str)
    encoded = tokenizer(texts, is_split_into_words=words, add_special_tokens=False, return_attention_mask=False)
    return [len(encoding) for encoding in encoded.encodings or ()]

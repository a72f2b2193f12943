"""The inputs of tasks: the checks that a caller's value is a text, an object with some keys, or a list of texts."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from distilrt.batch import TypedIds
from distilrt.errors import InvalidInput

Text = str | tuple[str, str] | list[str]  # a text, a pair of texts, or the words of a text


class TokenIds(TypedIds):
    """The token ids of an input that was tokenized by the caller."""


def as_text(value: Any, name: str = "", *, empty: bool = True) -> str:
    """`value` if it is a string; `name` is its key in the input, if it has one.

    Raises:
        InvalidInput: it is no string, or is empty although `empty` is False.
    """
    if not isinstance(value, str):
        expected = f"{name!r} must be a string" if name else "expected a string"
        raise InvalidInput(f"{expected}, found {type(value).__name__}")
    if not value and not empty:
        raise InvalidInput(f"{repr(name) if name else 'the text'} is empty; it needs some text")
    return value


def as_texts(value: Any, name: str) -> list[str]:
    """The strings of a list, which is the input's value of the key `name`.

    Raises:
        InvalidInput: it is no list, is empty, or holds something else.
    """
    if not isinstance(value, list | tuple) or not value:
        raise InvalidInput(f"{name!r} must be a list of at least one string, found {reprlib.repr(value)}")
    return [as_text(item, f"{name}[{i}]") for i, item in enumerate(value)]


def as_fields(item: Any, *names: str, optional: str = "", instead: str = "") -> list[Any]:
    """The values of an object's keys in this order, and of the optional one, None where it is missing.

    `instead` says what the caller would have taken in place of an object.

    Raises:
        InvalidInput: the input is no object, lacks a key, or has another one.
    """
    expected = f"expected {instead and f'{instead} or '}an object with {' and '.join(map(repr, names))}"
    expected += optional and f" and perhaps {optional!r}"
    if not isinstance(item, Mapping):
        raise InvalidInput(f"{expected}, found {type(item).__name__}")
    if missing := [name for name in names if name not in item]:
        raise InvalidInput(f"{expected}; {missing[0]!r} is missing")
    known = (*names, optional) if optional else names
    if extra := [name for name in item if name not in known]:
        raise InvalidInput(f"{expected}, found {extra[0]!r}")
    return [item.get(name) for name in known]


def as_pair(item: Any, instead: str) -> Text:
    """The text of an object with `text` and perhaps `text_pair`, or the pair.

    Raises:
        InvalidInput: as `as_fields`, or one of them is no string.
    """
    text, pair = as_fields(item, "text", optional="text_pair", instead=instead)
    text = as_text(text, "text")
    return text if pair is None else (text, as_text(pair, "text_pair"))

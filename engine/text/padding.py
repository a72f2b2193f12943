"""Padding and truncation: what the arguments of a tokenizer call ask for, with the tokenizer's own defaults."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

UNLIMITED = int(1e30)  # the model_max_length of a tokenizer without a limit

_LARGEST_LIMIT = 2**31 - 1  # a model_max_length above this means no limit: no text has more tokens
_PADDING: dict[Any, str] = {False: "", "do_not_pad": "", True: "longest", "longest": "longest"}
_PADDING |= {"max_length": "max_length"}
_TRUNCATION: dict[Any, str] = {None: "", False: "", "do_not_truncate": "", True: "longest_first"}
_TRUNCATION |= {strategy: strategy for strategy in ("longest_first", "only_first", "only_second")}


class Defaults(Protocol):
    """The defaults of a tokenizer, for arguments that a call leaves out."""

    model_max_length: int
    pad_token: str | None
    padding_side: str
    truncation_side: str
    split_special_tokens: bool


class Setting(NamedTuple):
    """How a call pads and truncates, and whether it splits special tokens that stand in a text."""

    padding: str  # "longest", "max_length" or "" for none
    truncation: str  # "longest_first", "only_first", "only_second" or "" for none
    limit: int  # of truncation, and of padding to "max_length", in tokens
    stride: int
    multiple: int | None  # padded lengths are rounded up to a multiple of it
    padding_side: str
    truncation_side: str
    split_special_tokens: bool


def settle(
    defaults: Defaults,
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    *,
    stride: int = 0,
    multiple: int | None = None,
    padding_side: str | None = None,
    truncation_side: str | None = None,
    split_special_tokens: bool | None = None,
) -> Setting:
    """Settle the arguments of a call. Call it from the public method itself: a warning names that method's caller.

    Raises:
        TypeError: a length is not an integer.
        ValueError: an argument has no such value, or the tokenizer cannot pad.
    """
    # transformers' enums have other hashes than the strings that they equal.
    padding, truncation = getattr(padding, "value", padding), getattr(truncation, "value", truncation)
    if padding not in _PADDING:
        raise ValueError(f"padding must be one of {list(_PADDING)}, found {padding!r}")
    if truncation not in _TRUNCATION:
        raise ValueError(f"truncation must be one of {list(_TRUNCATION)}, found {truncation!r}")
    pad, cut = _PADDING[padding], _TRUNCATION[truncation]
    limit = 0
    if max_length is not None:
        limit = integer("max_length", max_length, 0)
        if padding is False and truncation is None:
            cut = "longest_first"
        elif padding is True and not cut:
            text = "max_length is ignored without truncation; padding='max_length' pads to it"
            warnings.warn(text, stacklevel=3)
    elif defaults.model_max_length > _LARGEST_LIMIT:
        pad, cut = pad.replace("max_length", ""), ""
    elif cut or pad == "max_length":
        limit = integer("model_max_length", defaults.model_max_length, 0)
    if pad and defaults.pad_token is None:
        raise ValueError("this tokenizer has no pad_token, so it cannot pad; build it with one")
    if multiple is not None and integer("pad_to_multiple_of", multiple, 1) and pad and cut and limit % multiple:
        raise ValueError(f"max_length={limit} is not a multiple of pad_to_multiple_of={multiple}; make it one")
    side, cut_side = padding_side or defaults.padding_side, truncation_side or defaults.truncation_side
    if pad:
        check_side("padding_side", side)
    check_side("truncation_side", cut_side)
    stride = integer("stride", stride, 0) if cut else 0
    split = defaults.split_special_tokens if split_special_tokens is None else split_special_tokens
    return Setting(pad, cut, limit, stride, multiple, side, cut_side, split)


def padded(data: Mapping[str, Any], fill: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """Rows of `input_ids` and of the other keys of `fill`, padded with what `fill` says to one length.

    Raises:
        ValueError: the values differ in batch size.
    """
    counts = {key: len(rows) for key, rows in data.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"batch sizes differ: {counts}")
    if not setting.padding:
        return dict(data)
    lengths = [len(row) for row in data["input_ids"]]
    target = setting.limit if setting.padding == "max_length" else max(lengths, default=0)
    target += -target % (setting.multiple or 1)
    found = dict(data)
    for key in fill.keys() & data.keys():
        blanks = [[fill[key]] * (target - length) for length in lengths]
        first, last = (data[key], blanks) if setting.padding_side == "right" else (blanks, data[key])
        found[key] = [[*start, *end] for start, end in zip(first, last, strict=True)]
    return found


def check_side(option: str, side: object) -> None:
    """Raise a ValueError that names `option` where `side` is neither "right" nor "left"."""
    if side not in ("right", "left"):
        raise ValueError(f"{option} must be 'right' or 'left', found {side!r}")


def integer(name: str, value: Any, least: int) -> int:
    """`value` as an int, refused with a TypeError or, below `least` or above the Rust library's limit, a ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, found {value!r}") from None
    if not least <= number <= _LARGEST_LIMIT:
        raise ValueError(f"{name} must be between {least} and {_LARGEST_LIMIT}, found {number}")
    return number

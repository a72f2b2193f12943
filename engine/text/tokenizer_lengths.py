"""How long the sequences of a tokenizer call become: what its arguments ask for in padding and truncation."""

from __future__ import annotations

import operator
import warnings
from typing import Any

UNLIMITED = int(1e30)  # the model_max_length of a tokenizer without a limit

_LARGEST_LIMIT = 2**31 - 1  # a model_max_length above this means no limit: no text has more tokens
_PADDING: dict[Any, str] = {False: "", "do_not_pad": "", True: "longest"} | {s: s for s in ("longest", "max_length")}
_TRUNCATION: dict[Any, str] = {None: "", False: "", "do_not_truncate": "", True: "longest_first"} | {
    s: s for s in ("longest_first", "only_first", "only_second")
}


def settle(
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    multiple: int | None,
    model_max_length: int,
    pad_token: str | None,
) -> tuple[str, str, int]:
    """Settle what the arguments of a call ask for. Call it from the public method itself: a warning names its caller.

    Args:
        padding, truncation, max_length: those of the call.
        multiple: its `pad_to_multiple_of`.
        model_max_length, pad_token: those of the tokenizer.

    Returns:
        The padding ("longest", "max_length" or "" for none), the truncation ("longest_first", "only_first",
        "only_second" or "") and the length limit of both.

    Raises:
        TypeError: a length is no integer.
        ValueError: an argument has no such value, or the tokenizer cannot pad.
    """
    # transformers' enums are of another hash than the texts that they equal.
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
    elif model_max_length > _LARGEST_LIMIT:
        pad, cut = pad.replace("max_length", ""), ""
    elif cut or pad == "max_length":
        limit = integer("model_max_length", model_max_length, 0)
    if pad and pad_token is None:
        raise ValueError("this tokenizer has no pad_token, so it cannot pad; build it with one")
    if multiple is not None and integer("pad_to_multiple_of", multiple, 1) and pad and cut and limit % multiple:
        raise ValueError(f"max_length={limit} is not a multiple of pad_to_multiple_of={multiple}; make it one")
    return pad, cut, limit


def check_side(option: str, side: object) -> None:
    """Raise a ValueError that names `option` where `side` is neither "right" nor "left"."""
    if side not in ("right", "left"):
        raise ValueError(f"{option} must be 'right' or 'left', found {side!r}")


def integer(name: str, value: Any, least: int) -> int:
    """`value` as an int.

    Raises:
        TypeError: it is no integer; the message says `name`.
        ValueError: it is below `least` or too large for the Rust library.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, found {value!r}") from None
    if not least <= number <= _LARGEST_LIMIT:
        raise ValueError(f"{name} must be between {least} and {_LARGEST_LIMIT}, found {number}")
    return number

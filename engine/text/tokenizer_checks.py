"""What the JSON files of a tokenizer may hold, checked before anything is made of it, so that errors name the field."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distilrt.errors import CheckpointError

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_LARGEST_ID = 2**22 - 1  # no vocabulary is so large, and the Rust library walks through all ids up to the largest


def _is_text(value: Any) -> bool:
    """Whether the Rust library takes it: JSON can spell half a surrogate pair, UTF-8 cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_token(value: Any) -> bool:
    """Whether `value` spells a token: as text, or as the dict of an AddedToken."""
    if isinstance(value, dict):
        return _is_text(value.get("content")) and all(type(value.get(flag, False)) is bool for flag in _FLAGS)
    return _is_text(value)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_ID


def _is_extra(value: Any) -> bool:
    tokens = value.values() if isinstance(value, dict) else value
    return value is None or (isinstance(value, list | dict) and all(map(is_token, tokens)))


def _is_limit(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and (value == math.inf or (value >= 1 and value % 1 == 0)))


def _is_added_decoder(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key.isdecimal() and len(key) < 11 and isinstance(token, dict) and is_token(token)
        for key, token in value.items()
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


# Of tokenizer_config.json and special_tokens_map.json: what a field may be, and that in words.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = (
    dict.fromkeys(("unk_token", "sep_token", "cls_token"), (is_token, "a token: text, or an object with content"))
    | dict.fromkeys(
        ("bos_token", "eos_token", "pad_token", "mask_token"),
        (lambda value: value is None or is_token(value), "a token (text, or an object with content) or null"),
    )
    | dict.fromkeys(
        ("do_lower_case", "tokenize_chinese_chars", "split_special_tokens", "clean_up_tokenization_spaces"),
        (lambda value: isinstance(value, bool), "true or false"),
    )
    | dict.fromkeys(
        ("padding_side", "truncation_side"), (lambda value: value in ("right", "left"), "'right' or 'left'")
    )
    | dict.fromkeys(("model_max_length", "max_len"), (_is_limit, "a whole number of at least 1, or null"))
    | dict.fromkeys(
        ("extra_special_tokens", "additional_special_tokens"),
        (_is_extra, "a list of tokens, an object of them, or null"),
    )
    | {
        "strip_accents": (lambda value: value is None or isinstance(value, bool), "true, false or null"),
        "model_input_names": (_is_names, "a list of names"),
        "added_tokens_decoder": (_is_added_decoder, "an object of ids and tokens, each an object with content"),
    }
)


def check_config(path: Path | None, config: Mapping[str, Any]) -> None:
    """Check what `tokenizer_config.json` or `special_tokens_map.json` holds.

    Raises:
        CheckpointError: a field is of the wrong kind.
    """
    for name, (fits, allowed) in _FIELDS.items():
        if name in config:
            _require(fits(config[name]), path, name, allowed, config[name])


def check_added_tokens(path: Path | None, tokens: Mapping[str, Any]) -> None:
    """Check what `added_tokens.json` holds: ids by the tokens' texts.

    Raises:
        CheckpointError: a field is of the wrong kind.
    """
    for text, index in tokens.items():
        _require(_is_text(text) and _is_id(index), path, text, f"an id of 0 to {_LARGEST_ID}, and its key text", index)


def check_saved(path: Path | None, saved: Mapping[str, Any], vocabulary: bool) -> None:
    """Check those fields of `tokenizer.json` that are read here and not by the Rust library.

    Args:
        path: the file, for messages.
        saved: what it holds.
        vocabulary: whether its WordPiece vocabulary is read here, too.

    Raises:
        CheckpointError: a field is of the wrong kind, or there is no such vocabulary.
    """
    added = saved.get("added_tokens", [])
    fits = isinstance(added, list) and all(
        isinstance(token, dict) and is_token(token) and _is_id(token.get("id")) for token in added
    )
    _require(fits, path, "added_tokens", "a list of objects with id and content", added)
    for part in ("padding", "truncation"):
        value = saved.get(part)
        fits = value is None or (isinstance(value, dict) and value.get("direction", "Right") in ("Right", "Left"))
        _require(fits, path, part, "null or an object with the direction 'Right' or 'Left'", value)
    if saved.get("padding"):
        token = saved["padding"].get("pad_token")
        _require(token is None or _is_text(token), path, "padding.pad_token", "text", token)
    model: Any = saved.get("model")
    _require(isinstance(model, dict), path, "model", "an object", model)
    vocab = model.get("vocab")
    if vocabulary:
        kind = model.get("type", "WordPiece")
        _require(kind == "WordPiece", path, "model.type", "'WordPiece' (a DistilBERT tokenizer has no other)", kind)
    if isinstance(vocab, dict):  # of up to a million tokens, so not one by one
        ids = vocab.values()
        fits = _is_text("".join(vocab)) and set(map(type, ids)) <= {int}
        fits = fits and _is_id(min(ids, default=0)) and _is_id(max(ids, default=0))
    else:
        fits = isinstance(vocab, list) and (not vocabulary or all(map(_is_text, vocab)))
    _require(fits, path, "model.vocab", f"an object of tokens and ids of 0 to {_LARGEST_ID}", vocab)


def _require(fits: bool, path: Path | None, name: str, allowed: str, found: Any) -> None:
    if not fits:
        raise CheckpointError(f"{path}: {reprlib.repr(name)[1:-1]} must be {allowed}, found {reprlib.repr(found)}")

"""The files of a tokenizer: reading them as keywords of its constructor, and writing them.

Which file overrules which is as in the reference. Every field that is read here is checked before anything is made of
it, so that an error names the file and the field. Nothing here encodes a text.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing

from distilrt.checkpoint.files import read_object
from distilrt.checkpoint.source import Source
from distilrt.errors import CheckpointError
from distilrt.text.rust_tokenizer import refusing
from distilrt.text.vocabulary import SPECIAL_NAMES, TOKEN_FLAGS, as_token

# The keywords of the constructor that files hold by the same name, which is also that of the attribute: those of a
# tokenizer.json that is followed as it stands, and those that say how the DistilBERT tokenizer treats texts.
OPTIONS = (
    *SPECIAL_NAMES,
    *("split_special_tokens", "extra_special_tokens", "clean_up_tokenization_spaces", "model_max_length"),
    *("model_input_names", "padding_side", "truncation_side"),
)
NORMALIZATION = ("do_lower_case", "tokenize_chinese_chars", "strip_accents")

_LARGEST_ID = 2**22 - 1  # no vocabulary is so large, and the Rust library walks through all ids up to the largest


def _is_token(value: Any) -> bool:
    """Whether `value` spells a token: as text, or as the dict of an AddedToken."""
    if isinstance(value, dict):
        flags = (value.get(flag, False) for flag in TOKEN_FLAGS)
        return isinstance(value.get("content"), str) and all(isinstance(flag, bool) for flag in flags)
    return isinstance(value, str)


def _are_tokens(value: Any) -> bool:
    tokens = value.values() if isinstance(value, dict) else value
    return value is None or (isinstance(value, list | dict) and all(map(_is_token, tokens)))


def _is_limit(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and (value == math.inf or (value >= 1 and value % 1 == 0)))


def _are_tokens_by_id(value: Any) -> bool:
    return isinstance(value, dict) and all(
        index.isdecimal() and len(index) < 11 and isinstance(token, dict) and _is_token(token)
        for index, token in value.items()
    )


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_ID


# Fields of tokenizer_config.json and special_tokens_map.json: their names, the allowed values in words, and the check.
_FIELDS: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (("unk_token", "sep_token", "cls_token"), "a token: text, or an object with content", _is_token),
    (
        ("bos_token", "eos_token", "pad_token", "mask_token"),
        "a token (text, or an object with content) or null",
        lambda value: value is None or _is_token(value),
    ),
    (
        ("do_lower_case", "tokenize_chinese_chars", "split_special_tokens", "clean_up_tokenization_spaces"),
        "true or false",
        lambda value: isinstance(value, bool),
    ),
    (("strip_accents",), "true, false or null", lambda value: value is None or isinstance(value, bool)),
    (("padding_side", "truncation_side"), "'right' or 'left'", lambda value: value in ("right", "left")),
    (("model_max_length", "max_len"), "a whole number of at least 1, or null", _is_limit),
    (
        ("extra_special_tokens", "additional_special_tokens"),
        "a list of tokens, an object of them, or null",
        _are_tokens,
    ),
    (
        ("model_input_names",),
        "a list of names",
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    ),
    (("added_tokens_decoder",), "an object of ids and tokens, each an object with content", _are_tokens_by_id),
)


def class_name(source: Source) -> str:
    """The class that a checkpoint's files name for its tokenizer, without "Fast" at its end; "": they name none.

    Raises:
        OSError: no such folder or repository.
        CheckpointError: a file is not what its name says.
    """
    for file in ("tokenizer_config.json", "config.json"):
        path = source.file(file)
        name = read_object(path).get("tokenizer_class") if path else None
        _require(name is None or isinstance(name, str), path, "tokenizer_class", "the name of a class", name)
        if name:
            return str(name).removesuffix("Fast")
    return ""


def of_bert(source: Source) -> bool:
    """Whether the checkpoint is a BERT whose files leave it to the tokenizer's class which inputs it makes."""
    config, options = (
        read_object(path) if path else {} for path in map(source.file, ("config.json", "tokenizer_config.json"))
    )
    return config.get("model_type") == "bert" and "model_input_names" not in options


def read(source: Source, as_it_stands: bool) -> tuple[dict[str, int] | Tokenizer, dict[str, Any]]:
    """The vocabulary of a checkpoint, and the keywords of the constructor that its files set.

    With `as_it_stands`, the Rust tokenizer of `tokenizer.json` takes the vocabulary's place.

    Raises:
        OSError: no such folder or repository, or it has no vocabulary.
        CheckpointError: a file is not what its name says; the message names the file and the field.
    """
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
    paths = {name: source.file(name) for name in names}
    saved, config, tokens_map, legacy = (read_object(path) if path else {} for path in map(paths.get, names[:4]))
    _check_fields(paths["tokenizer_config.json"], config)
    _check_fields(paths["special_tokens_map.json"], tokens_map)
    for text, index in legacy.items():
        _require(_is_id(index), paths["added_tokens.json"], text, f"an id of 0 to {_LARGEST_ID}", index)

    if paths["tokenizer.json"] is not None:
        _check_tokenizer_json(paths["tokenizer.json"], saved, wordpiece=not as_it_stands)
        for part in ("padding", "truncation"):
            if saved.get(part):
                config.setdefault(f"{part}_side", saved[part].get("direction", "Right").lower())
        if as_it_stands and saved.get("padding"):
            config.setdefault("pad_token", saved["padding"].get("pad_token"))
    elif as_it_stands or paths["vocab.txt"] is None:
        wanted = "no tokenizer.json" if as_it_stands else "neither tokenizer.json nor vocab.txt"
        raise OSError(f"{str(source)!r} has {wanted}; save its tokenizer there first")

    options = _options(config, tokens_map, legacy, saved)
    if as_it_stands:
        return _read_rust(paths["tokenizer.json"]), options
    options |= {key: config[key] for key in NORMALIZATION if key in config}
    if not saved:
        return read_vocab(paths["vocab.txt"]), options
    vocab = saved["model"]["vocab"]
    return vocab if isinstance(vocab, dict) else {token: index for index, token in enumerate(vocab)}, options


def _options(
    config: dict[str, Any], tokens_map: dict[str, Any], legacy: dict[str, int], saved: dict[str, Any]
) -> dict[str, Any]:
    """What the files say of tokens and calls, as keywords of the constructor."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    extra = [as_token(value) for value in (extra.values() if isinstance(extra, dict) else extra)]
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        added = {int(index): as_token(value) for index, value in config["added_tokens_decoder"].items()}
    else:
        config |= tokens_map | {"extra_special_tokens": None}
        more = tokens_map.get("extra_special_tokens")
        if not more and not extra:
            more = tokens_map.get("additional_special_tokens")
        more = more.values() if isinstance(more, dict) else more
        extra += [as_token(value, special=True) for value in more or []]
        special = {str(as_token(config[name])) for name in SPECIAL_NAMES if config.get(name)} | set(map(str, extra))
        for text, index in legacy.items():
            added[index] = AddedToken(text, normalized=text not in special, special=text in special)
        added |= {value["id"]: as_token(value) for value in saved.get("added_tokens", [])}
    # Keys such as image_token name special tokens that only some models have.
    own = [value for key, value in config.items() if key.endswith("_token") and key not in SPECIAL_NAMES]
    limit = config.get("model_max_length", config.get("max_len"))
    config |= {
        "extra_special_tokens": [as_token(value) for value in own if _is_token(value)] + extra,
        "model_max_length": None if limit is None or limit == math.inf else int(limit),
    }
    return {"added_tokens_decoder": added, **{key: config[key] for key in OPTIONS if key in config}}


def _check_fields(path: Path | None, config: Mapping[str, Any]) -> None:
    """Check what `tokenizer_config.json` or `special_tokens_map.json` holds."""
    for names, allowed, fits in _FIELDS:
        for name in names:
            _require(name not in config or fits(config[name]), path, name, allowed, config.get(name))


def _check_tokenizer_json(path: Path | None, saved: Mapping[str, Any], wordpiece: bool) -> None:
    """Check those fields of `tokenizer.json` that are read here: the vocabulary too, where that must be `wordpiece`."""
    added = saved.get("added_tokens", [])
    fits = isinstance(added, list) and all(
        isinstance(token, dict) and _is_token(token) and _is_id(token.get("id")) for token in added
    )
    _require(fits, path, "added_tokens", "a list of objects with id and content", added)
    for part in ("padding", "truncation"):
        value = saved.get(part)
        fits = value is None or (isinstance(value, dict) and value.get("direction", "Right") in ("Right", "Left"))
        _require(fits, path, part, "null or an object with the direction 'Right' or 'Left'", value)
    token = (saved.get("padding") or {}).get("pad_token")
    _require(token is None or isinstance(token, str), path, "padding.pad_token", "text", token)
    model: Any = saved.get("model")
    _require(isinstance(model, dict), path, "model", "an object", model)
    if wordpiece:
        kind = model.get("type", "WordPiece")
        _require(kind == "WordPiece", path, "model.type", "'WordPiece' (a DistilBERT tokenizer has no other)", kind)
    vocab = model.get("vocab")
    if isinstance(vocab, dict):  # of up to a million tokens, so not one by one
        ids = vocab.values()
        fits = set(map(type, ids)) <= {int} and _is_id(min(ids, default=0)) and _is_id(max(ids, default=0))
    else:
        fits = isinstance(vocab, list) and (not wordpiece or all(isinstance(token, str) for token in vocab))
    _require(fits, path, "model.vocab", f"an object of tokens and ids of 0 to {_LARGEST_ID}", vocab)


def _require(fits: bool, path: Path | None, name: str, allowed: str, found: Any) -> None:
    if not fits:
        raise CheckpointError(f"{path}: {reprlib.repr(name)[1:-1]} must be {allowed}, found {reprlib.repr(found)}")


def _read_rust(path: Path | None) -> Tokenizer:
    """The Rust tokenizer of a `tokenizer.json`, without its padding and truncation."""
    try:
        with refusing(f"{path}"):
            rust = Tokenizer.from_file(str(path))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    rust.no_padding()
    rust.no_truncation()
    if rust.post_processor is None:
        rust.post_processor = TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    return rust


def read_vocab(vocab: Any) -> dict[str, int]:
    """The ids of a vocabulary that is given as a mapping or as the path of a `vocab.txt`.

    Raises:
        OSError: there is no such file.
        TypeError: it is neither of the two.
        CheckpointError: the file is not a vocabulary.
    """
    if isinstance(vocab, Mapping):
        return dict(vocab)
    if not isinstance(vocab, str | PathLike):
        raise TypeError(f"vocab must be the path of a vocab.txt or a dict of ids, found {type(vocab).__name__}")
    try:
        Path(vocab).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{str(vocab)!r} is not a vocabulary, one UTF-8 token per line: {error}") from None
    return WordPiece.read_file(str(vocab))


def write(
    folder: str | PathLike[str], class_name: str, options: Mapping[str, Any], backend: Tokenizer
) -> tuple[str, ...]:
    """Write the files of a tokenizer, which transformers shall read with the class of that name; return their paths.

    `options` go to `tokenizer_config.json`, and `backend` to `tokenizer.json`, for a DistilBERT tokenizer also to
    `vocab.txt`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # transformers 4 expects a dict where 5 has a list of extra tokens, so none are better left out.
    options = {key: value for key, value in options.items() if value != []}
    text = json.dumps({"tokenizer_class": class_name, **options}, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    backend.save(str(folder / "tokenizer.json"))
    paths = [str(folder / name) for name in ("tokenizer_config.json", "tokenizer.json")]
    if class_name == "DistilBertTokenizer":
        paths += backend.model.save(str(folder))
    return tuple(paths)

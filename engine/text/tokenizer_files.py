"""The files of a tokenizer: from all that there are to arguments of its constructor, and from a tokenizer to files.

What overrules what among the files is as in the reference. Nothing here encodes a text.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece

from distilrt.checkpoint.source import Source
from distilrt.errors import CheckpointError
from distilrt.text.tokenizer_backends import refusing
from distilrt.text.tokenizer_checks import check_added_tokens, check_config, check_saved, is_token

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The keywords of the constructor that files hold by the same name, which is also that of the attribute: those of a
# tokenizer.json that is followed as it stands, and those that say how the DistilBERT tokenizer treats texts.
OPTIONS = (
    *SPECIAL_NAMES,
    *("split_special_tokens", "extra_special_tokens", "clean_up_tokenization_spaces", "model_max_length"),
    *("model_input_names", "padding_side", "truncation_side"),
)
NORMALIZATION = ("do_lower_case", "tokenize_chinese_chars", "strip_accents")


def class_name(source: Source) -> str:
    """The class that a checkpoint's files name for its tokenizer, without "Fast" at its end; "" where they name none.

    Raises:
        OSError: no such folder or repository.
        CheckpointError: a file is not what its name says.
    """
    for file in ("tokenizer_config.json", "config.json"):
        path = source.file(file)
        name = _read_json(path).get("tokenizer_class")
        if name is not None and not isinstance(name, str):
            raise CheckpointError(f"{path}: tokenizer_class must be the name of a class, found {reprlib.repr(name)}")
        if name:
            return name.removesuffix("Fast")
    return ""


def read(source: Source, as_it_stands: bool) -> tuple[dict[str, int] | Tokenizer, dict[str, Any]]:
    """Read the tokenizer of a checkpoint.

    Args:
        source: where the files are.
        as_it_stands: whether to take the Rust tokenizer of `tokenizer.json`, or only its vocabulary.

    Returns:
        The vocabulary or the Rust tokenizer, and the keywords of the constructor that the files set.

    Raises:
        OSError: no such folder or repository, or it has no vocabulary.
        CheckpointError: a file is not what its name says; the message names the file and the field.
    """
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
    paths = {name: source.file(name) for name in names}
    saved, config, tokens_map, legacy = (_read_json(paths[name]) for name in names[:4])
    check_config(paths["tokenizer_config.json"], config)
    check_config(paths["special_tokens_map.json"], tokens_map)
    check_added_tokens(paths["added_tokens.json"], legacy)

    if paths["tokenizer.json"] is not None:
        check_saved(paths["tokenizer.json"], saved, vocabulary=not as_it_stands)
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
        return read_rust(paths["tokenizer.json"]), options
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
        "extra_special_tokens": [as_token(value) for value in own if is_token(value)] + extra,
        "model_max_length": None if limit is None or limit == math.inf else int(limit),
    }
    return {"added_tokens_decoder": added, **{key: config[key] for key in OPTIONS if key in config}}


def write(
    folder: str | PathLike[str], class_name: str, options: Mapping[str, Any], backend: Tokenizer
) -> tuple[str, ...]:
    """Write the files of a tokenizer.

    Args:
        folder: made where it does not exist.
        class_name: the class that transformers shall read them with.
        options: what `tokenizer_config.json` shall hold.
        backend: the Rust tokenizer, of which `tokenizer.json` and for a DistilBERT tokenizer `vocab.txt` are made.

    Returns:
        The paths written.
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


def read_vocab(vocab: Any) -> dict[str, int]:
    """The ids of a vocabulary that is given as a mapping or as the path of a `vocab.txt`.

    Raises:
        OSError: there is no such file.
        TypeError: it is neither of the two.
        CheckpointError: the file is no vocabulary.
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


def read_rust(path: Path | None) -> Tokenizer:
    """The Rust tokenizer of a `tokenizer.json`.

    Raises:
        CheckpointError: the Rust library refuses the file.
    """
    try:
        with refusing(f"{path}"):
            return Tokenizer.from_file(str(path))
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def as_token(value: Any, **override: bool) -> AddedToken:
    """A token that is given as text (special then), as an object or as the dict of a JSON file.

    Args:
        value: the token.
        override: flags that win over those of a dict.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=True)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise TypeError(f"a special token must be a str or AddedToken, found {value!r}")
    flags = {key: value[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special") if key in value}
    return AddedToken(value["content"], **flags | override)


def _read_json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must hold a JSON object: {error}") from None

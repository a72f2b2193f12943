"""The files of a tokenizer: from all that there are to arguments of its constructor, and from a tokenizer to files.

What overrules what among the files is as in the reference. Nothing here encodes a text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece

from distilrt.hub import resolve_file

SPECIAL_NAMES = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The keywords of the constructor that files hold by the same name, which is also that of the attribute.
OPTIONS = (
    *SPECIAL_NAMES,
    *("do_lower_case", "tokenize_chinese_chars", "strip_accents", "split_special_tokens", "extra_special_tokens"),
    *("clean_up_tokenization_spaces", "model_max_length", "model_input_names", "padding_side", "truncation_side"),
)


def read(model: str | Path, **place: Any) -> tuple[dict[str, int] | Path, dict[str, Any]]:
    """Read the tokenizer of a checkpoint.

    Args:
        model: a folder or the name of a repository.
        place: where to look for it, as in `distilrt.hub.resolve_file`.

    Returns:
        The vocabulary or its path, and the keywords of `DistilBertTokenizer` that the files set.

    Raises:
        OSError: no such folder or repository, or it has neither `tokenizer.json` nor `vocab.txt`.
        ValueError: a file is not what its name says.
    """
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
    paths = {name: resolve_file(model, name, **place) for name in names}
    saved, config, tokens_map, legacy = (_read_json(paths[name]) for name in names[:4])

    vocab: Any = paths["vocab.txt"]
    if paths["tokenizer.json"] is not None:
        vocab = saved.get("model", {}).get("vocab")
        if not isinstance(vocab, dict) or saved["model"].get("type", "WordPiece") != "WordPiece":
            raise ValueError(f"{paths['tokenizer.json']} holds no WordPiece vocabulary: not a DistilBERT tokenizer")
        for part in ("padding", "truncation"):
            if saved.get(part):
                config.setdefault(f"{part}_side", saved[part].get("direction", "Right").lower())
    elif vocab is None:
        raise OSError(f"{str(model)!r} has neither tokenizer.json nor vocab.txt; save its tokenizer there first")

    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    extra = [as_token(value) for value in (extra.values() if isinstance(extra, dict) else extra)]
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        added = {int(index): as_token(value) for index, value in config["added_tokens_decoder"].items()}
    else:
        config.update(tokens_map | {"extra_special_tokens": None})
        more = tokens_map.get("extra_special_tokens")
        if not more and not extra:
            more = tokens_map.get("additional_special_tokens")
        extra += [as_token(value, special=True) for value in more or []]
        special = {str(as_token(config[name])) for name in SPECIAL_NAMES if config.get(name)} | set(map(str, extra))
        for text, index in legacy.items():
            added[index] = AddedToken(text, normalized=text not in special, special=text in special)
        added |= {value["id"]: as_token(value) for value in saved.get("added_tokens", [])}
    # Keys such as image_token name special tokens that only some models have.
    own = [value for key, value in config.items() if key.endswith("_token") and key not in SPECIAL_NAMES]
    config |= {
        "extra_special_tokens": [value for value in own if isinstance(value, str | dict)] + extra,
        "model_max_length": config.get("model_max_length", config.get("max_len")),
    }
    return vocab, {"added_tokens_decoder": added, **{key: config[key] for key in OPTIONS if key in config}}


def write(folder: str | PathLike[str], options: Mapping[str, Any], backend: Tokenizer) -> tuple[str, ...]:
    """Write the files of a tokenizer.

    Args:
        folder: made where it does not exist.
        options: what `tokenizer_config.json` shall hold.
        backend: the Rust tokenizer, of which `tokenizer.json` and `vocab.txt` are made.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # transformers 4 expects a dict where 5 has a list of extra tokens, so none are better left out.
    options = {key: value for key, value in options.items() if value != []}
    text = json.dumps({"tokenizer_class": "DistilBertTokenizer", **options}, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    backend.save(str(folder / "tokenizer.json"))
    backend.model.save(str(folder))
    return tuple(str(folder / name) for name in ("tokenizer_config.json", "tokenizer.json", "vocab.txt"))


def read_vocab(vocab: str | PathLike[str] | Mapping[str, int]) -> dict[str, int]:
    """The ids of a vocabulary that is given as a mapping or as the path of a `vocab.txt`.

    Raises:
        OSError: there is no such file.
        TypeError, ValueError: it is neither of the two.
    """
    if isinstance(vocab, Mapping):
        return dict(vocab)
    if not isinstance(vocab, str | PathLike):
        raise TypeError(f"vocab must be the path of a vocab.txt or a dict of ids, found {type(vocab).__name__}")
    try:
        Path(vocab).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(vocab)!r} is not a vocabulary, one UTF-8 token per line: {error}") from None
    return WordPiece.read_file(str(vocab))


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
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold a JSON object: {error}") from None

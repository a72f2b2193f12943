"""Tokenizer files: read as transformers reads them, and written so that it reads the same.

Hostile files give a CheckpointError that names the file and the field, or a tokenizer that works.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

from distilrt.errors import CheckpointError
from distilrt.text.auto_tokenizer import load_tokenizer
from distilrt.text.tokenizer import DistilBertTokenizer
from tests.text.tokenizer_pairs import (
    EVERYTHING,
    FAST,
    PROBES,
    TOY,
    VARIANTS,
    agree,
    full,
    loaded,
    model_folder,
    rust,
    same,
    write,
)


@pytest.mark.parametrize("style", ["vocab.txt", "tokenizer.json", "disagreeing tokenizer.json"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_files(tmp_path: Path, variant: str, style: str) -> None:
    write(tmp_path, {"vocab.txt": "\n".join(TOY), **VARIANTS[variant]})
    if style != "vocab.txt":
        source = DistilBertTokenizer(TOY)
        source.save_pretrained(tmp_path / "source")
        saved = json.loads((tmp_path / "source" / "tokenizer.json").read_text(encoding="utf-8"))
        if style != "tokenizer.json":
            saved["normalizer"] |= {"lowercase": False, "strip_accents": True, "handle_chinese_chars": False}
            saved["padding"] = {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": None}
            saved["padding"] |= {"pad_id": 3, "pad_type_id": 0, "pad_token": "[SEP]"}
            saved["truncation"] = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
            saved["added_tokens"].append(
                {**saved["added_tokens"][0], "id": 16, "content": "<new>", "special": False, "normalized": True}
            )
        write(tmp_path, {"tokenizer.json": saved})
    pair = loaded(tmp_path)
    same(pair)
    ours, reference = pair
    assert agree(pair, PROBES, padding=True, **EVERYTHING)
    ids = ours(PROBES[0])["input_ids"]
    assert ours.decode(ids, skip_special_tokens=True) == reference.decode(ids, skip_special_tokens=True)

    ours.save_pretrained(tmp_path / "ours")
    reference.save_pretrained(tmp_path / "theirs")
    for home in ("ours", "theirs"):
        again = loaded(tmp_path / home)
        same(again)
        same((again[0], reference))
        assert agree((again[0], reference), PROBES, padding=True, **EVERYTHING)


def test_real_folder() -> None:
    same(full())


def test_save_and_reload(tmp_path: Path) -> None:
    ours, reference = full()
    home = tmp_path / "new" / "folder"
    paths = ours.save_pretrained(home)
    assert sorted(Path(path).name for path in paths) == ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert (home / "vocab.txt").read_text("utf-8").split() == (model_folder() / "vocab.txt").read_text("utf-8").split()
    again = loaded(home)
    same(again)
    same((ours, again[1]))
    same((again[0], reference))
    auto = transformers.AutoTokenizer.from_pretrained(home)
    assert type(auto).__name__ == "DistilBertTokenizer"


def test_subfolder(tmp_path: Path) -> None:
    write(tmp_path / "inner", {"vocab.txt": "\n".join(TOY)})
    assert DistilBertTokenizer.from_pretrained(tmp_path, subfolder="inner").vocab_size == len(TOY)


def test_load_errors(tmp_path: Path) -> None:
    load = DistilBertTokenizer.from_pretrained
    with pytest.raises(OSError, match="nowhere"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match=r"neither tokenizer\.json nor vocab\.txt"):
        load(tmp_path)
    with pytest.raises(OSError, match=r"none\.txt"):
        DistilBertTokenizer(tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(ValueError, match=r"bad\.txt.*UTF-8"):
        DistilBertTokenizer(tmp_path / "bad.txt")
    with pytest.raises(TypeError, match="vocab must be"):
        DistilBertTokenizer(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lowercase"):
        load(write(tmp_path / "ok", {"vocab.txt": "\n".join(TOY)}), lowercase=True)
    for text in ("{", "[1]", "5"):
        with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
            load(write(tmp_path / "json", {"vocab.txt": "\n".join(TOY), "tokenizer_config.json": text}))
    for model in ({"type": "BPE", "vocab": {}, "merges": []}, {"type": "Unigram", "vocab": []}):
        with pytest.raises(ValueError, match="WordPiece"):
            load(write(tmp_path / "bpe", {"tokenizer.json": {"model": model, "added_tokens": []}}))


_TEXTS = ["hello é [MASK] 世界 <x> \u1699", "a"]
CONFIG = {
    **FAST,
    "model_max_length": 64,
    "padding_side": "right",
    "truncation_side": "right",
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "clean_up_tokenization_spaces": True,
    "extra_special_tokens": ["<x>"],
    "model_input_names": ["input_ids"],
    "added_tokens_decoder": {"4": {"content": "[MASK]", "special": True, "lstrip": True}},
}


def sources() -> dict[str, Any]:
    tokenizer = rust()
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(6)
    mask = {"content": "[MASK]", "lstrip": True}
    return {
        "config.json": {"model_type": "distilbert"},
        "tokenizer.json": json.loads(tokenizer.to_str()),
        "tokenizer_config.json": CONFIG,
        "special_tokens_map.json": {"cls_token": "[CLS]", "mask_token": mask, "additional_special_tokens": ["<y>"]},
        "added_tokens.json": {"<new>": 99},
        "vocab.txt": "\n".join(TOY),
    }


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("tokenizer.json", {"model": None}, "model must be an object, found None"),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": -1}}}, r"model\.vocab must be"),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": 2**31}}}, r"model\.vocab must be"),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": 1.5}}}, r"model\.vocab must be"),
        ("tokenizer.json", {"added_tokens": [None]}, r"added_tokens must be .*found \[None\]"),
        ("tokenizer.json", {"padding": True}, "padding must be null or an object"),
        ("tokenizer.json", {"truncation": {"direction": "Up"}}, "truncation must be null or an object"),
        ("tokenizer_config.json", {"tokenizer_class": 5}, "tokenizer_class must be the name"),
        ("tokenizer_config.json", {"cls_token": None}, "cls_token must be a token"),
        ("tokenizer_config.json", {"mask_token": {"content": 5}}, "mask_token must be a token"),
        ("tokenizer_config.json", {"mask_token": {"content": "m", "lstrip": 1}}, "mask_token must be a token"),
        ("tokenizer_config.json", {"do_lower_case": "yes"}, "do_lower_case must be true or false, found 'yes'"),
        ("tokenizer_config.json", {"strip_accents": 1}, "strip_accents must be true, false or null"),
        ("tokenizer_config.json", {"padding_side": None}, "padding_side must be 'right' or 'left'"),
        *[
            ("tokenizer_config.json", {"model_max_length": value}, "model_max_length must be a whole number")
            for value in (0, -5, "512", 64.5, [1], True, float("nan"), -float("inf"))
        ],
        ("tokenizer_config.json", {"model_input_names": [5]}, "model_input_names must be a list of names"),
        ("tokenizer_config.json", {"extra_special_tokens": "<x>"}, "extra_special_tokens must be a list"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "x"}}}, "added_tokens_decoder must be"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": "x"}}, "added_tokens_decoder must be"),
        ("special_tokens_map.json", {"cls_token": []}, "cls_token must be a token"),
        ("added_tokens.json", {"<new>": "9"}, "<new> must be an id"),
    ],
)
def test_fields(tmp_path: Path, file: str, change: dict[str, Any], match: str) -> None:
    home = write(tmp_path, sources())
    write(home, {file: {**sources()[file], **change}})
    loaders: list[Callable[..., Any]] = [load_tokenizer]
    if "tokenizer_class" not in change:
        loaders.append(DistilBertTokenizer.from_pretrained)
    for load in loaders:
        with pytest.raises(CheckpointError, match=match) as error:
            load(home)
        assert str(home / file) in str(error.value)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"])
@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "[1]", "null", "[" * 100_000, "\xff", '{"half a surrogate pair": "\\ud800"}'),
        *('{"a":' * 5000 + "1" + "}" * 5000, '{"a": ' + "9" * 5000 + "}"),
    ],
)
def test_no_json(tmp_path: Path, file: str, text: str) -> None:
    home = write(tmp_path, sources())
    if file == "config.json":  # it is asked only where the other does not tell
        (home / "tokenizer_config.json").unlink()
    (home / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError) as error:
        load_tokenizer(home)
    assert str(home / file) in str(error.value)


def test_tokens_that_do_not_fit_together(tmp_path: Path) -> None:
    home = write(tmp_path, sources())
    for change in ({"cls_token": ""}, {"sep_token": "two words"}, {"unk_token": "[LOST]"}):
        write(home, {"tokenizer_config.json": {**CONFIG, "tokenizer_class": "BertTokenizer", **change}})
        for options in ({}, {"model_max_length": 9}):
            with pytest.raises(CheckpointError, match=rf"{home}.*can't be used"):
                load_tokenizer(home, **options)
    with pytest.raises(ValueError, match="two words") as error:
        DistilBertTokenizer.from_pretrained(
            write(tmp_path / "good", {"vocab.txt": "\n".join(TOY)}), cls_token="two words"
        )
    assert not isinstance(error.value, CheckpointError)


VALUES: list[Any] = [
    *[None, True, False, 0, -1, 3, 2**31, 2**32, 2**64, 10**30, 1.5, float("nan"), float("inf"), -float("inf")],
    *["", "x", "[CLS]", "two words", "\ud800", "$A", "x" * 10_000, "\0", "é", "Right", "Left", "WordPiece", "BPE"],
    *[[], [1], [None], [[]], ["a", "b"], {}, {"a": 1}, {"content": None}, {"content": ""}, {"content": "z", "id": 3}],
]


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*place, key)
        yield from _places(part, (*place, key))


def _mutated(rng: random.Random, value: Any) -> bytes:
    """A file with another value in one place, without one, or with other bytes."""
    if isinstance(value, str) or rng.random() < 0.3:
        text = (value if isinstance(value, str) else json.dumps(value)).encode()
        start = rng.randrange(len(text))
        return text[:start] + rng.randbytes(rng.randrange(3)) + text[start + rng.choice((0, 1, 10, 1000)) :]
    changed = copy.deepcopy(value)
    *way, last = rng.choice([place for place in _places(changed) if len(place) <= rng.choice((1, 2, 3, 6))])
    parent = changed
    for key in way:
        parent = parent[key]
    if rng.random() < 0.25:
        del parent[last]
    else:
        parent[last] = rng.choice(VALUES)
    return json.dumps(changed).encode()


@pytest.mark.parametrize("seed", range(2))
def test_mutated_files(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    refused, missing = [], []
    for number in range(60):
        files = sources()
        files["tokenizer_config.json"] = {
            **CONFIG,
            "tokenizer_class": rng.choice(["BertTokenizer", "TokenizersBackend"]),
        }
        if rng.random() < 0.4:
            del files["tokenizer_config.json"]["added_tokens_decoder"]
        if files["tokenizer_config.json"]["tokenizer_class"] == "BertTokenizer" and rng.random() < 0.5:
            del files["tokenizer.json"]
        home = write(tmp_path / str(number), files)
        file = rng.choice(sorted(files))
        (home / file).write_bytes(_mutated(rng, files[file]))
        for load in (load_tokenizer, DistilBertTokenizer.from_pretrained):
            try:
                tokenizer = load(home)
            except CheckpointError as error:
                refused.append(str(error))
            except OSError as error:
                missing.append(str(error))
            else:
                tokenizer(_TEXTS, padding=tokenizer.pad_token is not None, truncation=True, max_length=9)
                tokenizer("a", "b")
                tokenizer.decode([0, 1, 2, 3], skip_special_tokens=True)
                tokenizer.save_pretrained(home / "saved")
        shutil.rmtree(home)
    assert len(refused) > 20
    assert all(str(tmp_path) in message for message in refused)
    assert all("tokenizer.json" in message for message in missing)

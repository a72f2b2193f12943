"""The tokenizer against `transformers.DistilBertTokenizer`, which is its specification."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from distilrt.text.tokenizer import DistilBertTokenizer
from tests.text.tokenizer_pairs import (
    EVERYTHING,
    INPUTS,
    TEXTS,
    TOY,
    Pair,
    Reference,
    agree,
    cased,
    full,
    loaded,
    model_folder,
    same,
    toy,
)

PAIRS = list(zip(TEXTS, [*TEXTS[5:], *TEXTS[:5]], strict=True))
WORDS = [["Hello", "wörld", "don't", "世界"], ["one"], [], ["", " ", "a b", "[MASK]"], ["supercalifragilistic"] * 20]


@pytest.fixture(scope="session", params=[full, cased, toy])
def pair(request: pytest.FixtureRequest) -> Pair:
    result: Pair = request.param()
    return result


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


def test_verbose_is_accepted() -> None:
    for verbose in (False, True):
        assert agree(full(), ["a b", "c"], padding=True, verbose=verbose)
        ours, reference = full()
        assert ours.encode("a b", verbose=verbose) == reference.encode("a b", verbose=verbose)
        assert ours.tokenize("a b", verbose=verbose) == reference.tokenize("a b", verbose=verbose)
        rows = {"input_ids": [[1, 2], [3]]}
        assert ours.pad(rows, verbose=verbose) == reference.pad(copy.deepcopy(rows), verbose=verbose)


def test_defaults_and_pair_layout() -> None:
    ours, _ = full()
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


@settings(max_examples=60, deadline=None)
@given(first=st.text(max_size=80), second=st.none() | st.text(max_size=60), limit=st.none() | st.integers(4, 30))
def test_any_text(first: str, second: str | None, limit: int | None) -> None:
    assert agree(full(), first, second, max_length=limit, return_overflowing_tokens=True, **EVERYTHING)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(alphabet="abé A.[]MASK世\u0301\n", max_size=40), min_size=1, max_size=5))
def test_any_batch(pair: Pair, texts: list[str]) -> None:
    assert agree(pair, texts, padding=True, truncation=True, max_length=12, **EVERYTHING)
    assert agree(pair, texts, is_split_into_words=True, **EVERYTHING)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 31000), max_size=30), skip=st.booleans(), clean=st.none() | st.booleans())
def test_decode_any_ids(ids: list[int], skip: bool, clean: bool | None) -> None:
    ours, reference = full()
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
def test_tensors(kind: str) -> None:
    for args in INPUTS.values():
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": 10}
        options["return_overflowing_tokens"] = True
        for extra in ({}, {**options, **EVERYTHING}, {**options, "stride": 1}):
            if not extra and isinstance(args[0], list):
                continue
            ours, expected = (one(*args, return_tensors=kind, **extra) for one in full())
            assert list(ours) == list(expected)
            for key, value in ours.items():
                assert isinstance(value, np.ndarray if kind == "np" else torch.Tensor)
                assert value.dtype == expected[key].dtype
                assert value.shape == expected[key].shape
                assert (value == expected[key]).all()
    ours = full()[0]("a", return_tensors=kind)
    assert ours.input_ids.shape == (1, 3)
    with pytest.raises(ValueError, match="padding=True"):
        full()[0](["a", "a b"], return_tensors=kind)


@pytest.mark.parametrize("kind", [None, "np", "pt"])
def test_no_texts(kind: str | None) -> None:
    encoding = full()[0]([], return_tensors=kind, return_length=True, padding=True)
    assert list(encoding) == ["input_ids", "attention_mask", "length"]
    assert all(len(value) == 0 for value in encoding.values())
    assert kind is None or (tuple(encoding.input_ids.shape) == (0, 0) and "int64" in str(encoding.input_ids.dtype))
    assert full()[0]([], [])["input_ids"] == []


def test_array_inputs() -> None:
    ours, _ = full()
    expected = ours(["one", "two words"])
    for texts in (np.array(["one", "two words"]), np.array(["one", "two words"], dtype=object), ("one", "two words")):
        assert ours(texts) == expected
    assert ours([np.str_("one"), np.str_("two words")]) == expected
    words = np.array([["one", "two"], ["three", "four"]])
    assert ours(words, is_split_into_words=True) == ours(words.tolist(), is_split_into_words=True)


def test_pad() -> None:
    ours, reference = full()
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


def test_pad_keeps_the_kind() -> None:
    ours, reference = full()
    for wrap in (np.array, torch.tensor):
        rows = [{"input_ids": wrap([1, 2, 3])}, {"input_ids": wrap([4])}]
        result, expected = ours.pad(rows), reference.pad(copy.deepcopy(rows))
        for key in ("input_ids", "attention_mask"):
            assert type(result[key]) is type(expected[key])
            assert result[key].tolist() == expected[key].tolist()
    scores = ours.pad([{"input_ids": [1], "score": 0.5}], return_tensors="pt")["score"]
    assert scores.dtype == torch.float32
    assert ours.pad({"input_ids": []})["input_ids"] == []


def test_pad_errors() -> None:
    ours, _ = full()
    with pytest.raises(ValueError, match="input_ids"):
        ours.pad([{"ids": [1]}])
    with pytest.raises(ValueError, match="input_ids"):
        ours.pad([])
    with pytest.raises(ValueError, match="sizes differ"):
        ours.pad({"input_ids": [[1], [2]], "labels": [1]})
    with pytest.raises(ValueError, match="padding_side"):
        ours.pad({"input_ids": [[1], [2, 3]]}, padding_side="up")


@pytest.mark.parametrize(
    "options", [{}, {"do_lower_case": False}, {"mask_token": "<m>"}, {"extra_special_tokens": ["<x>"]}]
)
def test_constructor(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(TOY), encoding="utf-8")
    reference = Reference(TOY, **options)
    for source in (TOY, path, str(path)):
        same((DistilBertTokenizer(source, **options), reference))
    same(loaded(tmp_path, model_max_length=7, **options))
    for flags in ({"lstrip": True}, {"normalized": True}, {"special": True, "rstrip": True}):
        ours = DistilBertTokenizer(TOY, mask_token=AddedToken("<m>", **flags))
        same((ours, Reference(TOY, mask_token=AddedToken("<m>", **flags))))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"padding_side": "up"}, ValueError, "padding_side"),
        ({"truncation_side": 1}, ValueError, "truncation_side"),
        ({"cls_token": None}, TypeError, "cls_token"),
        ({"mask_token": 5}, TypeError, "special token"),
        ({"lowercase": True}, TypeError, "lowercase"),
    ],
)
def test_constructor_errors(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        DistilBertTokenizer(TOY, **options)


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
def test_call_errors(args: tuple[Any, ...], options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        full()[0](*args, **options)
    assert agree(full(), "still works")


def test_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from distilrt.text.tokenizer import DistilBertTokenizer as T;"
        f"T.from_pretrained({str(model_folder())!r})('a', return_tensors='np');"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"

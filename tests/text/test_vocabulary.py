"""Tokens, ids and names of a tokenizer, before and after they change, as in `transformers.DistilBertTokenizer`."""

from __future__ import annotations

import copy
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy, TensorType

from distilrt.text.tokenizer import DistilBertTokenizer
from tests.text.tokenizer_pairs import EVERYTHING, TOY, Pair, Reference, agree, full, model_folder, same

TEXTS = ["a <new> hello<x>b LATER later [MASK] <y>", "[NEW] É a\u0301 <s> hello", ""]


def fresh(**options: Any) -> Pair:
    return DistilBertTokenizer(TOY, **options), Reference(dict(TOY), **options)


def alike(pair: Pair) -> None:
    """Assert that both know the same tokens and treat texts alike."""
    same(pair)
    ours, reference = pair
    for name in (
        *("special_tokens_map", "all_special_tokens", "all_special_ids", "extra_special_tokens"),
        "added_tokens_decoder",
        *("added_tokens_encoder", "extra_special_tokens_ids", "is_fast", "pad_token_type_id", "max_len_sentences_pair"),
        *("max_len_single_sentence", *(f"{kind}_token{end}" for kind in ("bos", "eos") for end in ("", "_id"))),
    ):
        assert getattr(ours, name) == getattr(reference, name), name
    assert ours.get_added_vocab() == reference.get_added_vocab()
    assert agree(pair, TEXTS, padding=True, **EVERYTHING)
    assert agree(pair, TEXTS, truncation=True, max_length=6, **EVERYTHING)
    ids = ours(TEXTS)["input_ids"]
    assert ours.batch_decode(ids, skip_special_tokens=True) == reference.batch_decode(ids, skip_special_tokens=True)
    for row in ids:
        masks = [one.get_special_tokens_mask(row, already_has_special_tokens=True) for one in pair]
        assert masks[0] == masks[1]


CHANGES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "one": ("add_tokens", ("<new>",), {}),
    "several": ("add_tokens", (["<new>", "hello", "<z>"],), {}),
    "none": ("add_tokens", ([],), {}),
    "special": ("add_tokens", (["<new>", "LATER"],), {"special_tokens": True}),
    "objects": ("add_tokens", ([AddedToken("Later", lstrip=True), AddedToken("<y>", normalized=False)],), {}),
    "mask": ("add_special_tokens", ({"mask_token": "<new>"},), {}),
    "start": ("add_special_tokens", ({"cls_token": "<s>", "bos_token": "<x>", "eos_token": AddedToken("<y>")},), {}),
    "extra": ("add_special_tokens", ({"extra_special_tokens": ["<new>", "<x>", AddedToken("<y>", lstrip=True)]},), {}),
    "additional": ("add_special_tokens", ({"additional_special_tokens": ["<new>"]},), {}),
    "kept": (
        "add_special_tokens",
        ({"extra_special_tokens": ["<new>", "<x>"]},),
        {"replace_extra_special_tokens": False},
    ),
    "no names": ("add_special_tokens", ({},), {}),
}


@pytest.mark.parametrize(("first", "second"), [(name, None) for name in CHANGES] + list(itertools.pairwise(CHANGES)))
def test_added_tokens(first: str, second: str | None, tmp_path: Path) -> None:
    pair = fresh(extra_special_tokens=["<x>"])
    before = pair[0].backend_tokenizer.to_str()
    old = pair[0].backend_tokenizer
    for name in filter(None, (first, second)):
        method, args, options = CHANGES[name]
        counts = [getattr(one, method)(*copy.deepcopy(args), **options) for one in pair]
        assert counts[0] == counts[1]
    alike(pair)
    assert old.to_str() == before
    pair[0].save_pretrained(tmp_path)
    alike((DistilBertTokenizer.from_pretrained(tmp_path), Reference.from_pretrained(tmp_path)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("pad_token", "hello"), ("pad_token", "nowhere"), ("mask_token", None), ("mask_token", AddedToken("a"))],
        *[("cls_token_id", 5), ("sep_token_id", None), ("eos_token", "[SEP]"), ("bos_token_id", 2)],
        *[("extra_special_tokens", ["a", AddedToken("b")]), ("extra_special_tokens", None)],
        ("extra_special_tokens_ids", [5, 6]),
    ],
)
def test_assigned_tokens(name: str, value: Any) -> None:
    pair = fresh(extra_special_tokens=["<x>"])
    for one in pair:
        setattr(one, name, value)
    alike(pair)


def test_constructor_names() -> None:
    for options in (
        {"additional_special_tokens": ["<x>"]},
        {"extra_special_tokens": ["<x>"], "additional_special_tokens": ["<y>"]},
        {"bos_token": "<s>", "eos_token": AddedToken("</s>", lstrip=True), "name_or_path": "somewhere"},
    ):
        pair = fresh(**options)
        alike(pair)
        assert pair[0].name_or_path == pair[1].name_or_path
    assert fresh(extra_special_tokens=["<x>"])[0].additional_special_tokens == ["<x>"]
    loaded = DistilBertTokenizer.from_pretrained(model_folder(), use_fast=True, additional_special_tokens=["<x>"])
    assert (loaded.name_or_path, loaded.extra_special_tokens) == (str(model_folder()), ["<x>"])
    assert loaded


def test_errors() -> None:
    ours, _ = fresh()
    with pytest.raises(ValueError, match=r"'head_token' is not the name of a special token.*cls_token"):
        ours.add_special_tokens({"head_token": "<h>"})
    bad: Any
    for bad in (5, ["<x>", 5], None):
        with pytest.raises(TypeError, match="str or AddedToken"):
            ours.add_tokens(bad)
    with pytest.raises(TypeError, match="special token"):
        ours.add_special_tokens({"extra_special_tokens": [5]})
    with pytest.raises(TypeError, match="special token"):
        ours.pad_token = 5  # type: ignore[assignment]
    with pytest.raises(ValueError, match="return_special_tokens_mask"):
        ours.get_special_tokens_mask([5, 6])
    with pytest.raises(AttributeError, match=r"no 'apply_chat_template'.*transformers may"):
        ours.apply_chat_template([])  # type: ignore[attr-defined]
    assert not hasattr(ours, "train_new_from_iterator")
    alike(fresh())


def test_split_special_tokens() -> None:
    pair = full()
    for split in (True, False, None):
        for options in ({}, {"padding": True, "truncation": True, "max_length": 9}):
            assert agree(pair, ["[CLS] a [MASK]", "b"], split_special_tokens=split, **options, **EVERYTHING)


def test_enums() -> None:
    for pad, cut in itertools.product(PaddingStrategy, TruncationStrategy):
        agree(full(), ("a b c", "d e"), padding=pad, truncation=cut, max_length=4)
    assert isinstance(full()[0]("a", return_tensors=TensorType.NUMPY)["input_ids"], np.ndarray)


def test_adding_disturbs_no_call_of_another_thread() -> None:
    ours, _ = fresh()
    texts = ["hello <0> a", "b"] * 20
    plain = ours(texts, padding=True)["input_ids"]
    start = threading.Barrier(5)

    def call(_: int) -> list[Any]:
        start.wait()
        return [ours(texts, padding=True)["input_ids"] for _ in range(100)]

    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(call, number) for number in range(4)]
        start.wait()
        for number in range(50):
            ours.add_tokens(f"<{number}>")
        results = [result for each in calls for result in each.result()]
    after = ours(texts, padding=True)["input_ids"]
    assert after != plain
    assert all(result in (plain, after) for result in results)


def test_data_collators() -> None:
    rows = [{"input_ids": [2, 5, 3], "labels": [0, 1, 0]}, {"input_ids": [2, 5, 5, 5, 3], "labels": [0, 1, 1, 1, 0]}]
    flat = [{**row, "labels": 1} for row in rows]
    for name, features in (("DataCollatorWithPadding", flat), ("DataCollatorForTokenClassification", rows)):
        ours, expected = (getattr(transformers, name)(one)(copy.deepcopy(features)) for one in fresh())
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[key], expected[key]) for key in expected)
    tokenizer: Any = fresh()[0]
    masked = transformers.DataCollatorForLanguageModeling(tokenizer, seed=1)([{"input_ids": [2, *[5] * 40, 3]}])
    assert 4 in masked["input_ids"]
    assert masked["labels"][0, 0] == -100

"""Padding and truncation against transformers: every combination of the arguments."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from distilrt.text.tokenizer import DistilBertTokenizer
from tests.text.tokenizer_pairs import EVERYTHING, INPUTS, TEXTS, TOY, Pair, agree, cased, full, toy


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.whole)])  # 11 shares no factor with the grid
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", INPUTS)
def test_padding_and_truncation(name: str, side: str, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in full():
        monkeypatch.setattr(one, "truncation_side", side)
    count = 0
    combinations = itertools.product(
        [False, True, "max_length", "longest", "do_not_pad"],
        [None, False, True, "longest_first", "only_first", "only_second", "do_not_truncate"],
        [None, "left", "right"],
        [None, 6, 11, 16],
        [0, 2],
        [False, True],
        [None, 8],
    )
    for padding, truncation, padding_side, max_length, stride, overflow, multiple in itertools.islice(
        combinations, len(name) % every, None, every
    ):
        if (multiple or padding_side) and padding in (False, "do_not_pad"):
            continue
        count += agree(
            full(),
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
    assert count * every > 1000


def test_odd_lengths() -> None:
    first, second = "a b c d e f g h", "k l m n o p q r s t u v"
    for max_length, truncation, special, swap in itertools.product(
        range(3, 26), [True, "only_first", "only_second"], [True, False], [True, False]
    ):
        texts = (second, first) if swap else (first, second)
        options = {"max_length": max_length, "truncation": truncation, "add_special_tokens": special}
        agree(full(), *texts, return_overflowing_tokens=True, **options)
        agree(full(), texts[0], return_overflowing_tokens=True, stride=1, **options)


@pytest.mark.parametrize("make", [full, cased, toy])
def test_sides_of_the_tokenizer(make: Callable[[], Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make()
    for one in pair:
        monkeypatch.setattr(one, "padding_side", "left")
        monkeypatch.setattr(one, "truncation_side", "left")
    assert agree(pair, ["a b a b a b", "a"], padding=True, truncation=True, max_length=5, **EVERYTHING)


def test_model_max_length() -> None:
    assert agree(cased(), TEXTS, truncation=True, padding="max_length")
    assert toy()[0].model_max_length == int(1e30)
    assert agree(toy(), TEXTS, truncation=True, padding="max_length")
    assert len(toy()[0]("a " * 3000)["input_ids"]) == 3002
    assert len(toy()[0]("a " * 3000, truncation=True)["input_ids"]) == 3002


def test_ignored_max_length_warns() -> None:
    with pytest.warns(UserWarning, match="max_length is ignored"):
        full()[0]("a", padding=True, max_length=3)


def test_no_pad_token() -> None:
    ours = DistilBertTokenizer(TOY, pad_token=None)
    assert ours.pad_token is None
    assert ours.pad_token_id is None
    with pytest.raises(ValueError, match="no pad_token"):
        ours("a", padding=True)

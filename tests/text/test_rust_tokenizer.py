"""The Rust tokenizers: shared by threads, never changed, and what they refuse."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from distilrt.errors import InvalidInput
from distilrt.text.tokenizer import DistilBertTokenizer
from tests.text.tokenizer_pairs import TEXTS, agree, full, loaded, model_folder, same


def test_threads() -> None:
    ours, reference = loaded(model_folder())

    def call(tokenizer: Callable[..., Any], number: int) -> Any:
        side = ("left", "right")[number % 2]
        options = {"max_length": 4 + number % 90, "truncation": True, "padding": "max_length", "padding_side": side}
        return dict(tokenizer(["words of text " * (number % 23), TEXTS[number % len(TEXTS)]], **options))

    numbers = range(120)
    expected = [call(reference, number) for number in numbers]
    start = threading.Barrier(8)

    def work(offset: int) -> list[Any]:
        start.wait()
        return [(number, call(ours, number)) for number in (*numbers[offset:], *numbers[:offset])]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(0, 120, 15)):
            assert all(result == expected[number] for number, result in results)


def test_frozen_backend() -> None:
    ours, _ = full()
    before = ours.backend_tokenizer.to_str()
    ours(TEXTS, truncation=True, max_length=5, padding="max_length", stride=1)
    assert ours.backend_tokenizer.to_str() == before
    assert ours.backend_tokenizer.truncation is None
    assert ours.backend_tokenizer.padding is None


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
def test_a_stride_that_a_pair_leaves_no_room_for(
    truncation: str, special: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is refused before the Rust library panics, which writes to stderr; and all else is as transformers has it."""
    ours, reference = full()
    refused = 0
    for first, second, stride in itertools.product(range(0, 12, 2), range(1, 12, 3), (1, 2, 3)):
        pair = ("a " * first, "b " * second)
        options: Any = {"truncation": truncation, "max_length": 7, "stride": stride, "add_special_tokens": special}
        calls: list[Any] = [([pair],), ([list(pair)],), ([pair[0]], [pair[1]])]
        try:
            found = [ours(*args, return_overflowing_tokens=True, **options)["input_ids"] for args in calls]
        except InvalidInput:
            refused += 1
            for args in (pair, *calls):
                with pytest.raises(InvalidInput, match="tokens for the text that is cut, of a pair of"):
                    ours(*args, **options)
            with pytest.raises(InvalidInput, match="raise max_length, lower stride or shorten the other text"):
                ours([[text.split() for text in pair]], is_split_into_words=True, **options)
        else:
            theirs = reference([pair], return_overflowing_tokens=True, **options)["input_ids"]
            assert found == [theirs] * 3
    assert refused > 3
    assert "panicked" not in capfd.readouterr().err


def test_a_stride_in_windows_without_special_tokens() -> None:
    """The Rust library takes special tokens off the limit even where none are added; here only those that are count."""
    ours, _ = full()
    ids = ours("a b c d", add_special_tokens=False)["input_ids"]
    options: Any = {"truncation": True, "stride": 1, "add_special_tokens": False, "return_overflowing_tokens": True}
    assert ours("a b c d", max_length=2, **options)["input_ids"] == [ids[place : place + 2] for place in range(3)]
    with pytest.raises(InvalidInput, match="stride=1 must be less than the 1 tokens of text in max_length=3"):
        ours("a b c d", max_length=3, **options | {"add_special_tokens": True})


def test_copies() -> None:
    ours, reference = full()
    ours("a", truncation=True)
    for twin in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        same((twin, reference))
        assert agree((twin, reference), TEXTS, truncation=True, max_length=7, padding=True)
    assert "vocab_size=30522" in repr(ours)


def test_copies_that_split_special_tokens() -> None:
    ours, reference = loaded(model_folder(), split_special_tokens=True)
    for twin in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert twin("a [SEP]")["input_ids"] == reference("a [SEP]")["input_ids"]


def test_smallest_limits() -> None:
    ours, _ = full()
    assert ours("a b", truncation=True, max_length=2).tokens() == ["[CLS]", "[SEP]"]
    assert ours("a b", "c", truncation=True, max_length=3).tokens() == ["[CLS]", "[SEP]", "[SEP]"]
    for limit in (0, 1):
        assert agree(full(), "a b", truncation=True, max_length=limit, add_special_tokens=False)


def test_no_unknown_token() -> None:
    ours = DistilBertTokenizer({"a": 0})
    assert ours.tokenize("a") == ["a"]
    with pytest.raises(ValueError, match=r"\[UNK\]"):
        ours.tokenize("b")

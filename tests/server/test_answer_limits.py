"""Bounds on answers: how many tokens an input may have, and what is too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distilrt.errors import TooLarge
from distilrt.runtime.engine import Engine
from distilrt.server.answer_limits import MOST_CANDIDATES, MOST_NUMBERS, check_answer, check_candidates, most_tokens

TEXT = "Ada Lovelace wrote programs, 東京!"


def test_no_input_has_more_tokens(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of("DistilBertModel")
    ids = engine.tokenizer(TEXT)["input_ids"]
    assert len(ids) <= most_tokens(engine, TEXT) == len(TEXT) + 3
    assert most_tokens(engine, TEXT, "find: ") == len(TEXT) + 9
    assert most_tokens(engine, ids) >= len(ids)
    pair = engine.tokenizer(TEXT, "b c")["input_ids"]
    assert len(pair) <= most_tokens(engine, {"text": TEXT, "text_pair": "b c"})
    assert most_tokens(engine, TEXT * 9) == 64  # what the model reads
    for odd in (None, 5, 1e38, {}, {"text": None}):  # the task says what is wrong
        assert most_tokens(engine, odd) == 3


def test_large_answers() -> None:
    check_answer(2**10, MOST_NUMBERS // 2**10)
    check_answer(2**11, MOST_NUMBERS // 2**10, binary=True)
    with pytest.raises(TooLarge, match="1024 for each of up to 32769 tokens; at most 33554432 are allowed"):
        check_answer(2**15 + 1, 2**10)


@pytest.mark.parametrize("top_k", [None, "", True, 2.5, -1, MOST_CANDIDATES])
def test_few_candidates(top_k: Any) -> None:
    check_candidates("fill-mask", [("a [MASK]", 1)], top_k)
    check_candidates("fill-mask", [], 10**9)
    check_candidates("fill-mask", [("no mask", 0)], 10**9)


def test_many_candidates() -> None:
    """Places count, and the length of their texts."""
    check_candidates("fill-mask", [("a", 1), ("b" * 256, 3)], MOST_CANDIDATES // 7)
    with pytest.raises(TooLarge, match=r"top_k must be at most 4681 for .*, found 4682; send fewer or shorter ones"):
        check_candidates("fill-mask", [("a", 1), ("b" * 256, 3)], MOST_CANDIDATES // 7 + 1)
    with pytest.raises(TooLarge, match=rf"^the inputs have 40000 places .*; at most {MOST_CANDIDATES} are allowed"):
        check_candidates("fill-mask", [("a", 40_000)], 1)

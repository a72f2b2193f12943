"""The inputs of embeddings: one or several, texts or token ids, and the prompt that goes before them."""

from __future__ import annotations

from typing import Any

import pytest

from distilrt.engine import Engine
from distilrt.server.embedding_inputs import items, prompt
from distilrt.server.errors import Empty, Unprocessable


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], "a", [2, 3]], [[1], "a", [2, 3]])],
)
def test_items(inputs: Any, wanted: list[Any]) -> None:
    assert items(inputs) == wanted


def test_no_items() -> None:
    with pytest.raises(Empty, match="at least one input"):
        items([])
    with pytest.raises(Unprocessable, match="a list of numbers and others"):
        items([1, "a"])


def test_prompts(prompted: Engine) -> None:
    assert prompt(prompted, None, [[1]]) == "text: "
    assert prompt(prompted, "query", ["a"]) == "find: "
    with pytest.raises(Unprocessable, match="which are: query, passage; found ''"):
        prompt(prompted, "", ["a"])
    with pytest.raises(Unprocessable, match="not before token ids"):
        prompt(prompted, "query", ["a", [1]])

"""engine/bench/wire.py: each format's requests and answers, as its own documentation writes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from distilrt.bench import answers, wire
from distilrt.bench.samples import PARAMS

SCORES = [{"label": "NO", "score": -1.0}, {"label": "YES", "score": 2.0}]
REQUESTS: list[tuple[str, str, list[str], str, Any]] = [
    ("hf", "text-classification", ["a"], "/",
     {"inputs": "a", "parameters": {"top_k": None, "function_to_apply": "none", "truncation": True}}),
    ("hf", "feature-extraction", ["a", "b"], "/", {"inputs": ["a", "b"], "truncate": True, "normalize": True}),
    ("openai", "feature-extraction", ["ü"], "/v1/embeddings",
     {"model": "m", "input": ["ü"], "encoding_format": "float"}),
    ("infinity", "text-classification", ["a"], "/classify", {"model": "m", "input": ["a"]}),
]  # fmt: skip
ANSWERS: list[tuple[str, Any, list[float], str | None]] = [
    ("hf", [SCORES], [-1, 2], "YES"),
    ("hf", [[3.0, 4.0]], [0.6, 0.8], None),
    ("openai", {"data": [{"index": 0, "embedding": [3.0, 4.0]}]}, [0.6, 0.8], None),
    ("infinity", {"data": [[{"score": 0.8, "label": "YES"}, {"score": 0.2, "label": "NO"}]]},
     [np.log(0.2), np.log(0.8)], "YES"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "task", "texts", "path", "body"), REQUESTS)
def test_requests(name: str, task: str, texts: list[str], path: str, body: Any) -> None:
    form = wire.FORMATS[name]
    assert form.paths[task] == path
    assert json.loads(form.encode(task, texts, PARAMS[task], "m")) == body


@pytest.mark.parametrize(("name", "body", "numbers", "label"), ANSWERS)
def test_answers(name: str, body: Any, numbers: list[float], label: str | None) -> None:
    answer = answers.parse(wire.FORMATS[name].decode(json.dumps(body).encode()))
    assert answer.numbers.tolist() == pytest.approx(numbers)
    assert answer.label == label


def test_scores_that_are_no_softmax_are_refused() -> None:
    body = b'{"data": [[{"score": 0.8, "label": "YES"}, {"score": 0.7, "label": "NO"}]]}'
    with pytest.raises(ValueError, match="not of this format"):
        wire.FORMATS["infinity"].decode(body)


@pytest.mark.parametrize("name", ["openai", "infinity"])
@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b'{"data": []}'])
def test_other_answers_are_refused(name: str, body: bytes) -> None:
    with pytest.raises(ValueError, match="not of this format"):
        wire.FORMATS[name].decode(body)

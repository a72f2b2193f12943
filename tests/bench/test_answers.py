"""engine/bench/answers.py: answers of every form become numbers, and differences from float32 show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt.bench import answers

A, B = {"label": "A", "score": 1.0}, {"label": "B", "score": -2.0}


@pytest.mark.parametrize("raw", [[A, B], [B, A], [[B, A]], [[[A], [B]]]])
def test_labels_have_one_order(raw: Any) -> None:
    answer = answers.parse(raw)
    assert (answer.numbers.tolist(), answer.label) == ([1.0, -2.0], "A")


def test_other_answers() -> None:
    assert answers.parse({"score": 0.5, "answer": "here", "start": 1, "end": 5}).label == "here"
    entities = [{"entity": "PER", "score": 0.9, "word": "x"}, {"entity": "O", "score": 0.2, "word": "y"}]
    assert answers.parse(entities).numbers.tolist() == [0.9, 0.2]
    assert answers.parse(entities).label == "PER"


@pytest.mark.parametrize("raw", [[3.0, 4.0], [[3.0, 4.0]], [[[6.0, 0.0], [0.0, 8.0]]]])
def test_vectors_are_pooled_and_normal(raw: Any) -> None:
    answer = answers.parse(raw)
    assert answer.numbers == pytest.approx(np.array([0.6, 0.8]))
    assert answer.label is None


@pytest.mark.parametrize("raw", [None, {}, [], "no", {"error": "x"}, [[1.0], [1.0, 2.0]]])
def test_no_answer(raw: Any) -> None:
    with pytest.raises(ValueError, match="neither scores nor a vector"):
        answers.parse(raw)


def _answers(rows: list[list[float]], labels: list[str] | None = None) -> list[answers.Answer]:
    named: list[str] | list[None] = labels or [None] * len(rows)
    return [answers.Answer(np.array(row), label) for row, label in zip(rows, named, strict=True)]


def test_compare() -> None:
    exact = _answers([[1, 2, 4], [0, 0, 2]], ["c", "c"])
    found = answers.compare(_answers([[1, 2, 4.2], [0.1, 0, 2]], ["c", "a"]), exact, "bfloat16")
    assert found.max_difference == pytest.approx(0.05)
    assert found.mean_difference == pytest.approx(0.3 / 4 / 6)
    assert (found.agreement, found.bound) == (0.5, 5e-2)
    assert 0.99 < found.cosine < 1
    assert not answers.compare(_answers([[1, 2, 4.3], [0, 0, 2]]), exact, "bfloat16").ok
    assert answers.compare(_answers([[1, 2, 4.3], [0, 0, 2]]), exact, "unknown").ok
    assert answers.compare(exact, exact, "float32").ok


@pytest.mark.parametrize("wrong", [[[np.nan, 2, 4]], [[1.0, 2.0]]])
def test_no_bound_allows_nan_or_another_shape(wrong: list[list[float]]) -> None:
    assert not answers.compare(_answers(wrong), _answers([[1, 2, 4]]), "int8").ok

"""Answers of any target as numbers and a label, and how far they are from those of float32: no speed without that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# How far the numbers may be from float32's, relative to the largest of them. int8's is wide because random weights,
# which a benchmark may run, leave a quantizer nothing to work with; the difference found stands beside every speed.
BOUNDS = {"float64": 1e-3, "float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2, "int8": 0.3}
_LABELS = ("label", "entity", "entity_group", "token_str", "answer")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its numbers in an order that does not depend on them where there are labels, and its best label."""

    numbers: npt.NDArray[np.float64]
    label: str | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Answers compared with float32's.

    Attributes:
        max_difference, mean_difference: of all numbers, relative to the largest number of float32.
        cosine: the smallest between two answers of at least 3 numbers; 1 where there are fewer.
        agreement: share of answers with the same label; None where there are no labels.
        bound: what the largest difference may be.
    """

    max_difference: float
    mean_difference: float
    cosine: float
    agreement: float | None
    bound: float

    @property
    def ok(self) -> bool:
        """Whether it is within its bound; NaN is not."""
        return self.max_difference <= self.bound


def parse(raw: Any) -> Answer:
    """An answer as this package's tasks or a server of the same task gives it.

    Raises:
        ValueError: it has neither scores nor vectors.
    """
    scored = list(_scored(raw))
    if scored:
        best = max(scored, key=lambda item: item["score"])
        label = next((str(best[key]) for key in _LABELS if key in best), None)
        if all("label" in item for item in scored):
            scored.sort(key=lambda item: str(item["label"]))
        return Answer(np.array([float(item["score"]) for item in scored]), label)
    try:
        vector = np.asarray(raw, np.float64)
    except (TypeError, ValueError):
        vector = np.zeros(0)
    if not vector.ndim or not vector.size:
        raise ValueError(f"it answers with {str(raw)[:80]!r}, neither scores nor a vector")
    vector = vector.reshape(-1, vector.shape[-1])  # of several, a server has not pooled: the mean
    pooled = vector.mean(axis=0)
    return Answer(pooled / max(float(np.linalg.norm(pooled)), 1e-12), None)


def centred(answer: Answer) -> Answer:
    """Logits less their mean, which is all that a softmax keeps of them."""
    return Answer(answer.numbers - answer.numbers.mean(), answer.label)


def _scored(raw: Any) -> Any:
    """All objects with a score, in order."""
    if isinstance(raw, dict):
        if isinstance(raw.get("score"), int | float):
            yield raw
    elif isinstance(raw, list | tuple):
        for item in raw:
            yield from _scored(item)


def compare(answers: Sequence[Answer], exact: Sequence[Answer], dtype: str) -> Quality:
    """How far `answers` are from `exact`, which are float32's; an unknown dtype has int8's bound."""
    bound = BOUNDS.get(dtype, BOUNDS["int8"])
    largest = max(float(np.abs(each.numbers).max()) for each in exact)
    pairs = list(zip(answers, exact, strict=True))
    labels = [ours.label == theirs.label for ours, theirs in pairs if theirs.label is not None]
    agreement = round(sum(labels) / len(labels), 4) if labels else None
    if any(ours.numbers.shape != theirs.numbers.shape for ours, theirs in pairs):
        return Quality(float("inf"), float("inf"), 0.0, agreement, bound)
    differences = np.concatenate([np.abs(ours.numbers - theirs.numbers) for ours, theirs in pairs]) / (largest or 1.0)
    cosines = [_cosine(ours.numbers, theirs.numbers) for ours, theirs in pairs if len(theirs.numbers) >= 3]
    return Quality(float(differences.max()), float(differences.mean()), min(cosines, default=1.0), agreement, bound)


def _cosine(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else float(not one.any() and not other.any())

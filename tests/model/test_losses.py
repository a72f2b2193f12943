"""Losses against torch in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from distilrt.errors import InvalidInput
from distilrt.model import losses
from distilrt.model.config import DistilBertConfig

CONFIG = DistilBertConfig()


@pytest.mark.parametrize("labels", [[0, 3, 1], [-100, 3, -100], [-100] * 3])
def test_cross_entropy(labels: list[int], rng: np.random.Generator) -> None:
    logits = rng.normal(0, 300, (3, 4))
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.tensor(labels)).item()
    assert losses.cross_entropy(logits, np.array(labels)) == pytest.approx(theirs, rel=1e-13, nan_ok=True)
    assert math.isnan(losses.cross_entropy(logits[:0], np.zeros(0, int)))


def test_mean_squared_error_and_binary_cross_entropy(rng: np.random.Generator) -> None:
    x, y = rng.normal(0, 30, (5, 3)), rng.random((5, 3))
    pair = torch.from_numpy(x), torch.from_numpy(y)
    assert losses.mean_squared_error(x, y) == pytest.approx(torch.nn.functional.mse_loss(*pair).item(), rel=1e-13)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(*pair).item()
    assert losses.binary_cross_entropy(x, y) == pytest.approx(theirs, rel=1e-13)
    assert math.isnan(losses.binary_cross_entropy(x[:0], y[:0]))


@pytest.mark.parametrize(
    ("num_labels", "labels", "kind"),
    [
        (1, [0.5, 2.0], "regression"),
        (1, [1, 0], "regression"),
        (3, [2, 0], "single_label_classification"),
        (3, [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], "multi_label_classification"),
        (3, [[True, False, True], [False, False, True]], "multi_label_classification"),
    ],
)
def test_problem_type_follows_the_labels_at_each_call(num_labels: int, labels: Any, kind: str) -> None:
    config = DistilBertConfig(num_labels=num_labels)
    logits = np.linspace(-1, 1, 2 * num_labels).reshape(2, num_labels)
    chosen = losses.sequence_classification(config, logits, labels)
    assert chosen == losses.sequence_classification(config.replace(problem_type=kind), logits, labels)
    assert config.problem_type is None


@pytest.mark.parametrize(
    ("num_labels", "kind", "labels", "message"),
    [
        (3, None, [1, 3], "a label is 3; labels must be 0 to 2, or -100"),
        (3, None, [1, -1], "a label is -1"),
        (3, None, [1, 2, 0], r"labels must have shape \[2\].*found \[3\]"),
        (3, None, [[1, 2, 0], [0, 0, 1]], r"shape \[2\]"),
        (3, None, [0.5, 1.0], r"shape \[2, 3\] for problem_type 'multi_label_classification', found \[2\]"),
        (3, "regression", [0.5, 1.0], r"shape \[2, 3\] for problem_type 'regression'"),
        (3, "single_label_classification", [1.0, 2.0], "labels must hold integers, found dtype float64"),
        (1, None, [1.0], r"shape \[2\]"),
        (1, None, ["a", "b"], "must hold numbers"),
        (3, None, [[1.0], [1.0, 2.0]], "labels is not a rectangular array"),
    ],
)
def test_labels_refused(num_labels: int, kind: str | None, labels: Any, message: str) -> None:
    config = DistilBertConfig(num_labels=num_labels, problem_type=kind)
    with pytest.raises(InvalidInput, match=message):
        losses.sequence_classification(config, np.zeros((2, num_labels)), labels)


def test_token_level(rng: np.random.Generator) -> None:
    labels, logits = np.array([[1, -100, -100], [-100, 2, 0]]), rng.normal(size=(2, 3, 3))
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).flatten(0, 1), torch.from_numpy(labels).flatten()
    )
    assert losses.token_level(CONFIG, logits, labels) == pytest.approx(theirs.item(), rel=1e-13)
    with pytest.raises(InvalidInput, match=r"labels must have shape \[2, 3\] like the inputs, found \[6\]"):
        losses.token_level(CONFIG, logits, labels.reshape(-1))
    with pytest.raises(InvalidInput, match="integers"):
        losses.token_level(CONFIG, logits, labels * 1.0)


def test_whether_masked_positions_count() -> None:
    mask = [[1, 1, 0], [0, 1, 1]]
    assert not losses.counts_masked([[1, 2, -100], [-100, 2, 0]], mask)
    assert losses.counts_masked([[1, 2, -100], [0, 2, 0]], mask)
    assert losses.counts_masked([0, 1], mask)
    assert not losses.counts_masked([0, 1], None)


def test_question_answering_clamps_and_leaves_out() -> None:
    start, end = np.linspace(-2, 3, 6).reshape(2, 3), np.linspace(1, -1, 6).reshape(2, 3)

    def loss(starts: Any, ends: Any) -> float:
        return losses.question_answering(CONFIG, np.stack([start, end], axis=-1), starts, ends)

    plain = loss([0, 1], [2, 2])
    parts = losses.cross_entropy(start, np.array([0, 1])) + losses.cross_entropy(end, np.array([2, 2]))
    assert plain == parts / 2
    assert loss([[0], [1]], [[2], [2]]) == plain
    assert loss([-5, 1], [2, 2]) == plain
    left_out = losses.cross_entropy(start[:1], np.array([0])) + losses.cross_entropy(end, np.array([2, 2]))
    assert loss([0, 7], [2, 2]) == left_out / 2
    assert math.isnan(loss([3, 3], [2, 2]))
    with pytest.raises(InvalidInput, match=r"end_positions must have shape \[2\]"):
        loss([0, 1], [2])
    with pytest.raises(InvalidInput, match="start_positions must hold integers"):
        loss([0.0, 1.0], [2, 2])


def test_multiple_choice() -> None:
    logits = np.array([[1.0, 2.0, 0.0], [0.0, 5.0, 1.0]])
    assert losses.multiple_choice(CONFIG, logits, [1, 0]) == losses.cross_entropy(logits, np.array([1, 0]))
    with pytest.raises(InvalidInput, match="a label is 3; labels must be 0 to 2"):
        losses.multiple_choice(CONFIG, logits, [1, 3])
    with pytest.raises(InvalidInput, match=r"shape \[2\]"):
        losses.multiple_choice(CONFIG, logits, [1])


def test_losses_of_each_sequence() -> None:
    logits = np.random.default_rng().standard_normal((4, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 1])
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none")
    np.testing.assert_allclose(losses.of_each_sequence(logits, labels), expected, rtol=1e-5, atol=1e-6)
    assert losses.of_each_sequence(logits[:0], labels[:0]).shape == (0,)
    numbers = np.array([[0.5], [1], [-2], [0]])
    np.testing.assert_allclose(
        losses.squares_of_each_sequence(logits[:, :1], numbers), (logits[:, 0] - numbers[:, 0]) ** 2
    )
    with pytest.raises(InvalidInput, match=r"a label is -100; end_positions must be 0 to 2$"):
        losses.of_each_sequence(logits, [0, 1, -100, 2], "end_positions")
    with pytest.raises(InvalidInput, match=r"labels must have shape \[4\]"):
        losses.of_each_sequence(logits, [0, 1])

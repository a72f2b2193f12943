"""The losses against plain NumPy in float64, and their gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

from distilrt.distill import losses
from distilrt.distill.corpora import NONE
from distilrt.distill.packed_model import PackedModel
from distilrt.model.config import DistilBertConfig

reference: Any = transformers  # Its classes have types that its configs do not fit.

Rows = npt.NDArray[np.float64]


def log_softmax(scores: Rows) -> Rows:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def soft_of(student: Rows, teacher: Rows, temperature: float) -> float:
    ours, targets = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return float(temperature**2 * (np.exp(targets) * (targets - ours)).sum(axis=1).mean())


def hard_of(logits: Rows, labels: npt.NDArray[np.int64]) -> float:
    kept = np.flatnonzero(labels != NONE)
    return float(-log_softmax(logits)[kept, labels[kept]].mean()) if len(kept) else 0.0


def hidden_of(student: Rows, teacher: Rows) -> float:
    lengths = np.linalg.norm(student, axis=1) * np.linalg.norm(teacher, axis=1)
    return float((1 - (student * teacher).sum(axis=1) / lengths).mean())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_losses_equal_numpy_float64(rng: np.random.Generator, temperature: float, scale: float) -> None:
    hidden = rng.standard_normal((2, 50, 24)).astype(np.float32)
    logits = (rng.standard_normal((2, 9, 301)) * scale).astype(np.float32)
    labels = rng.integers(0, 301, 9)
    labels[::4] = NONE
    ours, theirs = zip(*map(torch.from_numpy, (hidden, logits)), strict=True)
    found = losses.triple(ours, theirs, torch.from_numpy(labels), temperature)
    wide = hidden.astype(np.float64), logits.astype(np.float64)
    expected = soft_of(wide[1][0], wide[1][1], temperature), hard_of(wide[1][0], labels), hidden_of(*wide[0])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_equal_models_lose_nothing_but_the_hard_loss(rng: np.random.Generator) -> None:
    rows = torch.from_numpy(rng.standard_normal((7, 12)).astype(np.float32))
    found = losses.triple((rows, rows), (rows, rows), torch.zeros(7, dtype=torch.int64), 2.0)
    soft, hard, hidden = found.tolist()
    assert abs(soft) < 1e-6
    assert abs(hidden) < 1e-6
    assert hard > 0.1


def test_without_labels_the_hard_loss_is_0() -> None:
    assert losses.hard_cross_entropy(torch.randn(3, 5), torch.full((3,), NONE)).item() == 0


def test_of_no_rows_the_losses_are_0() -> None:
    hidden, logits = torch.randn(3, 5), torch.empty(0, 7)
    found = losses.triple((hidden, logits), (hidden, logits), torch.empty(0, dtype=torch.int64), 2.0)
    assert found[:2].tolist() == [0, 0]


def test_without_a_teacher_only_the_hard_loss_is_left() -> None:
    rows = torch.randn(3, 5)
    found = losses.triple((rows, rows), None, torch.tensor([1, 2, 3]), 2.0)
    assert found[[0, 2]].tolist() == [0, 0]


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (5, 2, 1)])
def test_gradients_are_finite_differences(tiny: Callable[..., DistilBertConfig], weights: tuple[int, ...]) -> None:
    """In float64, of a few numbers of every parameter of a tiny model."""
    torch.manual_seed(0)
    config = reference.DistilBertConfig(**tiny(dim=16, n_heads=2, hidden_dim=24, n_layers=1).to_dict())
    model = PackedModel(reference.DistilBertForMaskedLM(config).double().eval())
    ids, rows, labels = torch.randint(1, 101, (2, 9)), torch.tensor([1, 4, 13]), torch.tensor([5, 77, 3])
    teacher = torch.randn(18, 16).double(), torch.randn(3, 101).double()

    def loss() -> Any:
        return losses.triple(model(ids, None, rows), teacher, labels, 2.0) @ torch.tensor(weights).double()

    loss().backward()
    step = 1e-6
    for name, parameter in model.named_parameters():
        flat, found = parameter.data.view(-1), parameter.grad
        for place in torch.randint(0, flat.numel(), (3,)).tolist():
            before = flat[place].item()
            ends = []
            for value in (before + step, before - step):
                flat[place] = value
                ends.append(loss().item())
            flat[place] = before
            gradient = 0.0 if found is None else found.view(-1)[place].item()
            assert gradient == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-7), name

"""Heads: which layers of a backend they call, in which order, and that the numbers are the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends import base as backends
from distilrt.backends.reference import ReferenceBackend
from distilrt.checkpoint.checkpoint import HEADS
from distilrt.model import heads
from distilrt.model.config import ACTIVATIONS, DistilBertConfig


class Recorder:
    """A backend that only writes down what it was asked."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def linear(self, name: str, rows: np.ndarray, activation: str | None = None) -> np.ndarray:
        self.calls.append((name, activation))
        return rows

    def layer_norm(self, name: str, rows: np.ndarray) -> np.ndarray:
        self.calls.append(name)
        return rows


@pytest.mark.parametrize(
    ("head", "arguments", "calls"),
    [
        (heads.masked_lm, ["silu"], [("vocab_transform", "silu"), "vocab_layer_norm", ("vocab_projector", None)]),
        (heads.sequence_classification, [], [("pre_classifier", "relu"), ("classifier", None)]),
        (heads.question_answering, [], [("qa_outputs", None)]),
        (heads.token_classification, [], [("classifier", None)]),
        (heads.multiple_choice, [], [("pre_classifier", "relu"), ("classifier", None)]),
    ],
)
def test_layers_called(head: Any, arguments: list[str], calls: list[Any]) -> None:
    recorder = Recorder()
    head(recorder, np.zeros((2, 3)), *arguments)
    assert recorder.calls == calls


def numbers_of(architecture: str, config: Any, reference_model: Any, backend_dtype: tuple[str, str]) -> Any:
    name, dtype = backend_dtype
    model, weights = reference_model(config, architecture, dtype=dtype)
    rows = np.random.default_rng(3).normal(size=(70, config.hidden_size)).astype(dtype)
    return model, backends.create(name, config, weights, dtype=dtype), rows


def assert_near(ours: np.ndarray, theirs: torch.Tensor) -> None:
    tolerance = 1e-13 if ours.dtype == np.float64 else 2e-6
    assert ours.shape == tuple(theirs.shape)
    assert np.abs(ours - theirs.numpy()).max() <= tolerance * np.abs(theirs.numpy()).max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_masked_lm(activation: str, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]) -> None:
    config = tiny(activation=activation)
    model, backend, rows = numbers_of("DistilBertForMaskedLM", config, reference_model, backend_dtype)
    with torch.no_grad():
        hidden = model.activation(model.vocab_transform(torch.from_numpy(rows)))
        assert_near(heads.masked_lm(backend, rows, activation), model.vocab_projector(model.vocab_layer_norm(hidden)))


@pytest.mark.parametrize("num_labels", [1, 2, 7])
@pytest.mark.parametrize("kind", ["SequenceClassification", "MultipleChoice", "TokenClassification"])
def test_classifiers(
    kind: str, num_labels: int, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]
) -> None:
    config = tiny(num_labels=num_labels)
    model, backend, rows = numbers_of(f"DistilBertFor{kind}", config, reference_model, backend_dtype)
    with torch.no_grad():
        hidden = torch.from_numpy(rows)
        if kind != "TokenClassification":
            hidden = torch.relu(model.pre_classifier(hidden))
        head = {"SequenceClassification": heads.sequence_classification, "MultipleChoice": heads.multiple_choice,
                "TokenClassification": heads.token_classification}[kind]  # fmt: skip
        assert_near(head(backend, rows), model.classifier(hidden))


def test_question_answering(tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]) -> None:
    model, backend, rows = numbers_of("DistilBertForQuestionAnswering", tiny(), reference_model, backend_dtype)
    with torch.no_grad():
        assert_near(heads.question_answering(backend, rows), model.qa_outputs(torch.from_numpy(rows)))


def test_a_row_does_not_depend_on_its_mates(tiny: Any, reference_model: Any) -> None:
    config = tiny()
    _, weights = reference_model(config, "DistilBertForMaskedLM")
    backend = ReferenceBackend(config, weights)
    rows = np.random.default_rng(3).normal(size=(9, config.hidden_size)).astype(np.float32)
    together = heads.masked_lm(backend, rows, "gelu")
    for i, row in enumerate(rows):
        assert np.array_equal(heads.masked_lm(backend, row[None], "gelu")[0], together[i])


def test_the_head_of_each_class() -> None:
    config = DistilBertConfig(activation="relu")
    assert heads.of("DistilBertModel", config) is None
    found = {name: heads.of(name, config) for name in HEADS if name != "DistilBertModel"}
    assert len({repr(head) for head in found.values()}) == 5
    assert found["DistilBertForSequenceClassification"] is heads.sequence_classification
    assert found["DistilBertForMaskedLM"].keywords == {"activation": "relu"}  # type: ignore[union-attr]
    assert set(heads.FIRST_ONLY) < set(HEADS)

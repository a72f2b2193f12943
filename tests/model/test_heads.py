"""Heads: that their records fit the classes, and that the numbers are the reference's."""

from __future__ import annotations

from inspect import signature
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers

from distilrt.backends import base as backends
from distilrt.backends.reference import ReferenceBackend
from distilrt.model import models
from distilrt.model.config import ACTIVATIONS
from distilrt.model.heads import HEADS


def test_every_record_is_complete() -> None:
    """Of its model class, task and output, and of transformers' class."""
    for name, head in HEADS.items():
        model: Any = getattr(models, name)
        assert model.architecture == head.architecture == name
        assert get_args(model.__orig_bases__[0]) == (head.output,), "the class that `forward` is said to return"
        assert set(head.labels) <= set(signature(model.forward).parameters)
        assert set(head.fields) == set(head.output._fields) - {"loss", "hidden_states", "attentions"}
        assert bool(head.loss) == bool(head.labels) == ("loss" in head.output._fields)
        assert hasattr(transformers, name)
        assert hasattr(transformers, head.bert)


def numbers_of(architecture: str, config: Any, reference_model: Any, backend_dtype: tuple[str, str]) -> Any:
    """The reference's model, hidden states, and our head's output for them."""
    name, dtype = backend_dtype
    model, weights = reference_model(config, architecture, dtype=dtype)
    rows = np.random.default_rng(3).normal(size=(70, config.hidden_size)).astype(dtype)
    head = HEADS[architecture]
    backend = backends.create(name, config, weights, dtype=dtype, head=head)
    return model, torch.from_numpy(rows), head.compute(backend, rows)


def assert_near(ours: np.ndarray, theirs: torch.Tensor) -> None:
    tolerance = 1e-13 if ours.dtype == np.float64 else 2e-6
    assert ours.shape == tuple(theirs.shape)
    assert np.abs(ours - theirs.numpy()).max() <= tolerance * np.abs(theirs.numpy()).max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_masked_lm(activation: str, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]) -> None:
    config = tiny(activation=activation)
    model, rows, scores = numbers_of("DistilBertForMaskedLM", config, reference_model, backend_dtype)
    with torch.no_grad():
        hidden = model.activation(model.vocab_transform(rows))
        assert_near(scores, model.vocab_projector(model.vocab_layer_norm(hidden)))


@pytest.mark.parametrize("num_labels", [1, 2, 7])
@pytest.mark.parametrize("kind", ["SequenceClassification", "MultipleChoice", "TokenClassification"])
def test_classifiers(
    kind: str, num_labels: int, tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]
) -> None:
    config = tiny(num_labels=num_labels)
    model, rows, scores = numbers_of(f"DistilBertFor{kind}", config, reference_model, backend_dtype)
    with torch.no_grad():
        if kind != "TokenClassification":
            rows = torch.relu(model.pre_classifier(rows))
        assert_near(scores, model.classifier(rows))


def test_question_answering(tiny: Any, reference_model: Any, backend_dtype: tuple[str, str]) -> None:
    model, rows, scores = numbers_of("DistilBertForQuestionAnswering", tiny(), reference_model, backend_dtype)
    with torch.no_grad():
        assert_near(scores, model.qa_outputs(rows))


def test_a_row_does_not_depend_on_its_mates(tiny: Any, reference_model: Any) -> None:
    config, head = tiny(), HEADS["DistilBertForMaskedLM"]
    _, weights = reference_model(config, "DistilBertForMaskedLM")
    backend = ReferenceBackend(config, weights, head=head)
    rows = np.random.default_rng(3).normal(size=(9, config.hidden_size)).astype(np.float32)
    together = head.compute(backend, rows)
    for i, row in enumerate(rows):
        assert np.array_equal(head.compute(backend, row[None])[0], together[i])

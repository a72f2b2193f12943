"""Hidden states to outputs: one small function a head, with the reference's layers and their names.

A head sees packed rows, or the first row of each sequence, and a backend that owns the weights. It knows nothing of
padding, labels or output classes. Dropout is the identity at inference.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from distilrt.backends.base import Backend, Head
from distilrt.model.config import DistilBertConfig

Rows = Any  # [rows, width] of floats, of the backend's own kind: NumPy arrays, or what lies on its device


def masked_lm(backend: Backend, rows: Rows, activation: str) -> Rows:
    """A score for each word of the vocabulary: `[n, hidden_size]` to `[n, vocab_size]`.

    `activation` is the config's, used here between transform and layer norm as in the feed-forward network.
    """
    rows = backend.linear("vocab_transform", rows, activation)
    rows = backend.layer_norm("vocab_layer_norm", rows)
    return backend.linear("vocab_projector", rows)


def sequence_classification(backend: Backend, first_rows: Rows) -> Rows:
    """A score for each label from the first row of each sequence: `[n, hidden_size]` to `[n, num_labels]`."""
    return backend.linear("classifier", backend.linear("pre_classifier", first_rows, "relu"))


def question_answering(backend: Backend, rows: Rows) -> Rows:
    """A score for each row to be the first and the last of the answer: `[n, hidden_size]` to `[n, 2]`."""
    return backend.linear("qa_outputs", rows)


def token_classification(backend: Backend, rows: Rows) -> Rows:
    """A score for each label at every row: `[n, hidden_size]` to `[n, num_labels]`."""
    return backend.linear("classifier", rows)


def multiple_choice(backend: Backend, first_rows: Rows) -> Rows:
    """A score for each choice from the first row of its sequence: `[n, hidden_size]` to `[n, 1]`."""
    return backend.linear("classifier", backend.linear("pre_classifier", first_rows, "relu"))


_OF = {
    "DistilBertForSequenceClassification": sequence_classification,
    "DistilBertForQuestionAnswering": question_answering,
    "DistilBertForTokenClassification": token_classification,
    "DistilBertForMultipleChoice": multiple_choice,
}
FIRST_ONLY = ("DistilBertForSequenceClassification", "DistilBertForMultipleChoice")  # heads that read first rows alone


def of(architecture: str, config: DistilBertConfig) -> Head | None:
    """The head of a model class by its name; None: it has none, its output are the hidden states."""
    if architecture == "DistilBertForMaskedLM":
        return partial(masked_lm, activation=config.activation)
    return _OF.get(architecture)

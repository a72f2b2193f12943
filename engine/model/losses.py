"""The losses of the reference's heads, for evaluation: NumPy, computed in float64, no gradients.

The loss of a head takes the config, the head's output as the reference shapes it, masked positions included, and the
labels; each raises `InvalidInput` for labels of a wrong shape, dtype or range. A mean over no labels is nan, as in
torch. This module knows nothing of models or backends.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.errors import InvalidInput
from distilrt.model.array_kinds import as_array
from distilrt.model.config import DistilBertConfig

IGNORED = -100  # the label that torch's cross entropy leaves out

Array = npt.NDArray[Any]


def counts_masked(labels: Any, attention_mask: Any) -> bool:
    """Whether the loss reads a masked position: one whose own label counts, or any if labels are not of positions.

    Args:
        labels: `[batch_size, seq_len]`, one for each position; or of another shape, such as `[batch_size]`.
        attention_mask: `[batch_size, seq_len]`; None: no position is masked.
    """
    if attention_mask is None:
        return False
    grid, mask = _numbers(labels, "labels"), _numbers(attention_mask, "attention_mask")
    return grid.shape != mask.shape or bool(((grid != IGNORED) & (mask == 0)).any())


def token_level(config: DistilBertConfig, logits: Array, labels: Any) -> float:
    """Mean cross entropy over the positions whose label is not -100 (masked LM, token classification).

    Logits are `[batch_size, seq_len, classes]`, labels `[batch_size, seq_len]` integers, 0 to classes - 1 or -100.
    """
    grid, shape = _integers(labels, "labels"), logits.shape[:2]
    if grid.shape != shape:
        raise InvalidInput(f"labels must have shape {list(shape)} like the inputs, found {list(grid.shape)}")
    return cross_entropy(logits.reshape(-1, logits.shape[2]), grid.reshape(-1))


def sequence_classification(config: DistilBertConfig, logits: Array, labels: Any) -> float:
    """The loss that `config.problem_type` names; None: chosen by `num_labels` and the labels' dtype, each call anew.

    regression (one label): mean squared error. single_label_classification (integers): cross entropy.
    multi_label_classification (floats): binary cross entropy with logits.

    Logits are `[batch_size, num_labels]`, labels `[batch_size]` for a single label or number, else as the logits.
    """
    array = _numbers(labels, "labels")
    kind = config.problem_type
    if kind is None:
        if config.num_labels == 1:
            kind = "regression"
        else:
            kind = "single_label_classification" if array.dtype.kind in "iu" else "multi_label_classification"
    if kind == "single_label_classification":
        return cross_entropy(logits, _one_each(_integers(labels, "labels"), "labels", len(logits)))
    if config.num_labels == 1 and kind == "regression":
        return mean_squared_error(logits[:, 0], _one_each(array, "labels", len(logits)))
    if array.shape != logits.shape:
        raise InvalidInput(
            f"labels must have shape {list(logits.shape)} for problem_type {kind!r}, found {list(array.shape)}"
        )
    return mean_squared_error(logits, array) if kind == "regression" else binary_cross_entropy(logits, array)


def question_answering(config: DistilBertConfig, logits: Array, start_positions: Any, end_positions: Any) -> float:
    """Mean of the cross entropies of both ends of the answer.

    Logits are `[batch_size, seq_len, 2]`, of the start and of the end. Positions are `[batch_size]` integers, clamped
    to 0 to seq_len; seq_len leaves a sequence out.
    """
    total, (batch_size, seq_len) = 0.0, logits.shape[:2]
    for end, (name, value) in enumerate({"start_positions": start_positions, "end_positions": end_positions}.items()):
        positions = np.clip(_one_each(_integers(value, name), name, batch_size), 0, seq_len)
        total += cross_entropy(logits[..., end], positions, ignored=seq_len)
    return total / 2


def multiple_choice(config: DistilBertConfig, logits: Array, labels: Any) -> float:
    """Cross entropy over the choices: logits `[batch_size, num_choices]`, labels `[batch_size]`."""
    return cross_entropy(logits, _one_each(_integers(labels, "labels"), "labels", len(logits)))


def of_each_sequence(logits: Array, labels: Any, name: str = "labels") -> Array:
    """The cross entropy of every sequence, `[batch_size]`, as TensorFlow's classes return it; none is left out.

    Logits are `[batch_size, classes]`, labels `[batch_size]` integers, 0 to classes - 1, called `name`.

    Raises:
        InvalidInput: wrong shape, dtype or range.
    """
    return _cross_entropies(logits, _one_each(_integers(labels, name), name, len(logits)), name)


def squares_of_each_sequence(logits: Array, labels: Any) -> Array:
    """The squared error of every sequence, `[batch_size]`: logits `[batch_size, 1]`, as many labels.

    Raises:
        InvalidInput: wrong shape or dtype.
    """
    return np.square(logits[:, 0].astype(np.float64) - _one_each(_numbers(labels, "labels"), "labels", len(logits)))


def cross_entropy(logits: Array, labels: Array, ignored: int = IGNORED) -> float:
    """Mean of `log(sum(exp(x))) - x[label]` over the rows whose label is not `ignored`.

    Logits are `[n, classes]`, labels `[n]` integers, 0 to classes - 1 or `ignored`.

    Raises:
        InvalidInput: a label out of range.
    """
    counted = labels != ignored
    return _mean(_cross_entropies(logits[counted], labels[counted], "labels", f", or {ignored} to be left out"))


def _cross_entropies(logits: Array, labels: Array, name: str, advice: str = "") -> Array:
    """`log(sum(exp(x))) - x[label]` of each row in float64; `name` and `advice` are for the message of an error."""
    rows = logits.astype(np.float64)
    if not len(labels):
        return np.zeros(0)
    if labels.min() < 0 or labels.max() >= rows.shape[1]:
        bad = int(labels.min()) if labels.min() < 0 else int(labels.max())
        raise InvalidInput(f"a label is {bad}; {name} must be 0 to {rows.shape[1] - 1}{advice}")
    rows -= rows.max(axis=1, keepdims=True)
    losses: Array = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(labels)), labels]
    return losses


def mean_squared_error(logits: Array, labels: Array) -> float:
    """Mean of `(x - y)²`, both of one shape."""
    return _mean(np.square(logits.astype(np.float64) - labels))


def binary_cross_entropy(logits: Array, labels: Array) -> float:
    """Mean of `log(1 + exp(x)) - x y`, both of one shape, written so that nothing overflows."""
    x = logits.astype(np.float64)
    return _mean(np.maximum(x, 0) - x * labels + np.log1p(np.exp(-np.abs(x))))


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else math.nan


def _one_each(values: Array, name: str, batch_size: int) -> Array:
    if values.size != batch_size:
        raise InvalidInput(f"{name} must have shape [{batch_size}], one for each sequence, found {list(values.shape)}")
    return values.reshape(-1)


def _integers(value: Any, name: str) -> Array:
    array = _numbers(value, name)
    if array.dtype.kind not in "iu" and array.size:
        raise InvalidInput(f"{name} must hold integers, found dtype {array.dtype}")
    return array.astype(np.int64)


def _numbers(value: Any, name: str) -> Array:
    array: Array = as_array(value, name)
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"{name} must hold numbers, found dtype {array.dtype}")
    return array

"""The student: a DistilBERT with its teacher's width and every other of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from distilrt.checkpoint.names import name_in_files
from distilrt.errors import CheckpointError
from distilrt.model.architecture import POSITIONS, TOKEN_TYPES
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS

_LAYER = "transformer.layer."
Weights = Mapping[str, npt.NDArray[Any]]


def chosen_layers(num_layers: int) -> list[int]:
    """Half of a teacher's layers, evenly from its first to its last; of twelve 0, 2, 4, 7, 9 and 11, as in the paper.

    Raises:
        CheckpointError: there are fewer than two.
    """
    if num_layers < 2:
        raise CheckpointError(f"a student has half of its teacher's layers; this teacher has {num_layers}, and needs 2")
    return [int(layer) for layer in np.linspace(0, num_layers - 1, num_layers // 2).round()]


def student_weights(weights: Weights, layers: list[int]) -> dict[str, npt.NDArray[Any]]:
    """The weights that a student of these layers starts with, by canonical name: its teacher's, bit for bit.

    A BERT adds the embedding of token type 0 to that of every position; the student's positions have both.
    """
    found = {name: array for name, array in weights.items() if not name.startswith(_LAYER) and name != TOKEN_TYPES}
    for new, old in enumerate(layers):
        prefix = f"{_LAYER}{old}."
        names = [name for name in weights if name.startswith(prefix)]
        found |= {f"{_LAYER}{new}.{name.removeprefix(prefix)}": weights[name] for name in names}
    if TOKEN_TYPES in weights:
        found[POSITIONS] = found[POSITIONS] + weights[TOKEN_TYPES][0]
    return found


def make_student(teacher: DistilBertConfig, weights: Weights, architecture: str, *, random: bool) -> Any:
    """transformers' model of the student, without token types and pooler.

    Args:
        teacher: its config in DistilBERT's names.
        weights: the teacher's, by canonical name.
        architecture: transformers' class of the student.
        random: start from random weights, drawn from torch's generator.
    """
    layers = chosen_layers(teacher.num_layers)
    config = teacher.replace(
        n_layers=len(layers), type_vocab_size=0, add_pooling_layer=False, sinusoidal_pos_embds=False,
        architectures=(architecture,), dtype="float32", extra={},
    )  # fmt: skip
    model = getattr(transformers, architecture)(transformers.DistilBertConfig(**config.to_dict()))
    if not random:
        head = HEADS[architecture]
        found = student_weights(weights, layers).items()
        model.load_state_dict({name_in_files(name, head, config): torch.tensor(array) for name, array in found})
    return model

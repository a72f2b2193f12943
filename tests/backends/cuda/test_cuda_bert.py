"""A BERT on the GPU backend, under Triton's interpreter: token types on both roads, and the pooler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.batch import TypedIds
from distilrt.model import models
from distilrt.tasks.runner import compute
from distilrt.tasks.task import FIRST
from tests.backends.cuda.cuda_models import config_of, errors_of, fresh, masked, weights_of

# Rows beyond the real ones hold anything.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["DistilBertModel", "DistilBertForSequenceClassification"])
def test_token_types_and_pooler(architecture: str, dtype: str) -> None:
    rng = fresh()
    config = config_of(n_layers=1, type_vocab_size=3, add_pooling_layer=architecture == "DistilBertModel")
    weights = weights_of(config, architecture, rng)
    made: Any = getattr(models, architecture)
    mask = masked(rng, 4, 6)
    mask[3], mask[2, 0] = 0, 0
    ids, types = rng.integers(0, config.vocab_size, mask.shape), rng.integers(0, 3, mask.shape)
    positions = rng.integers(0, config.max_position_embeddings, mask.shape)
    exact_model = made(config, weights, backend="reference", dtype="float64")
    model = made(config, weights, backend="cuda", dtype=dtype)
    bound = 1e-5 if dtype == "float32" else 0.05
    for given in (
        {"token_type_ids": types},
        {"attention_mask": mask, "token_type_ids": types, "position_ids": positions},
    ):
        exact = exact_model(ids, **given, output_hidden_states=True)
        assert ("pooler_output" in exact) == (architecture == "DistilBertModel")
        tensors = {name: torch.from_numpy(array) for name, array in given.items()}
        on_host = model(ids, **given, output_hidden_states=True)
        on_device = model(torch.from_numpy(ids), **tensors, output_hidden_states=True)
        for out in (on_host, on_device):
            for name, (error, size) in errors_of(out, exact).items():
                assert error <= bound * size, name
        plain = model(torch.from_numpy(ids), **tensors)
        assert all(value.dtype == torch.float32 for value in plain.values())
        for name, (error, size) in errors_of(plain, {name: exact[name] for name in plain}).items():
            assert error <= bound * size, name


def test_lists_with_types() -> None:
    rng, config = fresh(), config_of(n_layers=1, type_vocab_size=2)
    weights = weights_of(config, "DistilBertForSequenceClassification", rng)
    ids = [rng.integers(0, 61, length).tolist() for length in (5, 3, 9)]
    sequences = [TypedIds(ids[0], [0, 0, 1, 1, 1]), ids[1], TypedIds(ids[2], [1] * 9)]
    rows = [
        compute(models.DistilBertForSequenceClassification(config, weights, backend=backend), sequences, [FIRST] * 3)
        for backend in ("cuda", "reference")
    ]
    for ours, exact in zip(*rows, strict=True):
        np.testing.assert_allclose(ours, exact, atol=1e-4)

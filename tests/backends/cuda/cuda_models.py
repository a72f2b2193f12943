"""What the tests of the GPU backend share: tiny configs, weights of which all matter, masks, and errors of outputs.

Shapes are tiny, for the interpreter takes milliseconds for each row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distilrt.checkpoint.weights import random_weights
from distilrt.model.config import DistilBertConfig


def fresh() -> np.random.Generator:
    """Random numbers of a seed of its own, which pytest shows when the test fails."""
    seed = int(np.random.default_rng().integers(2**32))
    print("seed", seed)
    return np.random.default_rng(seed)


def config_of(**changes: Any) -> DistilBertConfig:
    shape = {"dim": 36, "n_heads": 2, "n_layers": 2, "hidden_dim": 50, "vocab_size": 61, "max_position_embeddings": 40}
    return DistilBertConfig(**{**shape, **changes})


def weights_of(config: DistilBertConfig, architecture: str, rng: np.random.Generator) -> dict[str, Any]:
    """Random weights of which every bias and gain matters."""
    return {
        name: array * np.float32(2) if array.ndim == 2 else array + rng.normal(0, 0.2, array.shape).astype(np.float32)
        for name, array in random_weights(config, architecture).items()
    }


def masked(rng: np.random.Generator, batch_size: int, seq_len: int) -> np.ndarray:
    """A mask with left padding, right padding and holes."""
    mask = (rng.random((batch_size, seq_len)) < 0.6).astype(np.int64)
    mask[0] = np.arange(seq_len) >= seq_len // 3
    mask[1] = np.arange(seq_len) < seq_len // 2
    mask[:, -2] |= ~mask.any(axis=1)
    return mask


def errors_of(actual: Any, exact: Any) -> dict[str, tuple[float, float]]:
    """Largest difference and size of each output."""
    found = {}
    for name, wanted in exact.items():
        pairs = zip(actual[name], wanted, strict=True) if name == "hidden_states" else [(actual[name], wanted)]
        pairs = [(np.asarray(a), np.asarray(e)) for a, e in pairs]
        assert all(a.shape == e.shape for a, e in pairs)
        found[name] = (max(np.abs(a - e).max() for a, e in pairs), max(np.abs(e).max() for _, e in pairs))
    return found

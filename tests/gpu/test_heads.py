"""Every head in every dtype on the device, whole models, against the reference in float64.

The bound is 1e-5 of the largest output, or twice the error of transformers in the same dtype on the same device, or two
roundings of the largest output, whichever is most; for batches packed on the host and for those packed there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from distilrt.checkpoint.names import name_in_files
from distilrt.checkpoint.weights import random_weights
from distilrt.kernels.launch import DTYPE_NAMES
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS
from tests.gpu.checks import short_ladder

pytestmark = [pytest.mark.gpu, pytest.mark.whole]
SEED = int.from_bytes(os.urandom(4), "little")
FEW = ("DistilBertForTokenClassification", "DistilBertForMultipleChoice")  # The interpreter runs these alone.


@pytest.mark.parametrize("architecture", HEADS)
def test_head(device: torch.device, tiny: bool, architecture: str) -> None:
    """Left padding, right padding and holes, from the host and from the device; and what wrong values do."""
    if tiny and architecture not in FEW:
        pytest.skip("the interpreter is slow")
    width, layers, longest = (32, 1, 6) if tiny else (256, 2, 512)
    config = DistilBertConfig(dim=width, n_heads=2, n_layers=layers, hidden_dim=2 * width, vocab_size=1000,
                              num_labels=2, max_position_embeddings=longest)  # fmt: skip
    rng = np.random.default_rng(SEED)
    weights = {
        name: array * np.float32(2) if array.ndim == 2 else array + rng.normal(0, 0.2, array.shape).astype(np.float32)
        for name, array in random_weights(config, architecture).items()
    }
    mask = _mask(rng, min(70, longest))
    ids = rng.integers(0, config.vocab_size, mask.shape)
    call = (ids, mask)
    if HEADS[architecture].has_choices:
        call = (ids.reshape(2, 2, -1), mask.reshape(2, 2, -1))
    tensors = [torch.from_numpy(array).to(device) for array in call]
    make: Any = getattr(models, architecture)
    exact = make(config, weights, backend="reference", dtype="float64")(*call)
    for dtype in (torch.bfloat16,) if tiny else DTYPE_NAMES:
        with short_ladder(4):
            model = make(config, weights, backend="cuda", dtype=DTYPE_NAMES[dtype])
        on_device, again, from_host = model(*tensors), model(*tensors), model(*call)
        with torch.inference_mode():
            plain = _transformers(architecture, config, weights).to(device, dtype)(*tensors)
        for name, wanted in exact.items():
            shown = mask == 1 if wanted.shape[:2] == mask.shape else slice(None)
            size = float(np.abs(wanted[shown]).max())
            there, here, torchs = (
                float(np.abs(np.asarray(out, np.float64) - wanted)[shown].max())
                for out in (on_device[name].cpu(), from_host[name], plain[name].double().cpu())
            )
            bound = max(1e-5 * size, 2 * torchs, 2 * torch.finfo(dtype).eps * size)
            assert max(there, here) <= bound, f"{name} {dtype}, seed {SEED}"
            assert torch.equal(on_device[name], again[name])
        if architecture == "DistilBertForTokenClassification":
            _wrong_values(model, tensors)


def _mask(rng: np.random.Generator, seq_len: int) -> Any:
    mask = (rng.random((4, seq_len)) < 0.6).astype(np.int64)
    mask[0], mask[1] = np.arange(seq_len) >= seq_len // 3, np.arange(seq_len) < seq_len // 2
    mask[:, -2] |= ~mask.any(axis=1)
    return mask


def _transformers(architecture: str, config: DistilBertConfig, weights: Mapping[str, Any]) -> Any:
    import transformers

    model: Any = getattr(transformers, architecture)(transformers.DistilBertConfig(**config.to_dict())).eval()
    head, tensors = HEADS[architecture], {name: torch.from_numpy(array) for name, array in weights.items()}
    model.load_state_dict({name_in_files(name, head, config): tensor for name, tensor in tensors.items()})
    return model


def _wrong_values(model: Any, tensors: list[torch.Tensor]) -> None:
    """A bad id gives NaN and an error, no fault; afterwards the model is as it was."""
    expected = model(*tensors).logits
    bad = tensors[0].clone()
    bad[tensors[1] == 1] = model.config.vocab_size
    assert model(bad, tensors[1]).logits.isnan().all()
    with pytest.raises(ValueError, match="input_ids"):
        model.backend.synchronize()
    assert torch.equal(model(*tensors).logits, expected)

"""Every head in every dtype on the device, whole models, against the reference in float64.

The bound is 1e-5 of the largest output, or twice the error of transformers in the same dtype on the same device, or two
roundings of the largest output, whichever is most; for batches packed on the host and for those packed there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distilrt.bench.gpu.kernel_checks import Check
from distilrt.checkpoint.weights import random_weights
from distilrt.kernels.launch import DTYPE_NAMES
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of the models."""

    width: int
    layers: int
    max_tokens: int
    dtypes: tuple[torch.dtype, ...]
    architectures: tuple[str, ...]


REAL = Scale(256, 2, 512, tuple(DTYPE_NAMES), tuple(HEADS))
TINY = Scale(32, 1, 6, (torch.bfloat16,), ("DistilBertForTokenClassification", "DistilBertForMultipleChoice"))


def config_of(scale: Scale) -> DistilBertConfig:
    """A small model, of all positions where the scale has long sequences."""
    return DistilBertConfig(
        dim=scale.width,
        n_heads=2,
        n_layers=scale.layers,
        hidden_dim=2 * scale.width,
        vocab_size=1000,
        num_labels=2,
        max_position_embeddings=scale.max_tokens,
    )


def heads(device: torch.device, scale: Scale, seed: int) -> Iterator[Check]:
    """All heads with left padding, right padding and holes; and what wrong values do."""
    with short_ladder(4):
        for number, architecture in enumerate(scale.architectures):
            yield from _head(device, scale, architecture, np.random.default_rng([seed, number]))


@contextmanager
def short_ladder(mib: int) -> Iterator[None]:
    """Within, models have so much workspace: each bucket of a new shape takes seconds to compile."""
    before = os.environ.get("DISTILRT_GPU_MEMORY")
    os.environ["DISTILRT_GPU_MEMORY"] = str(mib)
    try:
        yield
    finally:
        del os.environ["DISTILRT_GPU_MEMORY"]
        if before is not None:
            os.environ["DISTILRT_GPU_MEMORY"] = before


def _head(device: torch.device, scale: Scale, architecture: str, rng: np.random.Generator) -> Iterator[Check]:
    config = config_of(scale)
    weights = {
        name: array * np.float32(2) if array.ndim == 2 else array + rng.normal(0, 0.2, array.shape).astype(np.float32)
        for name, array in random_weights(config, architecture).items()
    }
    mask = _mask(rng, min(70, scale.max_tokens))
    ids = rng.integers(0, config.vocab_size, mask.shape)
    call = (ids, mask)
    if HEADS[architecture].has_choices:
        call = (ids.reshape(2, 2, -1), mask.reshape(2, 2, -1))
    tensors = [torch.from_numpy(array).to(device) for array in call]
    make: Any = getattr(models, architecture)
    exact = make(config, weights, backend="reference", dtype="float64")(*call)
    for dtype in scale.dtypes:
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
            steady = torch.equal(on_device[name], again[name])
            yield {"name": f"{architecture} {name} {DTYPE_NAMES[dtype]}", "error": max(there, here),
                   "bound": bound, "torch_error": torchs, "steady": steady,
                   "ok": max(there, here) <= bound and steady}  # fmt: skip
        if architecture == "DistilBertForTokenClassification":
            yield _wrong_values(model, tensors)


def _mask(rng: np.random.Generator, seq_len: int) -> Any:
    mask = (rng.random((4, seq_len)) < 0.6).astype(np.int64)
    mask[0], mask[1] = np.arange(seq_len) >= seq_len // 3, np.arange(seq_len) < seq_len // 2
    mask[:, -2] |= ~mask.any(axis=1)
    return mask


def _transformers(architecture: str, config: DistilBertConfig, weights: Mapping[str, Any]) -> Any:
    import transformers

    model: Any = getattr(transformers, architecture)(transformers.DistilBertConfig(**config.to_dict())).eval()
    prefix = HEADS[architecture].encoder_prefix
    model.load_state_dict({
        (prefix if name.startswith(("embeddings.", "transformer.")) else "") + name: torch.from_numpy(array)
        for name, array in weights.items()
    })  # fmt: skip
    return model


def _wrong_values(model: Any, tensors: list[torch.Tensor]) -> Check:
    """A bad id gives NaN and an error, no fault; afterwards the model is as it was."""
    expected = model(*tensors).logits
    bad = tensors[0].clone()
    bad[tensors[1] == 1] = model.config.vocab_size
    poisoned = bool(model(bad, tensors[1]).logits.isnan().all())
    try:
        model.backend.synchronize()
        said = False
    except ValueError:
        said = True
    again = torch.equal(model(*tensors).logits, expected)
    return {"name": f"bad ids {model.dtype}", "error": 0.0, "bound": 0.0, "ok": poisoned and said and again}

"""The GPU backend's dtypes: how near float16 and bfloat16 come, precisions of float32, a checkpoint, refusals."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt import verification
from distilrt.backends.base import create
from distilrt.backends.cuda import backend as cuda
from distilrt.backends.cuda import encoder as device_encoder
from distilrt.checkpoint.weights import Weights, random_weights, save_checkpoint
from distilrt.errors import BackendError
from distilrt.kernels import tiles
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from tests.backends.cuda.cuda_models import config_of, fresh, weights_of

# Rows beyond the real ones are not defined, and the interpreter computes with whatever they hold.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        ("DistilBertForMaskedLM", "bfloat16"),
        ("DistilBertForSequenceClassification", "float16"),
        pytest.param("DistilBertForMaskedLM", "float16", marks=pytest.mark.whole),
        pytest.param("DistilBertForSequenceClassification", "bfloat16", marks=pytest.mark.whole),
    ],
)
def test_half_dtypes_are_as_near_as_torchs(architecture: str, dtype: str) -> None:
    """Within twice the error of transformers in the same dtype, over all layers and the output."""
    rng = fresh()
    config = config_of(dim=64, num_labels=7)
    weights = weights_of(config, architecture, rng)
    ids = rng.integers(0, config.vocab_size, (3, 8))
    model_class: Any = getattr(models, architecture)
    exact = model_class(config, weights, backend="reference", dtype="float64")(ids, output_hidden_states=True)
    actual = model_class(config, weights, backend="cuda", dtype=dtype)(ids, output_hidden_states=True)
    theirs: Any = getattr(transformers, architecture)(transformers.DistilBertConfig(**config.to_dict())).eval()
    prefix = ("embeddings.", "transformer.")
    theirs.load_state_dict(
        {("distilbert." if n.startswith(prefix) else "") + n: torch.from_numpy(a) for n, a in weights.items()}
    )
    with torch.inference_mode():
        plain = theirs.to(getattr(torch, dtype))(torch.from_numpy(ids), output_hidden_states=True)
    for name, wanted in exact.items():
        triples = zip(actual[name], wanted, plain[name], strict=True) if name == "hidden_states" else [
            (actual[name], wanted, plain[name])]  # fmt: skip
        for ours, right, torchs in triples:
            error, allowed = (np.sqrt(np.mean((np.asarray(x) - right) ** 2)) for x in (ours, torchs.float().numpy()))
            # A few logits can be off by little by luck; a rounding of the largest of them cannot be beaten.
            floor = np.abs(right).max() * torch.finfo(getattr(torch, dtype)).eps if name == "logits" else 0
            assert error <= 2 * max(allowed, floor), name


def test_dtypes() -> None:
    config = config_of(n_layers=1)
    weights = random_weights(config, "DistilBertModel")
    assert create("cuda", config, weights).dtype == "float32"
    for dtype in ("float8_e4m3fn", "float64"):
        with pytest.raises(BackendError, match=f"float32, float16, bfloat16, float8, int8.*found '{dtype}'"):
            create("cuda", config, weights, dtype=dtype)
    half = Weights({name: weights[name] for name in weights})
    for dtype, expected in (("float16", "float16"), ("bfloat16", "bfloat16"), ("float64", "float32")):
        half.dtype = dtype
        assert create("cuda", config, half).dtype == expected


def test_verify_in_half_precision(tmp_path: Path, sentence_encoder: Path) -> None:
    """The bound is that of transformers in the same dtype; that of float32 it could not hold."""
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=30522)
    save_checkpoint(tmp_path, config, random_weights(config, "DistilBertModel"), "DistilBertModel")
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        shutil.copy(sentence_encoder / name, tmp_path / name)
    report = verification.verify(tmp_path, ["A short text.", "And one a bit longer."], backend="cuda", dtype="bfloat16")
    assert report.ok
    assert report.largest.relative > 1e-4


def test_real_checkpoint(sentence_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In large blocks: the interpreter's time goes by their number."""
    monkeypatch.setattr(tiles, "_TF32X3_OF_GROUPS", (tiles.LinearTile(16, 128, 128, 4, 2),))
    tiles._estimated.cache_clear()
    model: Any = models.DistilBertModel.from_pretrained(sentence_encoder, backend="cuda")
    exact: Any = models.DistilBertModel.from_pretrained(sentence_encoder, backend="reference", dtype="float64")
    ids = np.array([[101, 1996, 4937, 2938, 102]])  # "The cat sat"
    found, wanted = model(ids).last_hidden_state, exact(ids).last_hidden_state
    tiles._estimated.cache_clear()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.fixture
def matmul() -> Iterator[Any]:
    """torch's switch as a new process has it, put back afterwards."""
    switch: Any = torch.backends.cuda.matmul
    precision, before = torch.get_float32_matmul_precision(), switch.fp32_precision
    switch.fp32_precision = "none"
    yield switch
    torch.set_float32_matmul_precision(precision)
    switch.fp32_precision = before


@pytest.mark.parametrize(("asked", "precision"), [("", "tf32x3"), ("highest", "ieee"), ("high", "tf32")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_products_are_what_torchs_switch_says(
    asked: str, precision: str, dtype: str, matmul: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stood at load: every float32 product of encoder and head, none of another dtype."""
    config = config_of(n_layers=2)
    if asked:
        torch.set_float32_matmul_precision(asked)
    model: Any = models.DistilBertForSequenceClassification(config, backend="cuda", dtype=dtype)
    matmul.fp32_precision = "ieee" if asked != "highest" else "tf32"
    assert model.backend.describe()["float32_products"] == (precision if dtype == "float32" else None)
    seen: list[str] = []
    for module, name in ((device_encoder, "linear"), (device_encoder, "attention"), (cuda, "linear")):
        plain = getattr(module, name)

        def spy(*args: Any, plain: Any = plain, **options: Any) -> None:
            seen.append(options.get("precision", "ieee"))
            plain(*args, **options)

        monkeypatch.setattr(module, name, spy)
    assert torch.isfinite(model(torch.arange(5)[None]).logits).all()
    # Two layers, attention of the first (the last has `row_attention`, without a product) and the head; of few rows
    # `norm_linear` does three.
    products = 8 + 1 + 2 if dtype == "float32" else 5 + 1 + 2
    assert len(seen) >= products
    assert set(seen) == {precision if dtype == "float32" else "ieee"}

"""The GPU backend in float8 and int8: how near they come, kept layers, rows of a batch, what a device must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilrt.backends.base import create
from distilrt.batch import pack
from distilrt.checkpoint.calibration import Calibration, CodedLinear, round_weight
from distilrt.checkpoint.codings import CODINGS
from distilrt.kernels import tiles
from distilrt.kernels.quantize import Quantized
from distilrt.model import models
from distilrt.model.architecture import linears
from distilrt.text.tokenizer import DistilBertTokenizer
from tests.backends.cuda.cuda_models import config_of, fresh, weights_of

# Rows beyond the real ones are not defined, and the interpreter computes with whatever they hold.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
DTYPES = pytest.mark.parametrize("dtype", ["float8", "int8"])
TEXTS = [
    "The cat sat on the mat.",
    "Stock prices fell sharply today, and nobody knows for how long.",
    "Where is the nearest station?",
    "A recipe for bread: flour, water, salt, yeast and a lot of patience.",
    "She published three papers on the migration of birds.",
    "Restart the server after the update.",
]


@pytest.mark.whole
@pytest.mark.parametrize("dtype", ["float8", "int8"])
def test_real_checkpoint(dtype: str, sentence_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentence vectors of all-MiniLM, calibrated: as one batch of codes, and each by itself in 16 bits.

    In large blocks: the interpreter's time goes by their number.
    """
    large = tiles.LinearTile(64, 128, 128, 4, 2)
    monkeypatch.setattr(tiles, "linear_candidates", lambda *_: (large,))
    tiles._estimated.cache_clear()
    make: Any = models.DistilBertModel.from_pretrained
    exact, ours = make(sentence_encoder, backend="reference"), make(sentence_encoder, backend="cuda", dtype=dtype)
    ids = DistilBertTokenizer.from_pretrained(sentence_encoder)(TEXTS)["input_ids"]
    batch = pack(ours.config, ids)
    assert batch.total_tokens > tiles.NARROW_ROWS
    wanted, found = exact.backend.forward(batch), ours.backend.to_numpy(ours.backend.forward(batch))
    alone = ours.backend.to_numpy(ours.backend.forward(pack(ours.config, ids[:1])))
    tiles._estimated.cache_clear()

    def vectors(rows: Any) -> Any:
        means = np.array([rows[a:b].mean(0) for a, b in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    cosines = (vectors(wanted) * vectors(found)).sum(1)
    print(dtype, cosines)
    assert cosines.mean() >= 0.9985
    assert cosines.min() >= 0.9975
    one = alone.mean(0) / np.linalg.norm(alone.mean(0))
    assert vectors(wanted)[0] @ one >= 0.998
    facts = ours.backend.describe()
    assert facts["dtype"] == dtype
    assert "built-in texts" in facts["calibration"]
    assert facts["kept"] == list(ours.backend.packing.kept)


@DTYPES
def test_without_calibration_weights_go_to_the_nearest(dtype: str) -> None:
    """Hidden states of many rows and of few; a row has the same bits beside other mates."""
    rng, config = fresh(), config_of(n_layers=1)
    weights = weights_of(config, "DistilBertModel", rng)
    backend: Any = create("cuda", config, weights, dtype=dtype)
    exact = create("reference", config, weights)
    assert backend.describe()["kept"] == []
    assert backend.describe()["calibration"] is None
    assert all(isinstance(weight, Quantized) for weight, _ in backend.encoder.linears.values())
    for lengths in ((9, 30), (5, 7)):
        ids = [rng.integers(0, 61, length).tolist() for length in lengths]
        batch = pack(config, ids)
        found, wanted = backend.to_numpy(backend.forward(batch)), exact.forward(batch)
        assert np.linalg.norm(found - wanted) <= 0.1 * np.linalg.norm(wanted)
        others = pack(config, [ids[0], *([1] * len(each) for each in ids[1:])])
        np.testing.assert_array_equal(backend.to_numpy(backend.forward(others))[: lengths[0]], found[: lengths[0]])
        firsts = batch.cu_seqlens[:-1].astype(np.int64)
        few = backend.to_numpy(backend.forward(batch, wanted=firsts))
        assert np.linalg.norm(few - wanted[firsts]) <= 0.1 * np.linalg.norm(wanted[firsts])


@DTYPES
def test_layers_that_are_kept_stay_in_bfloat16(dtype: str) -> None:
    """By calibration; one kind of each beside coded ones, and each with its input scales."""
    rng, config = fresh(), config_of()
    weights = weights_of(config, "DistilBertModel", rng)
    coded, coding = {}, CODINGS["cuda", dtype]
    kept = ("layer.0.out_proj", "layer.0.ffn_in", "layer.1.qkv", "layer.1.ffn_out")
    for name, (_, sources) in linears(2, (), dtype).items():
        weight = np.concatenate([weights[f"{source}.weight"] for source in sources])
        scales: Any = np.asarray(rng.uniform(0.5, 2, weight.shape[1]), np.float32)
        if name not in kept:
            gram = np.eye(weight.shape[1], dtype=np.float32)
            coded[name] = CodedLinear(*round_weight(weight / scales, gram, coding), scales)
    calibration = Calibration("texts", dict.fromkeys(linears(2, (), dtype), 0.0), coded)
    backend: Any = create("cuda", config, weights, dtype=dtype, calibration=calibration)
    assert backend.describe()["kept"] == list(calibration.kept) == list(kept)
    assert backend.describe()["calibration"] == "texts"
    plain = [name for name, (weight, _) in backend.encoder.linears.items() if not isinstance(weight, Quantized)]
    assert plain == list(kept)
    exact = create("reference", config, weights)
    for lengths in ((14, 20), (6,)):
        batch = pack(config, [rng.integers(0, 61, length).tolist() for length in lengths])
        found, wanted = backend.to_numpy(backend.forward(batch)), exact.forward(batch)
        assert np.linalg.norm(found - wanted) <= 0.1 * np.linalg.norm(wanted)


@DTYPES
def test_a_wrong_number_stays_in_its_own_sequence(dtype: str) -> None:
    rng, config = fresh(), config_of(n_layers=1)
    model: Any = models.DistilBertModel(config, weights_of(config, "DistilBertModel", rng), backend="cuda", dtype=dtype)
    embeds = rng.standard_normal((2, 20, 36)).astype(np.float32)
    clean = model(inputs_embeds=embeds).last_hidden_state
    embeds[1, 3, 5] = np.nan
    found = model(inputs_embeds=embeds).last_hidden_state
    np.testing.assert_array_equal(found[0], clean[0])
    assert np.isnan(found[1]).all()

"""engine/verification.py: right models pass, a changed weight shows, both references agree."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distilrt
from distilrt import checkpoint, models, verification
from distilrt.config import DistilBertConfig
from distilrt.errors import InvalidInput

HEADS = ["DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification",
         "DistilBertForQuestionAnswering", "DistilBertForTokenClassification",
         "DistilBertForMultipleChoice"]  # fmt: skip


@pytest.fixture
def make_folder(tmp_path: Path, sentence_encoder: Path) -> Any:
    """Saves a small random model of an architecture next to a real vocabulary."""

    def make(architecture: str) -> Path:
        config = DistilBertConfig(dim=48, n_heads=2, n_layers=2, hidden_dim=96, vocab_size=30522)
        checkpoint.save(tmp_path, config, checkpoint.random_weights(config, architecture), architecture)
        for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
            shutil.copy(sentence_encoder / name, tmp_path / name)
        return tmp_path

    return make


def _without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))


@pytest.mark.parametrize("architecture", HEADS)
def test_every_head(architecture: str, make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(architecture)
    report = verification.verify(folder)
    assert report.ok
    assert report.architecture == architecture
    assert report.reference.startswith("transformers")
    _without_transformers(monkeypatch)
    plain = verification.verify(folder)
    assert plain.ok
    assert plain.reference == "NumPy float64"
    assert [row.output for row in plain.rows] == [row.output for row in report.rows]
    for ours, theirs in zip(plain.rows, report.rows, strict=True):
        assert abs(ours.max_abs_difference - theirs.max_abs_difference) <= 1e-9


def test_real_checkpoint(sentence_encoder: Path) -> None:
    report = distilrt.verify(sentence_encoder, ["One text.", "And another, a little longer than the first."])
    assert report.ok
    assert report.largest.relative < 1e-6
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_wrong_numbers_are_found(make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder("DistilBertForSequenceClassification")
    forward = models.DistilBertForSequenceClassification.forward

    def off(self: Any, *args: Any, **keywords: Any) -> Any:
        output: Any = forward(self, *args, **keywords)
        output["logits"] = output["logits"] + np.float32(1e-3)
        return output

    monkeypatch.setattr(models.DistilBertForSequenceClassification, "__call__", off)
    report = verification.verify(folder)
    assert not report.ok
    assert {row.output for row in report.rows if not row.ok} == {"logits"}


def test_no_texts(sentence_encoder: Path) -> None:
    with pytest.raises(InvalidInput, match="at least one text"):
        verification.verify(sentence_encoder, [])

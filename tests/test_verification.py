"""engine/verification.py: right models pass, a changed weight shows, both references agree."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import transformers

import distilrt
from distilrt import _C, verification
from distilrt.checkpoint import adapter as adapters
from distilrt.checkpoint import packed
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import load_weights, random_weights, save_checkpoint
from distilrt.errors import InvalidInput, InvalidParameter
from distilrt.model import models, pretrained
from distilrt.model.config import DistilBertConfig
from tests.text.tokenizer_pairs import write

HEADS = ["DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification",
         "DistilBertForQuestionAnswering", "DistilBertForTokenClassification",
         "DistilBertForMultipleChoice"]  # fmt: skip


@pytest.fixture
def make_folder(tmp_path: Path, sentence_encoder: Path) -> Any:
    """Saves a small random model of an architecture next to a real vocabulary."""

    def make(architecture: str) -> Path:
        config = DistilBertConfig(dim=48, n_heads=2, n_layers=2, hidden_dim=96, vocab_size=30522)
        save_checkpoint(tmp_path, config, random_weights(config, architecture), architecture)
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


def test_token_ids(make_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = make_folder("DistilBertModel")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for change in ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"do_lower_case": False}):
        write(folder, {"tokenizer_config.json": config | change})
        report = verification.verify(folder, ["One."])
        assert report.ok
        assert report.other_tokens == ()
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    write(folder, {"tokenizer.json": saved | {"padding": None}})
    write(folder, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}})
    assert verification.verify(folder, ["One.", "One more."]).ok
    write(folder, {"tokenizer_config.json": config | {"do_lower_case": False}})
    original = shutil.copytree(folder, tmp_path_factory.mktemp("original"), dirs_exist_ok=True)
    write(original, {"tokenizer_config.json": config})
    report = verification.verify(folder, ["One.", "two"], against=original)
    assert not report.ok
    assert all(row.ok for row in report.rows)
    assert report.other_tokens is not None
    assert {"One.", "Hello World, HELLO world."} <= set(report.other_tokens)
    assert "two" not in report.other_tokens


@pytest.mark.parametrize("dtype", _C.dtypes())
def test_dtypes_have_bounds_of_their_own(sentence_encoder: Path, dtype: str) -> None:
    report = distilrt.verify(sentence_encoder, dtype=dtype)
    assert report.ok
    cosines = {"float32": 0.9999999, "bfloat16": 0.999, "int8": 0.99}
    for row in report.rows:
        assert cosines[dtype] < row.cosine <= 1 + 1e-9
        assert row.mean_abs_difference <= row.max_abs_difference
    if dtype == "int8":
        assert report.backend["kept"] == []
        assert "built-in texts" in report.backend["calibration"]


@pytest.mark.parametrize("dtype", [dtype for dtype in _C.dtypes() if dtype != "float32"])
@pytest.mark.parametrize("architecture", HEADS)
def test_narrow_dtypes_of_every_head(
    architecture: str, dtype: str, make_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right model passes, though nothing of it is trained; a wrong layer norm does not."""
    folder = make_folder(architecture)
    assert verification.verify(folder, dtype=dtype).ok
    load, wrong = load_weights, "transformer.layer.1.output_layer_norm.weight"

    def swapped(*args: Any, **keywords: Any) -> Any:
        weights = dict(load(*args, **keywords))
        return weights | {wrong: weights[wrong] * np.float32(1.5)}

    monkeypatch.setattr(pretrained, "load_weights", swapped)
    bad = {row.output for row in verification.verify(folder, dtype=dtype).rows if not row.ok}
    assert "hidden_states[2]" in bad
    assert "hidden_states[1]" not in bad


def test_cosine_of_nothing() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert verification.smallest_cosine(zeros, zeros) == 1
    assert verification.smallest_cosine(ones, zeros) == 0
    assert verification.smallest_cosine(ones * np.nan, ones) == 0


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


@pytest.mark.parametrize("architecture", HEADS)
def test_labels_agree(architecture: str, make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every head that has labels; one turned round disagrees."""
    folder = make_folder(architecture)
    assert verification.verify(folder).agreement == (None if architecture == "DistilBertModel" else 1)
    if architecture == "DistilBertModel":
        return
    forward = getattr(models, architecture).__call__

    def turned(self: Any, *args: Any, **keywords: Any) -> Any:
        output: Any = forward(self, *args, **keywords)
        return type(output)({key: -value if "logits" in key else value for key, value in output.items()})

    monkeypatch.setattr(getattr(models, architecture), "__call__", turned)
    agreement = verification.verify(folder).agreement
    assert agreement is not None
    assert agreement < 0.5


@pytest.mark.parametrize("dtype", sorted({"float32", "int8"} & set(_C.dtypes())))
def test_packed_folder_against_its_checkpoint(make_folder: Any, tmp_path: Path, dtype: str) -> None:
    folder, out = make_folder("DistilBertForSequenceClassification"), tmp_path / "packed"
    model = models.DistilBertForSequenceClassification.from_pretrained(folder, backend="cpu", dtype=dtype)
    packed.write(out, packed.of(model), Source(folder))
    assert verification.verify(out).rows == ()
    report = verification.verify(out, against=folder)
    assert report.ok
    assert report.agreement is not None
    assert [row.output for row in report.rows] == [row.output for row in verification.verify(folder).rows]
    assert report.backend["dtype"] == dtype
    weights = dict(load_weights(Source(folder), model.architecture, model.config))
    weights["transformer.layer.1.output_layer_norm.weight"] = np.full(48, 3, np.float32)
    save_checkpoint(tmp_path / "other", model.config, weights, model.architecture)
    assert not verification.verify(out, against=tmp_path / "other").ok


def test_against_another_model(make_folder: Any, sentence_encoder: Path, tmp_path: Path) -> None:
    folder = make_folder("DistilBertForSequenceClassification")
    with pytest.raises(ValueError, match="is another model: DistilBertModel with 6 layers of 384"):
        verification.verify(folder, against=sentence_encoder)
    model = models.DistilBertForSequenceClassification.from_pretrained(folder, backend="cpu")
    packed.write(tmp_path / "packed", packed.of(model))
    with pytest.raises(ValueError, match="is packed and has no float weights"):
        verification.verify(folder, against=tmp_path / "packed")


@pytest.fixture
def tuned(make_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A classifier, and an adapter of it with random numbers."""
    folder, adapter = make_folder("DistilBertForSequenceClassification"), tmp_path_factory.mktemp("adapter")
    model = transformers.DistilBertForSequenceClassification.from_pretrained(folder)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_lin", "lin1"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(str(adapter))
    return folder, adapter


def test_an_adapter_is_loaded_by_peft(tuned: Any, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = tuned
    for model in (f"{base}@{adapter}", adapter):
        report = verification.verify(model, ["One."])
        assert report.ok
        assert "DistilBertForSequenceClassification with PEFT" in report.reference
    assert report.model == f"{base}@{adapter}"
    assert not verification.verify(f"{base}@{adapter}", ["One."], against=base).ok
    assert not verification.verify(base, ["One."], against=f"{base}@{adapter}").ok
    out = tmp_path_factory.mktemp("packed")
    packed.write(out, packed.of(models.DistilBertForSequenceClassification.from_pretrained(f"{base}@{adapter}")))
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        shutil.copy(base / name, out / name)
    assert verification.verify(out, ["One."], against=f"{base}@{adapter}").ok
    assert not verification.verify(out, ["One."], against=base).ok
    shutil.copytree(base, adapter, dirs_exist_ok=True)  # a model with its adapter beside it
    assert verification.verify(adapter, ["One."]).ok
    with pytest.raises(InvalidParameter, match="is packed and has no float weights"):
        verification.verify(base, against=out)


def test_an_adapter_that_is_merged_wrongly_is_found(tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = adapters.Adapter.raw
    monkeypatch.setattr(adapters.Adapter, "raw", lambda self, name: raw(self, name) * np.float32(1.01))
    assert not verification.verify(f"{tuned[0]}@{tuned[1]}", ["One."]).ok


def test_an_adapter_without_peft(tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(ImportError, match="its adapter must be loaded by PEFT: pip install peft"):
        verification.verify(f"{tuned[0]}@{tuned[1]}", ["One."])
    _without_transformers(monkeypatch)
    assert verification.verify(f"{tuned[0]}@{tuned[1]}", ["One."]).reference == "NumPy float64"

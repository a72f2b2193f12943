"""The teacher's answers on the engine are compared with transformers'."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt import _C
from distilrt.distill.corpora import Examples
from distilrt.distill.packed_model import PackedModel
from distilrt.distill.teacher import load_teacher
from distilrt.errors import CheckpointError

reference: Any = transformers  # Its classes have types that its configs do not fit.

CPU = torch.device("cpu")
LENGTHS = (9, 3, 1, 20)


@pytest.fixture(autouse=True)
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine computes in float32 on every machine."""
    monkeypatch.setattr(_C, "dtypes", lambda *isa: ["float32"])


def examples_of(rng: np.random.Generator, rows: tuple[int, ...] = (0, 4, 9, 12, 13, 32)) -> Examples:
    sequences = [rng.integers(5, 999, length).astype(np.int32) for length in LENGTHS]
    return Examples(sequences, np.array(rows), np.full(len(rows), -100))


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"])
def test_bert(bert_of: Callable[..., Path], rng: np.random.Generator, kind: str) -> None:
    check(bert_of(kind), kind.replace("PreTraining", "MaskedLM"), rng)


@pytest.mark.parametrize("kind", ["DistilBertForMaskedLM", "DistilBertForSequenceClassification"])
def test_distilbert(folder_of: Callable[..., Path], rng: np.random.Generator, kind: str) -> None:
    check(folder_of(kind), kind, rng)


def check(folder: Path, kind: str, rng: np.random.Generator) -> None:
    """The teacher answers as transformers' model does when it reads one text after the other."""
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    task, examples = "masked-lm", examples_of(rng)
    if "Classification" in kind:
        task, examples = "text-classification", examples_of(rng, (0, 9, 12, 13))
    with torch.no_grad():
        outputs = [model(torch.from_numpy(ids[None]), output_hidden_states=True) for ids in examples.sequences]
    hidden = torch.cat([each.hidden_states[-1][0] for each in outputs])
    logits = torch.cat([each.logits.flatten(0, -2) for each in outputs])
    logits = logits[examples.rows] if task == "masked-lm" else logits
    for ours, theirs in zip(load_teacher(str(folder), task, CPU).answer(examples), (hidden, logits), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_padding_marks(teacher: Path, rng: np.random.Generator) -> None:
    model = PackedModel(reference.BertForMaskedLM.from_pretrained(teacher, pad_token_id=7))
    ids, mask, rows = model.inputs(examples_of(rng), CPU)
    assert ids.shape == (4, 20)
    assert mask is not None
    assert mask.sum(dim=1).tolist() == [*LENGTHS]
    assert (ids[~mask] == 7).all()
    np.testing.assert_array_equal(ids[mask], np.concatenate(examples_of(np.random.default_rng(0)).sequences))
    assert rows.tolist() == [0, 4, 9, 12, 13, 32]
    assert model.inputs(Examples([ids[0].numpy()] * 2, *[np.zeros(0, np.int64)] * 2), CPU)[1] is None


def test_a_teacher_without_a_head_is_refused(bert_of: Callable[..., Path], sentence_encoder: Path) -> None:
    for folder in (sentence_encoder, bert_of("BertForSequenceClassification")):
        with pytest.raises(CheckpointError, match=r"can't be the teacher .* for masked-lm: .*transform\.dense\.weight"):
            load_teacher(str(folder), "masked-lm", CPU)


def test_a_roberta_without_a_head_is_refused(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 48}
    reference.RobertaModel(reference.RobertaConfig(vocab_size=50, **shape)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"can't be the teacher .* lacks lm_head"):
        load_teacher(str(tmp_path), "masked-lm", CPU)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "tanh"}, "roberta: config.hidden_act must be one of gelu"),
        ({}, "roberta holds NaN or infinity"),
        ({"adapter": True}, "a RoBERTa's adapter must be merged first, with PEFT's"),
    ],
)
def test_robertas_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    shape = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 48}
    folder = tmp_path / "roberta"
    model = reference.RobertaForMaskedLM(reference.RobertaConfig(vocab_size=50, **shape | change))
    model.lm_head.dense.weight.data[0] = np.nan
    model.save_pretrained(folder)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=words):
        dict(
            load_teacher(
                f"{folder}@{tmp_path / 'adapter'}" if "adapter" in change else str(folder), "masked-lm", CPU
            ).weights
        )


def test_other_folders_are_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"config\.json"):
        load_teacher(str(tmp_path), "masked-lm", CPU)
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(CheckpointError, match="share one set of weights"):
        load_teacher(str(tmp_path), "masked-lm", CPU)
    shutil.copy(teacher / "config.json", tmp_path / "config.json")
    with pytest.raises(OSError, match="weights"):
        load_teacher(str(tmp_path), "masked-lm", CPU)

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

from distilrt.distill.corpora import Examples
from distilrt.distill.packed_model import PackedModel
from distilrt.distill.teacher import load_teacher, on_torch
from distilrt.errors import BackendError, CheckpointError

reference: Any = transformers  # Its classes have types that its configs do not fit.

CPU = torch.device("cpu")
LENGTHS = (9, 3, 1, 20)


def examples_of(rng: np.random.Generator) -> Examples:
    sequences = [rng.integers(5, 999, length).astype(np.int32) for length in LENGTHS]
    return Examples(sequences, np.array([0, 4, 9, 12, 13, 32]), np.full(6, -100))


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("BertForMaskedLM", "masked-lm"),
        ("BertForPreTraining", "masked-lm"),
        ("BertForSequenceClassification", "text-classification"),
    ],
)
def test_bert(bert_of: Callable[..., Path], rng: np.random.Generator, kind: str, task: str) -> None:
    folder, examples = bert_of(kind), examples_of(rng)
    teacher = load_teacher(str(folder), task, CPU, "float32")
    kind = kind.replace("PreTraining", "MaskedLM")
    model = getattr(transformers, kind).from_pretrained(folder)
    check(teacher.answer(examples), on_torch(teacher.config, {}, model, CPU).answer(examples))


@pytest.mark.parametrize("kind", ["DistilBertForMaskedLM", "DistilBertForSequenceClassification"])
def test_distilbert(folder_of: Callable[..., Path], rng: np.random.Generator, kind: str) -> None:
    folder, examples = folder_of(kind), examples_of(rng)
    task = "masked-lm" if "MaskedLM" in kind else "text-classification"
    teacher = load_teacher(str(folder), task, CPU, "float32")
    model = PackedModel(getattr(transformers, kind).from_pretrained(folder).eval())
    check(teacher.answer(examples), model(*model.inputs(examples, CPU)))


def check(ours: tuple[torch.Tensor, torch.Tensor], theirs: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert len(ours[0]) == sum(LENGTHS)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two.detach(), rtol=1e-4, atol=1e-4 * two.abs().max().item())


def test_padding_marks(rng: np.random.Generator) -> None:
    ids, mask = examples_of(rng).padded(7)
    assert ids.shape == (4, 20)
    assert mask is not None
    np.testing.assert_array_equal(mask.sum(axis=1), LENGTHS)
    assert (ids[~mask] == 7).all()
    assert Examples([ids[0].astype(np.int32)] * 2, *[np.zeros(0, np.int64)] * 2).padded(0)[1] is None


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


def test_a_backend_that_is_not_here_is_refused(teacher: Path) -> None:
    with pytest.raises(BackendError, match="float16"):
        load_teacher(str(teacher), "masked-lm", CPU, "float16")

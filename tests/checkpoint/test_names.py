"""Every spelling of a checkpoint, DistilBERT's and BERT's, gives the same named arrays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt.checkpoint.weights import save_checkpoint
from distilrt.model.config import DistilBertConfig
from tests.checkpoint.reference_folders import (
    BASE,
    MLM,
    POSITIONS,
    SEQUENCE,
    TOKEN,
    WORDS,
    Change,
    assert_equal,
    bert,
    edited,
    moved,
    opened,
    reference,
    replaced,
    reread,
    saved,
    stored_names,
)


def with_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors["distilbert." + name] = tensors.pop(name)


def without_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("distilbert.")] = tensors.pop(name)


def old_norms(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        new = re.sub(r"(Norm|_norm)\.weight", r"\1.gamma", re.sub(r"(Norm|_norm)\.bias", r"\1.beta", name))
        tensors[new] = tensors.pop(name)


def with_ignored(tensors: dict[str, torch.Tensor]) -> None:
    tensors["distilbert.embeddings.position_ids"] = torch.arange(16)
    tensors["pooler.dense.weight"] = torch.zeros(32, 32)


@pytest.mark.parametrize(
    ("architecture", "change"),
    [(BASE, with_prefix), (MLM, without_prefix), (BASE, old_norms), (MLM, old_norms), (SEQUENCE, with_ignored)],
)
def test_spellings(architecture: str, change: Change, tmp_path: Path) -> None:
    saved(tmp_path, architecture, change)
    assert_equal(opened(tmp_path, architecture), reference(architecture).state_dict())


def renamed(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a BERT under DistilBERT's names, written out independently of the table."""
    encoder = getattr(model, "bert", model)
    embeddings = encoder.embeddings
    out = {WORDS: embeddings.word_embeddings.weight,
           POSITIONS: embeddings.position_embeddings.weight,
           "embeddings.token_type_embeddings.weight": embeddings.token_type_embeddings.weight}  # fmt: skip
    parts = {"embeddings.LayerNorm": embeddings.LayerNorm}
    for i, layer in enumerate(encoder.encoder.layer):
        attention = layer.attention.self
        parts |= {
            f"transformer.layer.{i}.{name}": module
            for name, module in {
                "attention.q_lin": attention.query, "attention.k_lin": attention.key,
                "attention.v_lin": attention.value, "attention.out_lin": layer.attention.output.dense,
                "sa_layer_norm": layer.attention.output.LayerNorm, "ffn.lin1": layer.intermediate.dense,
                "ffn.lin2": layer.output.dense, "output_layer_norm": layer.output.LayerNorm,
            }.items()
        }  # fmt: skip
    if hasattr(model, "cls"):
        head = model.cls.predictions
        parts |= {"vocab_transform": head.transform.dense, "vocab_layer_norm": head.transform.LayerNorm,
                  "vocab_projector": head.decoder}  # fmt: skip
    if encoder.pooler is not None:
        parts["pre_classifier"] = encoder.pooler.dense
    parts |= {name: getattr(model, name) for name in ("classifier", "qa_outputs") if hasattr(model, name)}
    out |= {f"{name}.{key}": getattr(module, key) for name, module in parts.items() for key in ("weight", "bias")}
    return {name: tensor.detach() for name, tensor in out.items()}


def test_real_bert_folder(sentence_encoder: Path) -> None:
    weights = opened(sentence_encoder, BASE)
    assert_equal(weights, renamed(transformers.BertModel.from_pretrained(sentence_encoder, dtype=torch.float32)))
    assert weights.dtype == "float32"
    assert not weights[WORDS].flags.owndata


@pytest.mark.parametrize(
    ("theirs", "ours", "changes"),
    [("BertModel", BASE, {}), ("BertForMaskedLM", MLM, {}), ("BertForMaskedLM", MLM, {"tie_word_embeddings": False}),
     ("BertForTokenClassification", TOKEN, {}), ("BertForSequenceClassification", SEQUENCE, {}),
     ("BertForQuestionAnswering", "DistilBertForQuestionAnswering", {"num_labels": 2}),
     ("BertForMultipleChoice", "DistilBertForMultipleChoice", {})],
)  # fmt: skip
def test_bert_architectures(theirs: str, ours: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = bert(theirs, **changes)
    model.save_pretrained(tmp_path / "bert")
    weights = opened(tmp_path / "bert", ours)
    assert_equal(weights, renamed(getattr(transformers, theirs).from_pretrained(tmp_path / "bert")))

    # It is saved as a BERT, for us and for the reference.
    save_checkpoint(tmp_path / "again", DistilBertConfig.from_pretrained(tmp_path / "bert"), weights, ours)
    assert DistilBertConfig.from_pretrained(tmp_path / "again").type_vocab_size == 2
    again, info = reread(tmp_path / "again", theirs)
    assert not any(info.values())
    assert_equal(weights, renamed(again))
    assert stored_names(tmp_path / "again") == stored_names(tmp_path / "bert")


def test_bert_before_it_was_fine_tuned(tmp_path: Path) -> None:
    model = bert("BertForPreTraining")
    model.save_pretrained(tmp_path)
    expected = renamed(model)
    pooler = [expected.pop(name) for name in list(expected) if name.startswith("pre_classifier")]
    assert len(pooler) == 2
    assert_equal(opened(tmp_path, MLM), expected)


def test_bert_bias_of_the_projector(tmp_path: Path) -> None:
    """A file may have the bias under either name or both; what the reference adds is then the decoder's."""
    bert("BertForMaskedLM").save_pretrained(tmp_path)
    plain = opened(tmp_path, MLM)["vocab_projector.bias"].copy()
    edited(tmp_path, moved("cls.predictions.bias", "cls.predictions.decoder.bias"))
    np.testing.assert_array_equal(opened(tmp_path, MLM)["vocab_projector.bias"], plain)
    edited(tmp_path, replaced("cls.predictions.bias", torch.ones(50)))
    expected = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    assert_equal(opened(tmp_path, MLM), renamed(expected))


def test_headless_bert_from_any_head_and_half_precision(tmp_path: Path) -> None:
    model = bert("BertForSequenceClassification").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    weights = opened(tmp_path, BASE)
    expected = {name: tensor for name, tensor in renamed(model.float()).items() if not name.startswith("classifier")}
    assert_equal(weights, expected)
    assert weights.dtype == "bfloat16"
    save_checkpoint(tmp_path / "again", DistilBertConfig.from_pretrained(tmp_path), weights, BASE)
    again = opened(tmp_path / "again", BASE)
    assert all(np.array_equal(again[name], weights[name]) for name in weights)

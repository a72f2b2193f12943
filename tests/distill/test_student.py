"""The student's layers, shape and first weights, against its teacher's to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt.distill.packed_model import PackedModel
from distilrt.distill.student import chosen_layers, make_student
from distilrt.distill.teacher import Teacher, load_teacher
from distilrt.errors import CheckpointError

reference: Any = transformers  # Its classes have types that its configs do not fit.

CPU = torch.device("cpu")


def student_of(folder: Path, task: str = "masked-lm") -> tuple[Teacher, Any]:
    teacher = load_teacher(str(folder), task, CPU)
    kind = "DistilBertForMaskedLM" if task == "masked-lm" else "DistilBertForSequenceClassification"
    return teacher, make_student(teacher.config, teacher.weights, kind, random=False).eval()


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.equal(ours, theirs)


def test_every_other_layer() -> None:
    assert chosen_layers(12) == [0, 2, 4, 7, 9, 11]  # those of the paper's own code
    assert chosen_layers(6) == [0, 2, 5]
    assert chosen_layers(4) == [0, 3]
    assert chosen_layers(2) == [0]
    assert chosen_layers(24)[::11] == [0, 23]
    with pytest.raises(CheckpointError, match="this teacher has 1"):
        chosen_layers(1)


@pytest.mark.parametrize("layers", [4, 5, 12])
def test_of_a_bert(bert_of: Callable[..., Path], layers: int) -> None:
    folder = bert_of("BertForMaskedLM", num_hidden_layers=layers)
    theirs = reference.BertForMaskedLM.from_pretrained(folder)
    _, ours = student_of(folder)
    assert ours.config.n_layers == layers // 2
    embeddings = theirs.bert.embeddings
    same(ours.distilbert.embeddings.word_embeddings.weight, embeddings.word_embeddings.weight)
    both = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    same(ours.distilbert.embeddings.position_embeddings.weight, both)
    for layer, number in zip(ours.distilbert.transformer.layer, chosen_layers(layers), strict=True):
        other = theirs.bert.encoder.layer[number]
        pairs = [
            (layer.attention.q_lin, other.attention.self.query),
            (layer.attention.k_lin, other.attention.self.key),
            (layer.attention.v_lin, other.attention.self.value),
            (layer.attention.out_lin, other.attention.output.dense),
            (layer.sa_layer_norm, other.attention.output.LayerNorm),
            (layer.ffn.lin1, other.intermediate.dense),
            (layer.ffn.lin2, other.output.dense),
            (layer.output_layer_norm, other.output.LayerNorm),
        ]
        for one, two in pairs:
            same(one.weight, two.weight)
            same(one.bias, two.bias)
    head = theirs.cls.predictions
    same(ours.vocab_transform.weight, head.transform.dense.weight)
    same(ours.vocab_layer_norm.bias, head.transform.LayerNorm.bias)
    same(ours.vocab_projector.bias, head.decoder.bias)
    assert ours.vocab_projector.weight is ours.distilbert.embeddings.word_embeddings.weight
    ids = torch.randint(5, 999, (2, 12))
    inputs = theirs.eval().bert.embeddings(ids), ours.distilbert.embeddings(ids)
    torch.testing.assert_close(*inputs, rtol=0, atol=2e-6)  # sums of three numbers in another order


def test_of_a_distilbert(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("DistilBertForMaskedLM", n_layers=4)
    theirs = reference.DistilBertForMaskedLM.from_pretrained(folder)
    _, ours = student_of(folder)
    taken = {f"transformer.layer.{old}.": f"transformer.layer.{new}." for new, old in enumerate(chosen_layers(4))}
    state = ours.state_dict()
    for name, tensor in theirs.state_dict().items():
        place = next((old for old in taken if old in name), None)
        if place or "transformer.layer" not in name:
            same(state[name.replace(place, taken[place]) if place else name], tensor)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory, sentence_encoder: Path) -> Callable[[str], Path]:
    """Makes a RoBERTa with a WordPiece tokenizer."""

    def make(kind: str) -> Path:
        torch.manual_seed(0)
        config = reference.RobertaConfig(
            vocab_size=30522, hidden_size=32, num_attention_heads=2, num_hidden_layers=4, intermediate_size=48,
            max_position_embeddings=66, pad_token_id=0, type_vocab_size=1, num_labels=3,
        )  # fmt: skip
        model = getattr(transformers, kind)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.05)
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        reference.DistilBertTokenizer.from_pretrained(sentence_encoder).save_pretrained(folder)
        return folder

    return make


def test_of_a_roberta(roberta: Callable[[str], Path]) -> None:
    folder = roberta("RobertaForMaskedLM")
    theirs = reference.RobertaForMaskedLM.from_pretrained(folder).eval()
    teacher, ours = student_of(folder)
    assert teacher.runs_on == "transformers, float32"
    assert ours.config.max_position_embeddings == 65
    embeddings = theirs.roberta.embeddings
    both = embeddings.position_embeddings.weight[1:] + embeddings.token_type_embeddings.weight[0]
    same(ours.distilbert.embeddings.position_embeddings.weight, both)
    same(
        ours.distilbert.transformer.layer[1].ffn.lin1.weight, theirs.roberta.encoder.layer[3].intermediate.dense.weight
    )
    same(ours.vocab_transform.weight, theirs.lm_head.dense.weight)
    same(ours.vocab_layer_norm.weight, theirs.lm_head.layer_norm.weight)
    same(ours.vocab_projector.bias, theirs.lm_head.decoder.bias)


def test_of_a_roberta_classifier(roberta: Callable[[str], Path]) -> None:
    theirs = reference.RobertaForSequenceClassification.from_pretrained(
        folder := roberta("RobertaForSequenceClassification")
    )
    _, ours = student_of(folder, "text-classification")
    same(ours.pre_classifier.weight, theirs.classifier.dense.weight)
    same(ours.classifier.weight, theirs.classifier.out_proj.weight)


def test_of_a_classifier(bert_of: Callable[..., Path]) -> None:
    folder = bert_of("BertForSequenceClassification", num_labels=3, id2label={"0": "a", "1": "b", "2": "c"})
    theirs = reference.BertForSequenceClassification.from_pretrained(folder)
    _, ours = student_of(folder, "text-classification")
    same(ours.pre_classifier.weight, theirs.bert.pooler.dense.weight)
    same(ours.classifier.bias, theirs.classifier.bias)
    assert ours.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_random_weights_are_not_the_teachers(teacher: Path) -> None:
    found = load_teacher(str(teacher), "masked-lm", CPU)
    one, two = (
        (torch.manual_seed(0), make_student(found.config, found.weights, "DistilBertForMaskedLM", random=True))[1]
        for _ in range(2)
    )
    words = one.distilbert.embeddings.word_embeddings.weight
    same(words, two.distilbert.embeddings.word_embeddings.weight)
    assert not np.array_equal(words.detach().numpy(), found.weights["embeddings.word_embeddings.weight"])


@pytest.mark.parametrize("kind", ["DistilBertForMaskedLM", "DistilBertForSequenceClassification"])
def test_packed_model_answers_as_transformers(folder_of: Callable[..., Path], kind: str) -> None:
    model = getattr(transformers, kind).from_pretrained(folder_of(kind)).eval()
    ids, mask = torch.randint(5, 999, (2, 7)), torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    rows = torch.tensor([0, 7])
    hidden, logits = PackedModel(model)(ids, mask, rows)
    expected = model(ids, attention_mask=mask, output_hidden_states=True)
    torch.testing.assert_close(hidden, expected.hidden_states[-1][mask])
    wanted = expected.logits[:, 0] if expected.logits.ndim == 3 else expected.logits
    torch.testing.assert_close(logits, wanted)

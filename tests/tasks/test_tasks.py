"""Every task against transformers' pipeline of its name, or the reference's model where there is none."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.tasks.task_calls import (
    BIO,
    LONG,
    MASKED,
    MAX_LENGTH,
    NLI,
    TEXTS,
    Folders,
    assert_same,
    ours,
    prepared_of,
    task_of,
)


@cache
def pipeline_of(folder: Path, task: str) -> Any:
    return transformers.pipeline(task, model=str(folder), device="cpu")  # type: ignore[call-overload]


HEADS = [
    {"id2label": {"0": "NEGATIVE", "1": "POSITIVE", "2": "MIXED"}},
    {"num_labels": 1},
    {"num_labels": 1, "problem_type": "regression"},
    {"num_labels": 3, "problem_type": "multi_label_classification"},
]
PAIRED = [*TEXTS, "", {"text": TEXTS[0]}, {"text": TEXTS[0], "text_pair": TEXTS[1]}, {"text": "a", "text_pair": ""}]


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_k": None},
        {"top_k": 2},
        {"top_k": 1},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "softmax", "top_k": 9},
        {"function_to_apply": "none"},
    ],
    ids=str,
)
def test_text_classification(folder_of: Folders, head: Any, params: Any) -> None:
    folder = folder_of("DistilBertForSequenceClassification", **head)
    theirs = pipeline_of(folder, "text-classification")(PAIRED, **params)
    assert_same(ours(folder, "text-classification", PAIRED, params), theirs)


@pytest.mark.parametrize("params", [{"truncation": True}, {"truncation": "only_first", "max_length": 9}], ids=str)
def test_text_classification_cuts_when_asked(folder_of: Folders, params: Any) -> None:
    folder = folder_of("DistilBertForSequenceClassification")
    theirs = pipeline_of(folder, "text-classification")([LONG, TEXTS[0]], **params)
    assert_same(ours(folder, "sentiment-analysis", [LONG, TEXTS[0]], params), theirs)


def test_extreme_logits_have_finite_scores(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForSequenceClassification", num_labels=3)
    task = task_of(folder, "text-classification")
    for function, expected in (("softmax", [1.0, 0.0, 0.0]), ("sigmoid", [1.0, 0.0, 0.0])):
        params = {"function_to_apply": function, "top_k": None}
        answer = task.answer(prepared_of(task, "a", params), [np.array([[2e4, -3e4, -1e4]], np.float32)])
        assert sorted((label["score"] for label in answer), reverse=True) == expected


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_k": 2},
        {"targets": ["paris", "london", "##s", "paris"]},
        {"targets": "paris"},
        {"targets": ["a", "b", "c"], "top_k": 2},
    ],
    ids=str,
)
def test_fill_mask(folder_of: Folders, params: Any) -> None:
    folder = folder_of("DistilBertForMaskedLM")
    assert_same(ours(folder, "fill-mask", MASKED, params), pipeline_of(folder, "fill-mask")(MASKED, **params), 1e-6)


def test_fill_mask_cuts_when_asked(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForMaskedLM")
    texts = [f"[MASK] {LONG}", MASKED[0]]
    theirs = pipeline_of(folder, "fill-mask")(texts, tokenizer_kwargs={"truncation": True})
    assert_same(ours(folder, "fill-mask", texts, {"truncation": True}), theirs, 1e-6)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("more", [{}, {"ignore_labels": []}, {"ignore_labels": ["PER", "B-LOC", "O"]}], ids=str)
def test_token_classification(folder_of: Folders, strategy: str, more: Any) -> None:
    folder = folder_of("DistilBertForTokenClassification", id2label=BIO)
    params = {"aggregation_strategy": strategy, **more}
    texts = [*TEXTS, LONG]  # too long a text is cut
    theirs = pipeline_of(folder, "token-classification")(texts, **params)
    assert any(theirs)
    assert_same(ours(folder, "token-classification", texts, params), theirs)


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@pytest.mark.parametrize("stride", [0, 16])
def test_token_classification_reads_long_texts_in_windows(folder_of: Folders, strategy: str, stride: int) -> None:
    folder = folder_of("DistilBertForTokenClassification", id2label=BIO)
    params = {"aggregation_strategy": strategy, "stride": stride}
    theirs = pipeline_of(folder, "ner")([LONG, TEXTS[0]], **params)
    assert max(entity["end"] for entity in theirs[0]) > len(LONG) - 30
    assert_same(ours(folder, "ner", [LONG, TEXTS[0]], params), theirs)


@pytest.mark.parametrize("params", [{}, {"truncation": True}], ids=str)
def test_feature_extraction(folder_of: Folders, params: Any) -> None:
    folder = folder_of("DistilBertModel")
    texts = [*TEXTS, LONG] if params else TEXTS
    theirs = pipeline_of(folder, "feature-extraction")(texts, **params)
    assert_same(ours(folder, "feature-extraction", texts, params), theirs)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
def test_feature_extraction_of_a_real_model(sentence_encoder: Path, pooling: str, normalize: bool) -> None:
    texts = TEXTS[:3]
    theirs = [np.array(one[0]) for one in pipeline_of(sentence_encoder, "feature-extraction")(texts)]
    assert_same(ours(sentence_encoder, "feature-extraction", texts), [[rows.tolist()] for rows in theirs])
    vectors = [rows.mean(0) if pooling == "mean" else rows[0] for rows in theirs]
    if normalize:
        vectors = [vector / np.sqrt((vector**2).sum()) for vector in vectors]
    params = {"pooling": pooling, "normalize": normalize}
    assert_same(ours(sentence_encoder, "feature-extraction", texts, params), [vector.tolist() for vector in vectors])


def test_sentence_similarity_of_a_real_model(sentence_encoder: Path) -> None:
    others = ["A feline rested on a rug.", "Stock prices fell sharply today."]
    request = {"source_sentence": "The cat sat on the mat.", "sentences": others}
    assert_same(ours(sentence_encoder, "sentence-similarity", [request]), [[0.5530, 0.0598]])


@pytest.mark.parametrize("params", [{}, {"truncation": True, "max_length": 20}], ids=str)
def test_multiple_choice(folder_of: Folders, params: Any) -> None:
    """The reference's own class: the softmax of its logits over each prompt's choices."""
    folder = folder_of("DistilBertForMultipleChoice")
    model: Any = transformers.DistilBertForMultipleChoice.from_pretrained(folder)
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs: list[dict[str, Any]] = [
        {"prompt": TEXTS[0], "choices": TEXTS},
        {"prompt": "", "choices": ["a", "", "b c"]},
        {"prompt": TEXTS[3], "choices": ["only"]},
        {"prompt": "a", "choices": tuple(TEXTS[:2])},
    ]
    for item, found in zip(inputs, ours(folder, "multiple-choice", inputs, params), strict=True):
        pairs = [[item["prompt"]] * len(item["choices"]), list(item["choices"])]
        encoded = tokenizer(*pairs, padding=True, return_tensors="pt", **params)
        with torch.no_grad():
            logits = model(**{name: value[None] for name, value in encoded.items()}).logits[0]
        scores = logits.double().softmax(0).tolist()
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        assert_same(found, [{"choice": item["choices"][i], "score": scores[i], "index": i} for i in order])


@pytest.mark.parametrize(("logits", "scores"), [([1.0] * 3, [1 / 3] * 3), ([-1e4, 2e4, 0.0], [1.0, 0.0, 0.0])])
def test_choices_that_are_equal_or_far_apart(folder_of: Folders, logits: list[float], scores: list[float]) -> None:
    task = task_of(folder_of("DistilBertForMultipleChoice"), "multiple-choice")
    prepared = prepared_of(task, {"prompt": "a", "choices": ["b"] * 3}, {})
    found = task.answer(prepared, [np.array([[logit]], np.float32) for logit in logits])
    order = [0, 1, 2] if len(set(logits)) == 1 else [1, 0, 2]
    assert_same(found, [{"choice": "b", "score": scores[i], "index": order[i]} for i in range(3)], 1e-6)


def test_pooling_changes_the_similarity(sentence_encoder: Path) -> None:
    request = {"source_sentence": "The cat sat on the mat.", "sentences": ["A feline rested on a rug."]}
    [[cosine]] = ours(sentence_encoder, "sentence-similarity", [request], {"pooling": "cls"})
    texts = [request["source_sentence"], *request["sentences"]]
    first, second = ours(sentence_encoder, "feature-extraction", texts, {"pooling": "cls", "normalize": True})
    assert cosine == pytest.approx(np.dot(first, second), abs=1e-6)


@pytest.mark.parametrize("labels", [["sport", "politics", "fine arts"], "sport, politics,,fine arts ", ["sport"]])
@pytest.mark.parametrize("more", [{}, {"multi_label": True}, {"hypothesis_template": "Is it {}?"}], ids=str)
@pytest.mark.parametrize("names", [NLI, {0: "contradiction", 1: "neutral", 2: "entailment"}], ids=["first", "last"])
def test_zero_shot_classification(folder_of: Folders, labels: Any, more: Any, names: Any) -> None:
    folder = folder_of("DistilBertForSequenceClassification", id2label=names)
    params = {"candidate_labels": labels, **more}
    texts = [*TEXTS, LONG]  # too long a text is cut, its hypothesis not
    theirs = pipeline_of(folder, "zero-shot-classification")(texts, **params)
    assert_same(ours(folder, "zero-shot-classification", texts, params), theirs)


def plain_answers(
    folder: Path,
    question: str,
    context: str,
    *,
    top_k: int = 1,
    doc_stride: int = 32,
    max_seq_len: int = MAX_LENGTH,
    max_answer_len: int = 15,
    handle_impossible_answer: bool = False,
    align_to_words: bool = True,
) -> Any:
    """Question answering by its definition, span by span, from transformers' model and tokenizer."""
    model: Any = transformers.DistilBertForQuestionAnswering.from_pretrained(folder)
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(
        question,
        context,
        truncation="only_second",
        max_length=max_seq_len,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    answers: list[dict[str, Any]] = []
    null_scores = []
    for window, ids in enumerate(encoded["input_ids"]):
        with torch.no_grad():
            output = model(torch.tensor([ids]))
        in_context = [i for i, sequence in enumerate(encoded.sequence_ids(window)) if sequence == 1]
        start, end = (
            dict(zip([0, *in_context], logits[0][[0, *in_context]].double().softmax(0).tolist(), strict=True))
            for logits in (output.start_logits, output.end_logits)
        )
        null_scores.append(start[0] * end[0])
        spans = [(i, j) for i in in_context for j in in_context if i <= j < i + max_answer_len]
        spans.sort(key=lambda span: -start[span[0]] * end[span[1]])
        for i, j in spans[: 2 * top_k + 10 if align_to_words else top_k]:
            first, last = encoded["offset_mapping"][window][i][0], encoded["offset_mapping"][window][j][1]
            if align_to_words:
                words = encoded.word_ids(window)
                offsets = encoded["offset_mapping"][window]
                first = min(offsets[k][0] for k in in_context if words[k] == words[i])
                last = max(offsets[k][1] for k in in_context if words[k] == words[j])
            text, score = context[first:last], start[i] * end[j]
            same = [answer for answer in answers if answer["answer"].lower() == text.lower()]
            if same:
                same[0]["score"] += score
            else:
                answers.append({"score": score, "start": first, "end": last, "answer": text})
    if handle_impossible_answer:
        answers.append({"score": min(null_scores), "start": 0, "end": 0, "answer": ""})
    answers = sorted(answers, key=lambda answer: -answer["score"])[:top_k]
    return answers[0] if len(answers) == 1 else answers


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_k": 3},
        {"top_k": 5, "align_to_words": False},
        {"max_answer_len": 1},
        {"max_answer_len": 500},
        {"max_seq_len": 30, "doc_stride": 7, "top_k": 4},
        {"max_seq_len": 30, "doc_stride": 0},
        {"max_seq_len": 24},
        {"handle_impossible_answer": True, "top_k": 40},
    ],
    ids=str,
)
@pytest.mark.parametrize("context", [TEXTS[0], TEXTS[1], LONG, "Paris"], ids=["one", "pieces", "windows", "word"])
def test_question_answering(folder_of: Folders, params: dict[str, Any], context: str) -> None:
    folder = folder_of("DistilBertForQuestionAnswering")
    question = "Who wrote programs?"
    stride = {"doc_stride": params.get("max_seq_len", MAX_LENGTH) // 2}
    expected = plain_answers(folder, question, context, **stride | params)
    answers = ours(folder, "question-answering", [{"question": question, "context": context}], params)
    assert_same(answers, [expected])


def test_a_context_without_words_has_an_empty_answer(folder_of: Folders) -> None:
    answers = ours(
        folder_of("DistilBertForQuestionAnswering"), "question-answering", [{"question": "a", "context": " "}]
    )
    assert answers == [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]

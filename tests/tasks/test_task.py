"""What all tasks share: names, refusals of inputs and parameters, and texts that are too long."""

from __future__ import annotations

from typing import Any

import pytest

from distilrt.errors import InvalidInput, TooLong
from distilrt.model import models
from distilrt.tasks import TASKS, find, run
from tests.tasks.task_calls import (
    BIO,
    INPUTS,
    LONG,
    PARAMS,
    TEXTS,
    Folders,
    assert_same,
    folder_for,
    model_of,
    ours,
    task_of,
)


def test_every_task_has_a_name_a_class_and_documented_parameters() -> None:
    assert set(INPUTS) | {"sentiment-analysis", "ner"} == set(TASKS)
    assert find("ner") is find("token-classification")
    assert find("sentiment-analysis") is find("text-classification")
    for task in TASKS.values():
        assert getattr(models, task.architecture).architecture == task.architecture
        assert all(param.about and param.allowed for param in task.params.values())
    with pytest.raises(ValueError, match=r"one of text-classification, .*found 'translation'"):
        find("translation")


BAD_INPUTS = [
    ("text-classification", 7, "expected a string or an object with 'text' and perhaps 'text_pair', found int"),
    ("text-classification", {"text_pair": "a"}, "'text' is missing"),
    ("text-classification", {"text": "a", "pair": "b"}, "found 'pair'"),
    ("text-classification", {"text": ["a"]}, "'text' must be a string, found list"),
    ("text-classification", {"text": "a", "text_pair": 7}, "'text_pair' must be a string, found int"),
    ("text-classification", "\ud800", "the text has half a surrogate pair"),
    ("text-classification", {"text": "a", "text_pair": "\ud800"}, "text_pair has half a surrogate pair"),
    ("fill-mask", None, "expected a string, found NoneType"),
    ("fill-mask", "no mask here", r"the text has no \[MASK\]"),
    ("question-answering", "text", "expected an object with 'question' and 'context', found str"),
    ("question-answering", {"question": "a"}, "'context' is missing"),
    ("question-answering", {"question": "", "context": "a"}, "'question' is empty"),
    ("question-answering", {"question": "a", "context": ""}, "'context' is empty"),
    (
        "question-answering",
        {"question": LONG, "context": "a"},
        "max_seq_len=64 leaves 0 tokens for the context, .* and doc_stride=32 must be less; raise max_seq_len, lower "
        "doc_stride or shorten the question",
    ),
    ("question-answering", {"question": "a", "context": "b \ud800"}, "context has half a surrogate pair"),
    ("token-classification", ["a"], "expected a string, found list"),
    ("feature-extraction", {"text": "a"}, "expected a string, found dict"),
    ("sentence-similarity", {"source_sentence": "a", "sentences": []}, "at least one string"),
    ("sentence-similarity", {"source_sentence": "a", "sentences": ["a", 1]}, r"sentences\[1\]' must be a string"),
    ("sentence-similarity", {"source_sentence": 1, "sentences": ["a"]}, "'source_sentence' must be a string"),
    ("zero-shot-classification", "", "the text is empty"),
    ("multiple-choice", "text", "expected an object with 'prompt' and 'choices', found str"),
    ("multiple-choice", {"prompt": "a"}, "'choices' is missing"),
    ("multiple-choice", {"prompt": 1, "choices": ["a"]}, "'prompt' must be a string, found int"),
    ("multiple-choice", {"prompt": "a", "choices": []}, "at least one string"),
    ("multiple-choice", {"prompt": "a", "choices": "b"}, "'choices' must be a list of at least one string, found 'b'"),
    ("multiple-choice", {"prompt": "a", "choices": ["b", None]}, r"choices\[1\]' must be a string, found NoneType"),
]


@pytest.mark.parametrize(("task", "bad", "message"), BAD_INPUTS, ids=[f"{case[0]}-{case[2]}" for case in BAD_INPUTS])
def test_a_bad_input_is_named_and_spares_the_others(folder_of: Folders, task: str, bad: Any, message: str) -> None:
    folder, params, good = folder_for(task, folder_of), PARAMS.get(task, {}), INPUTS[task][:2]
    inputs = [good[0], bad, good[1], bad]
    with pytest.raises(InvalidInput, match=f"^input 1: .*{message}"):
        ours(folder, task, inputs, params)
    first, error, second, _ = ours(folder, task, inputs, params, return_errors=True)
    assert isinstance(error, InvalidInput)
    assert not str(error).startswith("input")
    assert_same([first, second], ours(folder, task, good, params), 1e-6)


@pytest.mark.parametrize(
    "task", ["text-classification", "fill-mask", "feature-extraction", "sentence-similarity", "multiple-choice"]
)
def test_too_long_a_text_is_refused_unless_cut(folder_of: Folders, task: str) -> None:
    folder, text = folder_for(task, folder_of), f"[MASK] {LONG}"
    longs: dict[str, Any] = {
        "sentence-similarity": {"source_sentence": "a", "sentences": ["a", text]},
        "multiple-choice": {"prompt": "a", "choices": ["a", text]},
    }
    inputs = [INPUTS[task][0], longs.get(task, text)]
    with pytest.raises(TooLong, match=r"^input 1: the text has at least \d+ tokens, .* at most 64; ask for truncation"):
        ours(folder, task, inputs)
    for params in ({"truncation": True}, {"max_length": 12}):
        assert len(ours(folder, task, inputs, params)) == 2


def test_a_token_that_the_model_does_not_know_is_its_inputs_fault(folder_of: Folders) -> None:
    folder = folder_of("DistilBertModel", vocab_size=20_000)
    assert isinstance(ours(folder, "feature-extraction", ["a", "☃"], return_errors=True)[0], list)
    with pytest.raises(InvalidInput, match=r"^input 1: the text has token .* this model knows 0 to 19999"):
        ours(folder, "feature-extraction", ["a", "weltanschauung 東"])


BAD_PARAMS = [
    ("text-classification", {"topk": 1}, "has no parameter 'topk'; it has top_k, function_to_apply"),
    ("text-classification", {"top_k": 0}, "top_k must be an integer of at least 1 or '' or None, found 0"),
    ("text-classification", {"top_k": True}, "found True"),
    ("text-classification", {"function_to_apply": "tanh"}, "None or 'sigmoid' or 'softmax' or 'none', found 'tanh'"),
    ("text-classification", {"truncation": 1}, "truncation must be None or False or True or .*, found 1"),
    ("text-classification", {"max_length": 65}, "max_length must be at most 64"),
    ("fill-mask", {"targets": "weltanschauung"}, "'weltanschauung' is no token of this model, which splits it into 'w"),
    ("fill-mask", {"targets": []}, r"a token or a list of at most 32768 tokens, found \[\]"),
    ("question-answering", {"max_seq_len": 65}, "max_seq_len must be at most 64"),
    (
        "question-answering",
        {"doc_stride": 60},
        "doc_stride must be at most 59, less than the 60 tokens of a context in max_seq_len=64",
    ),
    ("question-answering", {"max_seq_len": 4}, "max_seq_len=4 has no room for a question and a context; raise it"),
    ("question-answering", {"max_answer_len": 0}, "at least 1"),
    ("token-classification", {"aggregation_strategy": "last"}, "found 'last'"),
    ("token-classification", {"stride": 3}, "stride needs an aggregation_strategy"),
    (
        "token-classification",
        {"stride": 62, "aggregation_strategy": "max"},
        "stride must be at most 61, less than",
    ),
    ("token-classification", {"ignore_labels": "O"}, "a list of at most 32768 labels"),
    ("feature-extraction", {"pooling": "median"}, "None or 'sentence' or 'mean' or .*, found 'median'"),
    ("zero-shot-classification", {"candidate_labels": []}, "labels in a list"),
    ("zero-shot-classification", {"candidate_labels": None}, "found None"),
    ("zero-shot-classification", {"candidate_labels": "a", "hypothesis_template": "It is."}, "a text with {}"),
    ("zero-shot-classification", {"candidate_labels": "a", "hypothesis_template": "{b}"}, "a text with {}"),
]


@pytest.mark.parametrize(("task", "params", "message"), BAD_PARAMS, ids=[f"{case[0]}-{case[1]}" for case in BAD_PARAMS])
def test_a_bad_parameter_is_refused_before_any_input(folder_of: Folders, task: str, params: Any, message: str) -> None:
    folder = folder_for(task, folder_of)
    model = model_of(folder, find(task).architecture)
    with pytest.raises(ValueError, match=message):
        run(model, task_of(folder, task), [], params, return_errors=True)


def test_a_label_that_is_too_long_is_said_in_the_task_s_words(folder_of: Folders) -> None:
    folder, task = folder_for("zero-shot-classification", folder_of), "zero-shot-classification"
    with pytest.raises(InvalidInput, match=r"^input 0: .*; shorten the labels or hypothesis_template"):
        ours(folder, task, ["a"], {"candidate_labels": [LONG]})


def test_short_windows_of_a_context_share_what_a_question_leaves(folder_of: Folders) -> None:
    folder = folder_for("question-answering", folder_of)
    for most in (5, 6, 7, 8):
        assert ours(folder, "question-answering", [{"question": "a", "context": LONG}], {"max_seq_len": most})


def test_null_stands_for_a_parameter_that_is_not_given(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForTokenClassification", id2label=BIO)
    params = {"aggregation_strategy": None, "ignore_labels": None, "stride": None}
    assert ours(folder, "ner", TEXTS, params) == ours(folder, "ner", TEXTS)

"""`distilrt.pipeline` against transformers' of the same task: forms of inputs and answers, parameters, refusals."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.pipelines.text_classification import ClassificationFunction
from transformers.pipelines.token_classification import AggregationStrategy
from transformers.tokenization_utils_base import TruncationStrategy

import distilrt
from distilrt import tasks
from distilrt.errors import InvalidInput
from distilrt.pipelines import Pipeline, pipeline
from tests.golden import make_question_answering as golden

Folders = Callable[..., Path]
TEXTS = ["Ada Lovelace wrote programs in London.", "ok", "The snowman ☃ of Zürich isn't well-known.", ""]
BIO = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
MASKED = ["The capital is [MASK].", "[MASK] and [MASK] met.", "Ünïcode [MASK]?"]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "text-classification": ("DistilBertForSequenceClassification", {"num_labels": 3}),
    "fill-mask": ("DistilBertForMaskedLM", {}),
    "question-answering": ("DistilBertForQuestionAnswering", {}),
    "token-classification": ("DistilBertForTokenClassification", {"id2label": BIO}),
    "feature-extraction": ("DistilBertModel", {}),
    "sentence-similarity": ("DistilBertModel", {}),
    "zero-shot-classification": ("DistilBertForSequenceClassification", {"id2label": NLI}),
    "multiple-choice": ("DistilBertForMultipleChoice", {}),
}
INPUTS: dict[str, list[Any]] = {
    "text-classification": [*TEXTS, {"text": TEXTS[0], "text_pair": TEXTS[1]}],
    "fill-mask": MASKED,
    "question-answering": [{"question": "Who?", "context": TEXTS[0]}, {"question": "Why?", "context": TEXTS[2]}],
    "token-classification": TEXTS[:3],
    "feature-extraction": TEXTS,
    "sentence-similarity": [{"source_sentence": "a", "sentences": ["a", "b c"]}],
    "zero-shot-classification": TEXTS[:3],
    "multiple-choice": [{"prompt": TEXTS[0], "choices": ["a", "b c"]}, {"prompt": "a", "choices": TEXTS[:3]}],
}
LABELS = {"candidate_labels": ["sport", "politics"]}
IN_TRANSFORMERS = [
    task for task in MODELS if task not in ("question-answering", "sentence-similarity", "multiple-choice")
]


def params_of(task: str) -> dict[str, Any]:
    """What a call must give."""
    return LABELS if task == "zero-shot-classification" else {}


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, float | np.floating):
        assert ours == pytest.approx(float(theirs), abs=1e-4)
    else:
        assert ours == theirs


@pytest.fixture
def pipes(folder_of: Folders) -> Callable[[str], tuple[Pipeline, Any]]:
    """Our pipeline and transformers' of a task, the latter None where there is none."""

    def make(task: str, **params: Any) -> tuple[Pipeline, Any]:
        architecture, changes = MODELS[task]
        folder = folder_of(architecture, **changes)
        theirs = None
        if task in IN_TRANSFORMERS:
            theirs = transformers.pipeline(task, model=str(folder), device="cpu", **params)  # type: ignore[call-overload]
        return pipeline(task, folder, **params), theirs

    return make


@pytest.mark.parametrize("task", IN_TRANSFORMERS)
def test_forms_of_inputs(pipes: Any, task: str) -> None:
    ours, theirs = pipes(task)
    inputs, params = INPUTS[task], params_of(task)
    expected = theirs(inputs, **params)
    assert_same(ours(inputs, **params), expected)
    assert_same(ours(tuple(inputs), **params), expected)
    assert_same(ours(inputs=inputs, **params), expected)
    assert_same(ours(inputs[:1], **params), theirs(inputs[:1], **params))
    for item in inputs[:2] + inputs[-1:]:
        assert_same(ours(item, **params), theirs(item, **params))
    assert_same(list(ours((item for item in inputs), **params)), list(theirs((item for item in inputs), **params)))
    assert ours([], **params) == []


class _Rows(torch.utils.data.Dataset[Any]):
    """A dataset as torch has it: items by number, and no `__iter__`."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index % len(self.rows)]  # hence never an IndexError


@pytest.mark.parametrize("task", list(MODELS))
def test_datasets_and_batches(pipes: Any, task: str) -> None:
    ours, _ = pipes(task)
    inputs, params = INPUTS[task] * 3, params_of(task)
    expected = [
        ours([item], return_tensors=False)[0] if task == "feature-extraction" else ours(item, **params)
        for item in inputs
    ]
    if task == "text-classification":
        expected = [answer[0] if isinstance(answer, list) else answer for answer in expected]
    assert_same(list(ours(_Rows(inputs), **params)), expected)
    for batch_size in (1, 2, 100):
        assert_same(ours(inputs, batch_size=batch_size, **params), expected)
    with pytest.raises(ValueError, match="batch_size must be None or an integer of at least 1, found 0"):
        ours(inputs, batch_size=0, **params)


def test_batch_size_bounds_a_batch(pipes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pipes("text-classification")
    sizes = []
    answer = ours.model.backend.answer

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(ours.model.backend, name)

        def answer(self, batch: Any, *arguments: Any) -> Any:
            sizes.append(batch.num_seqs)
            return answer(batch, *arguments)

    class Model:
        config, architecture, backend = ours.model.config, ours.model.architecture, Watched()

    pipe = Pipeline(tasks.find(ours.task), Model(), ours.tokenizer, {}, batch_size=3)
    assert len(pipe(["a"] * 10)) == 10
    assert sizes == [3, 3, 3, 1]
    assert len(pipe(["a"] * 10, batch_size=8)) == 10
    assert sizes[4:] == [8, 2]


def test_inputs_are_read_as_answers_are_taken(folder_of: Folders) -> None:
    pipe = pipeline("text-classification", folder_of("DistilBertForSequenceClassification"), max_tokens=16)
    taken = itertools.count()

    def endless() -> Iterator[str]:
        while True:
            next(taken)
            yield "a"

    answers = pipe(endless())
    for _ in range(100):
        next(answers)
    assert next(taken) <= 128


@pytest.mark.parametrize(
    ("task", "params"),
    [
        ("text-classification", {"top_k": None}),
        ("text-classification", {"top_k": 1}),
        ("text-classification", {"top_k": 2, "function_to_apply": "sigmoid"}),
        ("text-classification", {"truncation": True, "max_length": 6, "padding": "max_length"}),
        ("fill-mask", {"top_k": 2}),
        ("fill-mask", {"targets": ["paris", "london"]}),
        ("fill-mask", {"tokenizer_kwargs": {"truncation": True, "max_length": 9}}),
        ("token-classification", {"aggregation_strategy": "max", "ignore_labels": []}),
        ("token-classification", {"aggregation_strategy": "simple", "stride": 2}),
        ("feature-extraction", {"truncation": True}),
        ("feature-extraction", {"tokenize_kwargs": {"truncation": True, "max_length": 5}}),
        ("zero-shot-classification", {"hypothesis_template": "It is {}.", "multi_label": True}),
        ("text-classification", {"function_to_apply": "SIGMOID"}),
        ("text-classification", {"function_to_apply": ClassificationFunction.NONE}),
        ("text-classification", {"truncation": TruncationStrategy.LONGEST_FIRST, "max_length": 4}),
        ("text-classification", {"truncation": False, "max_length": 4}),
        ("text-classification", {"return_token_type_ids": False, "padding_side": "left"}),
        ("fill-mask", {"targets": ["Paris", "LONDON", "paris"], "top_k": 3}),
        ("fill-mask", {"tokenizer_kwargs": {"add_special_tokens": False}}),
        ("token-classification", {"aggregation_strategy": "FIRST"}),
        ("token-classification", {"aggregation_strategy": AggregationStrategy.SIMPLE, "ignore_labels": {"B-PER"}}),
        ("zero-shot-classification", {"truncation": True, "tokenizer_kwargs": {"padding": True}}),
    ],
    ids=str,
)
def test_parameters(pipes: Any, task: str, params: dict[str, Any]) -> None:
    inputs = INPUTS[task]
    ours, theirs = pipes(task)
    assert_same(ours(inputs, **params, **params_of(task)), theirs(inputs, **params, **params_of(task)))
    assert_same(ours(inputs[0], **params, **params_of(task)), theirs(inputs[0], **params, **params_of(task)))
    ours, theirs = pipes(task, **params)
    assert_same(ours(inputs[0], **params_of(task)), theirs(inputs[0], **params_of(task)))
    if task == "text-classification" and "top_k" in params:
        assert_same(ours(inputs[0], top_k=3), theirs(inputs[0], top_k=3))


def test_pairs_of_texts(pipes: Any) -> None:
    ours, theirs = pipes("text-classification")
    pair = {"text": "Ada wrote", "text_pair": "programs"}
    right = theirs(pair)
    assert_same(ours([[["Ada wrote", "programs"]]]), theirs([[["Ada wrote", "programs"]]]))
    assert_same(ours(("Ada wrote", "programs")), right)
    assert_same(ours([("Ada wrote", "programs")] * 2), [right, right])
    assert_same(list(ours(iter([("Ada wrote", "programs")]))), [right])
    for bad in ([["Ada wrote", "programs"]], [("a", "b", "c")], [[["a"]]]):
        with pytest.raises(InvalidInput, match="input 0: "):
            ours(bad)


def test_texts_without_special_tokens(pipes: Any) -> None:
    ours, theirs = pipes("text-classification")
    assert_same(ours(TEXTS[:3], add_special_tokens=False), theirs(TEXTS[:3], add_special_tokens=False))
    with pytest.raises(InvalidInput, match="input 1: the text has no tokens"):
        ours(["a", ""], add_special_tokens=False)
    ours, theirs = pipes("feature-extraction")
    params = {"tokenize_kwargs": {"add_special_tokens": False}}
    assert_same(ours(TEXTS[0], **params), theirs(TEXTS[0], **params))


@pytest.mark.parametrize("device", ["cpu", -1, torch.device("cpu")])
def test_what_callers_of_transformers_pass_and_read(folder_of: Folders, device: Any, tmp_path: Path) -> None:
    folder = folder_of("DistilBertForSequenceClassification", num_labels=3)
    ours = pipeline(
        "text-classification",
        folder,
        device=device,
        torch_dtype=torch.float32,
        num_workers=0,
        framework="pt",
        use_fast=True,
        trust_remote_code=False,
        model_kwargs={},
    )
    theirs = transformers.pipeline("text-classification", model=str(folder), device=device)
    assert (ours.task, ours.device, ours.dtype) == (theirs.task, str(theirs.device), "float32")
    assert_same(ours.predict(TEXTS), theirs(TEXTS))
    assert_same(ours.transform(TEXTS), theirs(TEXTS))
    assert_same(pipeline("text-classification", ours.model, ours.tokenizer, device_map="cpu")("a"), theirs("a"))
    ours.save_pretrained(tmp_path)
    assert_same(pipeline("text-classification", tmp_path, device="cpu", device_map="auto")(TEXTS), theirs(TEXTS))


def test_zero_shot_texts_by_the_name_of_transformers(pipes: Any) -> None:
    ours, theirs = pipes("zero-shot-classification")
    assert_same(ours(sequences=TEXTS[0], **LABELS), theirs(sequences=TEXTS[0], **LABELS))
    params = {**LABELS, "hypothesis_template": "{}: it is a {}"}  # each place is the label's
    answer = ours(TEXTS[0], **params)
    for label, score in zip(answer["labels"], answer["scores"], strict=True):
        [other] = (label_ for label_ in LABELS["candidate_labels"] if label_ != label)
        params = {"candidate_labels": [f"{label}: it is a {label}", f"{other}: it is a {other}"]}
        right = theirs(TEXTS[0], **params, hypothesis_template="{}")
        assert right["scores"][right["labels"].index(f"{label}: it is a {label}")] == pytest.approx(score, abs=1e-4)
    for bad in ("no place", "{0}", "{:>100000000}", "{0.x}"):
        with pytest.raises(ValueError, match=r"a text with \{\} in the label's place"):
            ours(TEXTS[0], **LABELS, hypothesis_template=bad)


WORDS = ["Ada", "Lovelace", "wrote", "hyperparameterizations", "in", "Zürich", "☃"]


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("more", [{}, {"delimiter": "--"}], ids=str)
def test_words_of_a_text(pipes: Any, strategy: str, more: dict[str, Any]) -> None:
    ours, theirs = pipes("token-classification")
    params = {"aggregation_strategy": strategy, "ignore_labels": [], "is_split_into_words": True, **more}
    for inputs in (WORDS, [WORDS], [WORDS, WORDS[:3]]):
        assert_same(ours(inputs, **params), theirs(inputs, **params))
    with pytest.raises(InvalidInput, match="expected a list of words, found 'a'"):
        ours("a", **params)
    with pytest.raises(ValueError, match="delimiter must be a string"):
        ours(WORDS, **params | {"delimiter": 1})


def test_feature_extraction_returns_tensors(pipes: Any) -> None:
    ours, theirs = pipes("feature-extraction")
    found, expected = ours(TEXTS[0], return_tensors=True), theirs(TEXTS[0], return_tensors=True)
    assert torch.allclose(found, expected, atol=1e-4)
    for items in (TEXTS[:2], iter(TEXTS[:2])):
        assert [tensor.shape for tensor in ours(items, return_tensors=True)] == [
            tensor.shape for tensor in theirs(TEXTS[:2], return_tensors=True)
        ]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("reader")
    golden.write_model(folder)
    return pipeline("question-answering", folder)


CASES = json.loads(golden.ANSWERS.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['context']}-{case['params']}")
def test_question_answering_is_that_of_transformers_4(reader: Pipeline, case: dict[str, Any]) -> None:
    listed = case["answers"] if isinstance(case["answers"], list) else [case["answers"]]
    # transformers fills up with impossible answers where more are asked for than there are.
    expected = [answer for answer in listed if answer["score"] > 0]
    found = reader(question=golden.QUESTION, context=golden.CONTEXTS[case["context"]], **case["params"])
    assert_same(found if isinstance(found, list) else [found], expected)


def test_ways_to_ask(reader: Any) -> None:
    one, other = ({"question": golden.QUESTION, "context": golden.CONTEXTS[name]} for name in ("short", "pieces"))
    first, second = reader(one), reader(other)
    assert isinstance(first, dict)
    assert reader(**one) == reader(one["question"], one["context"]) == reader([one]) == first
    assert reader([one, other]) == list(reader(iter([one, other]))) == [first, second]
    assert reader(question=[one["question"]] * 2, context=[one["context"], other["context"]]) == [first, second]
    assert reader(question=[one["question"]] * 2, context=one["context"]) == [first, first]
    with pytest.raises(ValueError, match="there are 1 questions but 2 contexts"):
        reader(question=["a"], context=["b", "c"])
    with pytest.raises(TypeError, match="inputs as one positional argument, found 0"):
        reader(question="a")


def test_labels_may_come_second(pipes: Any) -> None:
    ours, theirs = pipes("zero-shot-classification")
    labels = LABELS["candidate_labels"]
    assert_same(ours(TEXTS[0], labels), theirs(TEXTS[0], labels))
    assert_same(ours(TEXTS[0], "sport, politics"), theirs(TEXTS[0], "sport, politics"))
    with pytest.raises(ValueError, match="candidate_labels must be labels in a list"):
        ours(TEXTS[0])


def test_sentence_similarity_pools_as_the_checkpoint_says(sentence_encoder: Path) -> None:
    request = {"source_sentence": "The cat sat on the mat.", "sentences": ["A feline rested on a rug."]}
    assert pipeline("sentence-similarity", sentence_encoder)(request) == pytest.approx([0.5530], abs=1e-4)


def test_of_loaded_models(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForSequenceClassification")
    model = distilrt.DistilBertForSequenceClassification.from_pretrained(folder)
    tokenizer = distilrt.DistilBertTokenizer.from_pretrained(folder)
    expected = distilrt.pipeline("sentiment-analysis", str(folder))(TEXTS)
    assert distilrt.pipeline("text-classification", model, tokenizer)(TEXTS) == expected
    assert distilrt.pipeline("text-classification", model, folder)(TEXTS) == expected
    assert distilrt.pipeline("text-classification", folder, tokenizer, dtype=torch.float32)(TEXTS) == expected
    assert "text-classification" in repr(distilrt.pipeline("text-classification", model, tokenizer, top_k=2))


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"task": "summarization"}, ValueError, "task must be one of text-classification"),
    ({"model": 7}, TypeError, "a folder, a hub id or a model of distilrt, found int; .* distilrt.accelerate"),
    ({"model": "./nowhere"}, OSError, "does not exist"),
    ({"tokenizer": 7}, TypeError, "tokenizer must be .* found int"),
    ({"topk": 3}, ValueError, "no parameter 'topk': it is called top_k"),
    ({"device": "meta"}, ValueError, "device must be 'cpu', -1, 'cuda' or .*, found 'meta'"),
    ({"device": "auto"}, ValueError, "device must be 'cpu', -1, 'cuda' or .*, found 'auto'"),
    ({"device_map": {"a": "cpu", "b": "cuda"}}, ValueError, "device must be .*, found 'cpu, cuda'"),
    ({"device": "cpu", "device_map": "cpu"}, ValueError, "one device"),
    ({"backend": "cpu", "device": "cuda:0"}, ValueError, "can't be moved to 'cuda:0'"),
    ({"model_kwargs": {"x": 1}}, ValueError, "pass them to from_pretrained"),
    ({"return_all_scores": True}, ValueError, "it is called top_k=None"),
    ({"top": 3}, ValueError, "no parameter 'top'; it has top_k, function_to_apply"),
    ({"top_k": 0}, ValueError, "top_k must be"),
    ({"max_tokens": 0}, ValueError, "max_tokens must be"),
    ({"batch_size": True}, ValueError, "batch_size must be"),
    ({"dtype": "float8"}, distilrt.errors.BackendError, "float8"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[str(case[0]) for case in BAD])
def test_refusals(folder_of: Folders, change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {"task": "text-classification", "model": folder_of("DistilBertForSequenceClassification")}
    with pytest.raises(error, match=message):
        pipeline(**good | change)


def test_refusals_of_a_call(folder_of: Folders) -> None:
    pipe = pipeline("text-classification", folder_of("DistilBertForSequenceClassification"))
    with pytest.raises(InvalidInput, match=r"^expected .*'text' is missing"):
        pipe({})
    with pytest.raises(InvalidInput, match=r"^input 1: expected a string"):
        pipe(["a", 7])
    with pytest.raises(TypeError, match="one input, a list of them or an iterable, found int"):
        pipe(7)
    with pytest.raises(ValueError, match="no parameter 'top'"):
        pipe("a", top=1)
    with pytest.raises(TypeError, match="found 2"):
        pipe("a", "b")
    model, tokenizer = pipe.model, pipe.tokenizer
    with pytest.raises(TypeError, match="fill-mask needs a DistilBertForMaskedLM"):
        pipeline("fill-mask", model, tokenizer)
    with pytest.raises(TypeError, match="with a loaded model it must be given"):
        pipeline("text-classification", model)
    with pytest.raises(TypeError, match="chosen when a model is loaded"):
        pipeline("text-classification", model, tokenizer, dtype="int8")
    with pytest.raises(ValueError, match="truncation is given twice, by itself and in tokenize_kwargs"):
        pipeline(
            "feature-extraction", folder_of("DistilBertModel"), truncation=True, tokenize_kwargs={"truncation": True}
        )


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(folder_of: Folders, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    import tqdm.std

    monkeypatch.setattr(tqdm.std.tqdm, "__init__", _without_delay(tqdm.std.tqdm.__init__))
    pipe = pipeline("text-classification", folder_of("DistilBertForSequenceClassification"))
    assert len(pipe(["a"] * 5)) == 5
    assert ("5/5" in stream.getvalue()) == terminal


def _without_delay(method: Any) -> Any:
    def shown_at_once(self: Any, *args: Any, **options: Any) -> None:
        method(self, *args, **options | {"delay": 0, "file": sys.stderr})

    return shown_at_once


def test_a_part_of_a_sentence_encoder_is_not_saved_for_the_whole(sentence_encoder: Path, tmp_path: Path) -> None:
    pipe = pipeline("feature-extraction", str(sentence_encoder), num_threads=1)
    with pytest.raises(TypeError, match="only a part of it; copy the folder or use"):
        pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())

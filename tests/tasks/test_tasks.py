"""Every task against transformers' pipeline of its name, and what all tasks share: order, batches and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt.errors import InvalidInput, TooLong
from distilrt.model import models
from distilrt.tasks import TASKS, Prepared, Task, compute, find, run
from distilrt.text.tokenizer import DistilBertTokenizer

TOLERANCE = 1e-4
MAX_LENGTH = 64  # of the folders
TEXTS = [
    "Ada Lovelace wrote programs for Charles Babbage's engine in London.",
    "Microsoft hired hyperparameterizations, a São Paulo start-up, for $3.5 billion on 24/7 terms!",
    "ok",
    "The snowman ☃ of Zürich isn't a well-known Weltanschauung in [UNK] 東京.",
]
LONG = " ".join(TEXTS * 4)
BIO = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC", 5: "MISC"}
NLI = {0: "ENTAILMENT", 1: "neutral", 2: "contradiction"}

Folders = Callable[..., Path]


@cache
def tokenizer_of(folder: Path) -> DistilBertTokenizer:
    return DistilBertTokenizer.from_pretrained(folder)


@cache
def model_of(folder: Path, architecture: str) -> Any:
    return getattr(models, architecture).from_pretrained(folder)


def ours(folder: Path, task: str, inputs: Any, params: Any = None, **options: Any) -> list[Any]:
    """The answers to a list of inputs."""
    model = model_of(folder, find(task).architecture)
    return list(run(model, task_of(folder, task), inputs, params, **options))


def task_of(folder: Path, name: str) -> Task:
    return find(name)(tokenizer_of(folder), model_of(folder, find(name).architecture).config)


def prepared_of(task: Task, item: Any, params: Any) -> Prepared:
    """One input that is taken."""
    [prepared] = task.prepare([item], task.settle(params))
    assert isinstance(prepared, Prepared)
    return prepared


@cache
def pipeline_of(folder: Path, task: str) -> Any:
    return transformers.pipeline(task, model=str(folder), device="cpu")  # type: ignore[call-overload]


def assert_same(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    """Equal keys, lengths, words and places; numbers within the tolerance; and nothing that JSON does not know."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            assert_same(ours[key], value, tolerance)
    elif isinstance(theirs, list | tuple):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other, tolerance)
    elif isinstance(theirs, float | np.floating):
        assert type(ours) is float
        assert abs(ours - theirs) <= tolerance
    else:
        assert (type(ours), ours) == (type(theirs), theirs)


HEADS = [
    {"id2label": {"0": "NEGATIVE", "1": "POSITIVE", "2": "MIXED"}},
    {"num_labels": 1},
    {"num_labels": 1, "problem_type": "regression"},
    {"num_labels": 3, "problem_type": "multi_label_classification"},
]
PAIRED = [*TEXTS, "", {"text": TEXTS[0]}, {"text": TEXTS[0], "text_pair": TEXTS[1]}, {"text": "a", "text_pair": ""}]


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize(
    "params", [{}, {"top_k": None}, {"top_k": 2}, {"top_k": 1}, {"function_to_apply": "sigmoid"},
               {"function_to_apply": "softmax", "top_k": 9}, {"function_to_apply": "none"}], ids=str,
)  # fmt: skip
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


MASKED = ["The capital is [MASK].", "[MASK] and [MASK] met in Paris, [PAD] said [MASK].", "Ünïcode [MASK]?"]


@pytest.mark.parametrize(
    "params",
    [{}, {"top_k": 2}, {"targets": ["paris", "london", "##s", "paris"]}, {"targets": "paris"},
     {"targets": ["a", "b", "c"], "top_k": 2}], ids=str,
)  # fmt: skip
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
        {"prompt": TEXTS[0], "choices": TEXTS}, {"prompt": "", "choices": ["a", "", "b c"]},
        {"prompt": TEXTS[3], "choices": ["only"]}, {"prompt": "a", "choices": tuple(TEXTS[:2])},
    ]  # fmt: skip
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
    folder: Path, question: str, context: str, *, top_k: int = 1, doc_stride: int = 32, max_seq_len: int = MAX_LENGTH,
    max_answer_len: int = 15, handle_impossible_answer: bool = False, align_to_words: bool = True,
) -> Any:  # fmt: skip
    """Question answering by its definition, span by span, from transformers' model and tokenizer."""
    model: Any = transformers.DistilBertForQuestionAnswering.from_pretrained(folder)
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(
        question, context, truncation="only_second", max_length=max_seq_len, stride=doc_stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
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
    [{}, {"top_k": 3}, {"top_k": 5, "align_to_words": False}, {"max_answer_len": 1}, {"max_answer_len": 500},
     {"max_seq_len": 30, "doc_stride": 7, "top_k": 4}, {"max_seq_len": 30, "doc_stride": 0}, {"max_seq_len": 24},
     {"handle_impossible_answer": True, "top_k": 40}], ids=str,
)  # fmt: skip
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


PARAMS: dict[str, Any] = {"zero-shot-classification": {"candidate_labels": ["a", "b"]}}
INPUTS: dict[str, list[Any]] = {
    "text-classification": [*TEXTS, {"text": "a", "text_pair": "b"}],
    "fill-mask": MASKED,
    "question-answering": [{"question": f"Who is {text}?", "context": LONG[:90]} for text in TEXTS],
    "token-classification": TEXTS,
    "feature-extraction": TEXTS,
    "sentence-similarity": [{"source_sentence": "a", "sentences": TEXTS}, {"source_sentence": "b", "sentences": ["a"]}],
    "zero-shot-classification": TEXTS,
    "sparse-embedding": [TEXTS[0], [101, 7592, 102]],
    "multiple-choice": [{"prompt": "a", "choices": TEXTS}, {"prompt": TEXTS[0], "choices": ["a", "b c"]}],
}


def folder_for(task: str, folder_of: Folders) -> Path:
    return folder_of(find(task).architecture, id2label=NLI)


def test_every_task_has_a_name_a_class_and_documented_parameters() -> None:
    assert set(INPUTS) | {"sentiment-analysis", "ner"} == set(TASKS)
    assert find("ner") is find("token-classification")
    assert find("sentiment-analysis") is find("text-classification")
    for task in TASKS.values():
        assert getattr(models, task.architecture).architecture == task.architecture
        assert all(param.about and param.allowed for param in task.params.values())
    with pytest.raises(ValueError, match=r"one of text-classification, .*found 'translation'"):
        find("translation")


@pytest.mark.parametrize("task", INPUTS)
@pytest.mark.parametrize("max_tokens", [1, 50, 100_000])
def test_answers_come_in_order_whatever_the_budget(folder_of: Folders, task: str, max_tokens: int) -> None:
    folder = folder_for(task, folder_of)
    inputs = [item for item in INPUTS[task] for _ in range(3)] + INPUTS[task][::-1]
    params = PARAMS.get(task, {})
    alone = [ours(folder, task, [item], params)[0] for item in inputs]
    answers = ours(folder, task, iter(inputs), params, max_tokens=max_tokens)
    assert_same(answers, alone, 1e-6)
    assert json.loads(json.dumps(answers)) == answers


class _Watched:
    """A model that remembers its batches."""

    def __init__(self, model: Any) -> None:
        self.config, self.architecture, self.backend = model.config, model.architecture, self
        self._backend, self.sizes = model.backend, []  # type: ignore[var-annotated]

    def answer(self, batch: Any, *arguments: Any) -> Any:
        self.sizes.append(np.diff(batch.cu_seqlens).tolist())
        return self._backend.answer(batch, *arguments)


def test_batches_are_full_and_unpadded(folder_of: Folders) -> None:
    folder = folder_of("DistilBertModel")
    task, model = task_of(folder, "feature-extraction"), _Watched(model_of(folder, "DistilBertModel"))
    lengths = np.random.default_rng(0).integers(3, MAX_LENGTH, 200).tolist()
    texts = [" ".join(["a"] * (length - 2)) for length in lengths]
    answers = list(run(model, task, texts, max_tokens=256))  # type: ignore[arg-type]
    assert [len(answer[0]) for answer in answers] == lengths
    assert sorted(length for batch in model.sizes for length in batch) == sorted(lengths)
    assert max(map(sum, model.sizes)) <= 256
    assert sum(lengths) / (256 * len(model.sizes)) > 0.9

    model.sizes.clear()
    assert len(list(run(model, task, texts[:9], max_tokens=1))) == 9  # type: ignore[arg-type]
    assert all(len(batch) == 1 for batch in model.sizes)


def test_inputs_are_read_as_answers_are_taken(folder_of: Folders) -> None:
    folder = folder_of("DistilBertModel")
    taken = count()

    def endless() -> Iterator[str]:
        while True:
            next(taken)
            yield "a"

    task = task_of(folder, "feature-extraction")
    answers = run(model_of(folder, "DistilBertModel"), task, endless(), max_tokens=16)
    for _ in range(100):
        next(answers)
    assert next(taken) <= 128
    assert ours(folder, "feature-extraction", []) == []


def test_one_batch_can_serve_two_tasks(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForSequenceClassification", id2label=NLI)
    model = model_of(folder, "DistilBertForSequenceClassification")
    tasks = [task_of(folder, "text-classification"), task_of(folder, "zero-shot-classification")]
    params: list[dict[str, Any]] = [{"top_k": None}, {"candidate_labels": ["a", "b"]}]
    prepared = [prepared_of(task, TEXTS[0], given) for task, given in zip(tasks, params, strict=True)]
    sequences, rows = [ids for one in prepared for ids in one.sequences], [row for one in prepared for row in one.rows]
    outputs = compute(model, sequences, rows)
    first, second = tasks[0].answer(prepared[0], outputs[:1]), tasks[1].answer(prepared[1], outputs[1:])
    assert_same([first], ours(folder, tasks[0].name, TEXTS[:1], params[0]), 1e-6)
    assert_same([second], ours(folder, tasks[1].name, TEXTS[:1], params[1]), 1e-6)


BAD_INPUTS = [
    ("text-classification", 7, "expected a string or an object with 'text' and perhaps 'text_pair', found int"),
    ("text-classification", {"text_pair": "a"}, "'text' is missing"),
    ("text-classification", {"text": "a", "pair": "b"}, "found 'pair'"),
    ("text-classification", {"text": ["a"]}, "'text' must be a string, found list"),
    ("text-classification", {"text": "a", "text_pair": 7}, "'text_pair' must be a string, found int"),
    ("text-classification", "\ud800", "half a surrogate pair"),
    ("fill-mask", None, "expected a string, found NoneType"),
    ("fill-mask", "no mask here", r"the text has no \[MASK\]"),
    ("question-answering", "text", "expected an object with 'question' and 'context', found str"),
    ("question-answering", {"question": "a"}, "'context' is missing"),
    ("question-answering", {"question": "", "context": "a"}, "'question' is empty"),
    ("question-answering", {"question": "a", "context": ""}, "'context' is empty"),
    ("question-answering", {"question": LONG, "context": "a"}, "cannot be encoded"),
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


@pytest.mark.parametrize("task", ["text-classification", "fill-mask", "feature-extraction", "sentence-similarity",
                                  "multiple-choice"])  # fmt: skip
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
    ("question-answering", {"doc_stride": 64}, "doc_stride must be at most 63, less than max_seq_len=64"),
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


def test_a_model_that_does_not_fit_is_refused(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForSequenceClassification", num_labels=3)
    with pytest.raises(ValueError, match=r"'entail'.* this one has LABEL_0, LABEL_1, LABEL_2"):
        ours(folder, "zero-shot-classification", ["a"], {"candidate_labels": "a,b"})
    model = model_of(folder, "DistilBertForSequenceClassification")
    with pytest.raises(TypeError, match="fill-mask needs a DistilBertForMaskedLM, found a DistilBertForSequence"):
        run(model, find("fill-mask")(tokenizer_of(folder), model.config), [])
    with pytest.raises(ValueError, match="max_tokens must be an integer of at least 1, found 0"):
        run(model, task_of(folder, "text-classification"), [], max_tokens=0)
    without_mask = DistilBertTokenizer.from_pretrained(folder, mask_token=None)
    with pytest.raises(ValueError, match="fill-mask needs a tokenizer with a mask token"):
        find("fill-mask")(without_mask, model.config).settle({})


def test_null_stands_for_a_parameter_that_is_not_given(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForTokenClassification", id2label=BIO)
    params = {"aggregation_strategy": None, "ignore_labels": None, "stride": None}
    assert ours(folder, "ner", TEXTS, params) == ours(folder, "ner", TEXTS)

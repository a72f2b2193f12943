"""How large a request is, before it is tokenized and before its windows are made."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from distilrt import DistilBertConfig, DistilBertTokenizer, tasks
from distilrt.errors import InvalidInput, TooLarge

VOCAB = {
    token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "who", "is", "it"])
}
ENTAILMENT = {0: "entailment", 1: "neutral", 2: "contradiction"}
QUESTION = {"question": "who is it", "context": "it is a b c " * 60}


def task_of(name: str, length: int = 512) -> tasks.Task:
    config = DistilBertConfig(vocab_size=len(VOCAB), id2label=ENTAILMENT)
    return tasks.find(name)(DistilBertTokenizer(VOCAB, model_max_length=length), config)


MADE = [  # task, inputs, parameters, texts, characters
    ("text-classification", ["abc", {"text": "ab", "text_pair": "c"}], {}, 2, 8),
    ("fill-mask", ["[MASK]"], {}, 1, 6),
    ("question-answering", [{"question": "ab", "context": "abcd"}], {}, 1, 8),
    ("token-classification", [["a", "bc"]], {"is_split_into_words": True}, 1, 5),
    ("feature-extraction", ["abc", [1, 2, 3, 4]], {"prompt": "p" * 10}, 2, 27),
    ("sentence-similarity", [{"source_sentence": "a", "sentences": ["b", "c"]}], {"prompt": "p" * 10}, 3, 37),
    ("zero-shot-classification", ["abc"], {"candidate_labels": ["x", "yz"], "hypothesis_template": "{} {}"}, 2, 26),
    ("zero-shot-classification", ["abc"], {"candidate_labels": "x,yz"}, 2, 49),
    ("multiple-choice", [{"prompt": "p" * 10, "choices": ["a", "b"]}], {}, 2, 24),
]


@pytest.mark.parametrize(("task", "inputs", "params", "texts", "characters"), MADE)
def test_size_counts_each_repetition(
    task: str, inputs: list[Any], params: dict[str, Any], texts: int, characters: int
) -> None:
    bound = task_of(task)
    sizes = [bound.size(item, bound.settle(params)) for item in inputs]
    assert (sum(size.texts for size in sizes), sum(size.characters for size in sizes)) == (texts, characters)


@pytest.mark.parametrize("task", [*tasks.TASKS, "outputs"])
@pytest.mark.parametrize("item", [None, 1, [], [[]], {}, {"prompt": 1, "choices": 2, "sentences": None}, [None, {}]])
def test_size_of_what_is_refused_later(task: str, item: object) -> None:
    bound = task_of(task)
    size = bound.size(item, bound.settle({"candidate_labels": "a"} if task.startswith("zero") else {}))
    assert size.texts >= 0
    assert size.characters >= 0


@pytest.mark.parametrize(
    ("task", "item", "params"),
    [
        ("question-answering", QUESTION, {"max_seq_len": 32, "doc_stride": 8}),
        ("token-classification", "a b c " * 60, {"stride": 9, "aggregation_strategy": "simple"}),
        (
            "token-classification",
            ["a", "b c"] * 60,
            {"stride": 9, "aggregation_strategy": "simple", "is_split_into_words": True},
        ),
    ],
)
def test_windows_are_counted_before_they_are_made(task: str, item: object, params: dict[str, Any]) -> None:
    found = task_of(task, 32)
    settled = found.settle(params)
    [prepared] = found.prepare([item], settled)
    assert isinstance(prepared, tasks.Prepared)
    tokens = 32 * len(prepared.sequences)
    assert tokens > 160
    [same] = found.prepare([item], settled, tokens)
    assert isinstance(same, tasks.Prepared)
    assert same.sequences == prepared.sequences
    with pytest.raises(TooLarge, match=f"windows of 32 tokens that share . make {2 * tokens} tokens"):
        found.prepare([item, item], settled, tokens - 1)


def test_windows_beyond_memory_are_refused() -> None:
    task = task_of("token-classification")
    params = task.settle({"stride": 509, "aggregation_strategy": "simple"})
    with pytest.raises(TooLarge, match="make 50971136 tokens"):
        task.prepare(["a " * 100_062], params, 32_768)


def test_errors_keep_no_texts_alive() -> None:
    class Text(str):
        """A text that can be watched."""

    task = task_of("text-classification")
    params = task.settle({})
    gc.collect()
    gc.disable()
    try:
        text = Text("a " * 600)
        watched = weakref.ref(text)
        _, error = task.prepare([text, 3], params)
        assert isinstance(error, InvalidInput)
        del text, _
        assert watched() is None
    finally:
        gc.enable()


def test_a_token_beyond_the_vocabulary_of_the_model_is_refused(tiny: Callable[..., DistilBertConfig]) -> None:
    """Before it shares a batch with others, however few tokens the tokenizer has."""
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = DistilBertTokenizer({name: index for index, name in enumerate(names)} | {"a": 1000})
    task = tasks.find("text-classification")(tokenizer, tiny())
    _, error = task.prepare(["b", "a"], task.settle({}))
    assert str(error) == "the text has token 1000, this model knows 0 to 100; use the model's own tokenizer"

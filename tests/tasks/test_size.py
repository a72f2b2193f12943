"""How large a request is, before it is tokenized and before its windows are made."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from distilrt import DistilBertConfig, DistilBertTokenizer, tasks
from distilrt.errors import InvalidInput, TooLarge

VOCAB = {
    token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "who", "is", "it"])
}
QUESTION = {"question": "who is it", "context": "it is a b c " * 60}
MADE = [  # task, inputs, parameters, texts, characters
    ("text-classification", ["abc", {"text": "ab", "text_pair": "c"}], {}, 2, 8),
    ("fill-mask", ["[MASK]"], {}, 1, 6),
    ("question-answering", [{"question": "ab", "context": "abcd"}], {}, 1, 8),
    ("token-classification", [["a", "bc"]], {"is_split_into_words": True}, 1, 5),
    ("feature-extraction", ["abc", [1, 2, 3, 4]], {"prompt": "p" * 10}, 2, 27),
    ("sentence-similarity", [{"source_sentence": "a", "sentences": ["b", "c"]}], {"prompt": "p" * 10}, 3, 37),
    ("zero-shot-classification", ["abc"], {"candidate_labels": ["x", "yz"], "hypothesis_template": "{} {}"}, 2, 26),
    ("zero-shot-classification", ["abc"], {"candidate_labels": "x,yz"}, 2, 48),
    ("multiple-choice", [{"prompt": "p" * 10, "choices": ["a", "b"]}], {}, 2, 24),
]


@pytest.mark.parametrize(("task", "inputs", "params", "texts", "characters"), MADE)
def test_size_counts_each_repetition(
    task: str, inputs: list[Any], params: dict[str, Any], texts: int, characters: int
) -> None:
    assert tasks.find(task).size(inputs, params) == (texts, characters)


@pytest.mark.parametrize("task", [*tasks.TASKS, "outputs"])
@pytest.mark.parametrize("item", [None, 1, [], [[]], {}, {"prompt": 1, "choices": 2, "sentences": None}, [None, {}]])
def test_size_of_what_is_refused_later(task: str, item: object) -> None:
    params = {"prompt": 1, "candidate_labels": 2, "hypothesis_template": []}
    size = tasks.find(task).size([item], params)
    assert size.texts >= 0
    assert size.characters >= 0


@pytest.mark.parametrize(
    ("task", "item", "params"),
    [
        ("question-answering", QUESTION, {"max_seq_len": 32, "doc_stride": 8}),
        ("token-classification", "a b c " * 60, {"stride": 9, "aggregation_strategy": "simple"}),
        ("token-classification", ["a", "b c"] * 60,
         {"stride": 9, "aggregation_strategy": "simple", "is_split_into_words": True}),
    ],
)  # fmt: skip
def test_windows_are_counted_before_they_are_made(task: str, item: object, params: dict[str, Any]) -> None:
    found, config = tasks.find(task), DistilBertConfig(vocab_size=len(VOCAB), max_position_embeddings=64)
    tokenizer = DistilBertTokenizer(VOCAB, model_max_length=32)
    [prepared] = found.prepare(tokenizer, config, [item], params)
    tokens = 32 * len(prepared.sequences)
    assert tokens > 160
    [same] = found.prepare(tokenizer, config, [item], params, tokens)
    assert same.sequences == prepared.sequences
    with pytest.raises(TooLarge, match=f"windows of 32 tokens that share . make {2 * tokens} tokens"):
        found.prepare(tokenizer, config, [item, item], params, tokens - 1)


def test_windows_beyond_memory_are_refused() -> None:
    tokenizer = DistilBertTokenizer(VOCAB, model_max_length=512)
    params = {"stride": 509, "aggregation_strategy": "simple"}
    with pytest.raises(TooLarge, match="make 50971136 tokens"):
        tasks.find("token-classification").prepare(
            tokenizer, DistilBertConfig(vocab_size=len(VOCAB)), ["a " * 100_062], params, 32_768
        )


def test_tokens_beyond_the_limit_are_refused_and_no_text_is_blamed() -> None:
    tokenizer, config = DistilBertTokenizer(VOCAB, model_max_length=32), DistilBertConfig(vocab_size=len(VOCAB))
    task = tasks.find("text-classification")
    assert len(task.prepare(tokenizer, config, ["a b", "c"], {}, 7)) == 2
    with pytest.raises(TooLarge, match=r"^the texts have 7 tokens, at most 6"):
        task.prepare(tokenizer, config, ["a b", "c"], {}, 6)
    with pytest.raises(InvalidInput, match=r"^input 1: expected a string"):
        task.prepare(tokenizer, config, ["a b", 3, "c"], {}, 7)


def test_errors_keep_no_texts_alive() -> None:
    class Text(str):
        """A text that can be watched."""

    tokenizer, config = DistilBertTokenizer(VOCAB), DistilBertConfig(vocab_size=len(VOCAB))
    gc.collect()
    gc.disable()
    try:
        text = Text("a " * 600)
        watched = weakref.ref(text)
        with suppress(InvalidInput):
            tasks.find("text-classification").prepare(tokenizer, config, [text, 3], {})
        del text
        assert watched() is None
    finally:
        gc.enable()


def test_a_token_beyond_the_vocabulary_of_the_model_is_refused(tiny: Callable[..., DistilBertConfig]) -> None:
    """Before it shares a batch with others, however few tokens the tokenizer has."""
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = DistilBertTokenizer({name: index for index, name in enumerate(names)} | {"a": 1000})
    with pytest.raises(InvalidInput, match="input 1: the text has token 1000, this model knows 0 to 100"):
        tasks.find("text-classification").prepare(tokenizer, tiny(), ["b", "a"], {})

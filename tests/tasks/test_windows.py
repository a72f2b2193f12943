"""Texts longer than the model, read in windows: what is made of their rows, prompts, and what is refused."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilrt.errors import InvalidInput, InvalidParameter, TooLarge, TooLong
from distilrt.model.functional import softmax
from distilrt.model.sentence_vectors import Normalize, SentenceVectors
from distilrt.runtime.engine import Engine
from distilrt.tasks import Prepared, find
from distilrt.text.tokenizer import DistilBertTokenizer
from tests.tasks.task_calls import LONG, MAX_LENGTH, TEXTS, Folders, model_of, ours, prepared_of, task_of, tokenizer_of

CLASSIFIER = "DistilBertForSequenceClassification"
WINDOWS: dict[str, Any] = {"truncation": "windows"}


def windows_of(folder: Path, text: str, pair: str | None = None, **options: Any) -> list[list[int]]:
    """The token ids of a text's windows by the tokenizer alone, of a pair with its second text in windows."""
    options = {"max_length": MAX_LENGTH, "truncation": "only_second" if pair else True} | options
    encoded = tokenizer_of(folder)([text], None if pair is None else [pair], return_overflowing_tokens=True, **options)
    return list(encoded["input_ids"])


def logits_of(folder: Path, windows: list[list[int]]) -> Any:
    model = model_of(folder, CLASSIFIER)
    return np.concatenate([model([ids]).logits for ids in windows])


@pytest.mark.parametrize("stride", [0, 13])
@pytest.mark.parametrize("merge", ["mean", "max"])
def test_logits_of_windows_become_one(folder_of: Folders, stride: int, merge: str) -> None:
    folder = folder_of(CLASSIFIER, id2label={0: "a", 1: "b", 2: "c"})
    logits = logits_of(folder, windows_of(folder, LONG, stride=stride))
    assert len(logits) > 3
    scores = softmax(getattr(logits, merge)(axis=0))
    params = {**WINDOWS, "stride": stride, "windows": merge, "top_k": None}
    [found] = ours(folder, "text-classification", [LONG], params)
    assert [item["label"] for item in found] == ["abc"[i] for i in np.argsort(-scores, kind="stable")]
    np.testing.assert_allclose([item["score"] for item in found], np.sort(scores)[::-1], atol=1e-6)


def test_each_windows_labels_and_place(folder_of: Folders) -> None:
    folder = folder_of(CLASSIFIER, id2label={0: "a", 1: "b", 2: "c"})
    params = {**WINDOWS, "stride": 5, "max_length": 32, "return_windows": True}
    [found] = ours(folder, "text-classification", [LONG], params)
    plain = ours(folder, "text-classification", [LONG], params | {"return_windows": False})
    assert found["labels"] == plain[0]
    windows = windows_of(folder, LONG, max_length=32, stride=5)
    scores = softmax(logits_of(folder, windows))
    assert [item["labels"]["label"] for item in found["windows"]] == ["abc"[i] for i in scores.argmax(axis=1)]
    np.testing.assert_allclose([item["labels"]["score"] for item in found["windows"]], scores.max(axis=1), atol=1e-6)
    assert found["windows"][0]["start"] == 0
    assert found["windows"][-1]["end"] == len(LONG)
    assert all(one["start"] < other["start"] < one["end"] < other["end"] for one, other in pairwise(found["windows"]))
    for item, ids in zip(found["windows"], windows, strict=True):
        part = tokenizer_of(folder)(LONG[item["start"] : item["end"]])["input_ids"]
        assert len(part) in range(len(ids), len(ids) + 4)  # a window may begin within a word


@pytest.mark.parametrize("text", ["", "ok", *TEXTS[:2]])
def test_short_texts_have_the_answers_that_they_had(folder_of: Folders, text: str) -> None:
    folder = folder_of(CLASSIFIER)
    for top_k in ("", None):
        plain = ours(folder, "text-classification", [text], {"top_k": top_k})
        assert ours(folder, "text-classification", [text], {**WINDOWS, "top_k": top_k}) == plain
        assert ours(folder, "text-classification", [text], {**WINDOWS, "top_k": top_k, "windows": "max"}) == plain
    [found] = ours(folder, "text-classification", [text], {**WINDOWS, "return_windows": True})
    assert found["windows"] == [{"start": 0, "end": len(text), "labels": found["labels"]}]


def test_pairs_have_their_second_text_in_windows(folder_of: Folders) -> None:
    """Beside texts without a pair in the same call, whose answers are those that each has alone."""
    folder = folder_of(CLASSIFIER)
    inputs = [LONG, {"text": TEXTS[0], "text_pair": LONG}, TEXTS[2], (TEXTS[2], TEXTS[0])]
    params = {**WINDOWS, "stride": 3, "function_to_apply": "none", "top_k": None, "return_windows": True}
    found = ours(folder, "text-classification", inputs, params)
    for item, answer in zip(inputs, found, strict=True):
        assert ours(folder, "text-classification", [item], params) == [answer]
    windows = windows_of(folder, TEXTS[0], LONG, stride=3)
    assert len(found[1]["windows"]) == len(windows) > 3
    logits = logits_of(folder, windows).mean(axis=0)
    np.testing.assert_allclose([item["score"] for item in found[1]["labels"]], np.sort(logits)[::-1], atol=1e-5)
    assert (found[1]["windows"][0]["start"], found[1]["windows"][-1]["end"]) == (0, len(LONG))
    with pytest.raises(InvalidInput, match=r"input 0: .*raise max_length, lower stride"):
        ours(folder, "text-classification", [(LONG, TEXTS[0])], params)


@pytest.mark.parametrize(
    ("pair", "params", "message"),
    [
        (("ok", "well-known " * 50), {"max_length": 3}, "max_length=3 has no room for a pair; raise it"),
        (("a " * 56, "b " * 9), {"stride": 5}, "max_length=64 leaves 5 tokens for the text that is cut.*stride=5 must"),
        (("a " * 70, "b " * 9), {"stride": 5}, "max_length=64 leaves 0 tokens"),
        (("a " * 70, "b " * 9), {}, "too short.*raise max_length, shorten a text"),
    ],
)
def test_pairs_that_leave_no_room(
    folder_of: Folders, pair: Any, params: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are refused beside others that are answered, and the Rust library, which would panic, isn't asked."""
    task = task_of(folder_of(CLASSIFIER), "text-classification")
    found = task.prepare([pair, "ok"], task.settle(WINDOWS | params))
    assert isinstance(found[1], Prepared)
    assert isinstance(found[0], InvalidInput)
    assert re.search(message, str(found[0]))
    assert "panicked" not in capfd.readouterr().err


def test_a_pair_for_a_model_without_token_types(bert_of: Folders) -> None:
    folder = bert_of("BertForSequenceClassification", type_vocab_size=1)
    tokenizer = DistilBertTokenizer.from_pretrained(folder, model_input_names=["input_ids", "token_type_ids"])
    task = find("text-classification")(tokenizer, model_of(folder, CLASSIFIER).config)
    for params in ({}, WINDOWS):
        pair, single = task.prepare([{"text": "a", "text_pair": "b"}, "a"], task.settle(params))
        assert isinstance(single, Prepared)
        assert str(pair) == "this model takes no pairs: config.type_vocab_size is 1; send one text"


def test_short_windows_without_special_tokens(folder_of: Folders) -> None:
    folder = folder_of(CLASSIFIER)
    task, tokenizer = task_of(folder, "text-classification"), tokenizer_of(folder)
    for most, stride in ((2, 1), (3, 2), (3, 0)):
        params = {**WINDOWS, "max_length": most, "stride": stride, "add_special_tokens": False}
        ids = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
        starts = range(0, len(ids) - stride, most - stride)
        assert prepared_of(task, TEXTS[0], params).sequences == [ids[start : start + most] for start in starts]
        assert len(prepared_of(task, ("ok", TEXTS[0]), {**params, "stride": 0}).sequences) > 3
        with pytest.raises(InvalidParameter, match=f"stride must be at most {most - 1}"):
            task.settle({**params, "stride": most})


def test_the_mean_of_vectors_is_weighted_by_tokens(folder_of: Folders) -> None:
    """Without shared tokens it is the mean of all tokens of all windows."""
    folder = folder_of("DistilBertModel")
    model, windows = model_of(folder, "DistilBertModel"), windows_of(folder, LONG)
    rows = np.concatenate([model([ids]).last_hidden_state[0] for ids in windows])
    assert len(windows[-1]) < len(windows[0])
    for normalize in (False, True):
        wanted = rows.mean(axis=0)
        wanted = wanted / np.linalg.norm(wanted) if normalize else wanted
        params = {**WINDOWS, "pooling": "mean", "normalize": normalize}
        [found] = ours(folder, "feature-extraction", [LONG], params)
        if normalize:  # The windows' vectors have length 1 before their mean is taken, which is another mean.
            assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
            assert wanted @ found > 0.99
        else:
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    short = {"pooling": "mean", "normalize": True}
    assert ours(folder, "feature-extraction", TEXTS, WINDOWS | short) == ours(
        folder, "feature-extraction", TEXTS, short
    )


def test_vectors_keep_their_length_and_dimensions() -> None:
    encoder = SentenceVectors(layers=(Normalize("2"),))
    vectors = [np.array([1, 0, 0], np.float32), np.array([0, 1, 0], np.float32)]
    mean = encoder.mean(vectors, [3, 1])
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, np.array([3, 1, 0]) / 10**0.5, rtol=1e-6)
    np.testing.assert_allclose(SentenceVectors().mean(vectors, [3, 1]), [0.75, 0.25, 0], rtol=1e-6)
    assert SentenceVectors().mean(vectors[:1], [3]) is vectors[0]


def test_every_window_begins_with_the_prompt(folder_of: Folders) -> None:
    folder = folder_of("DistilBertModel")
    task, tokenizer = task_of(folder, "feature-extraction"), tokenizer_of(folder)
    prompt, plain = "search query: ", {**WINDOWS, "pooling": "mean", "stride": 4}
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    sequences = prepared_of(task, LONG, {**plain, "prompt": prompt}).sequences
    assert len(sequences) > 3
    for ids in sequences:
        assert ids[: 1 + len(start)] == [tokenizer.cls_token_id, *start]
        assert ids[-1] == tokenizer.sep_token_id
        assert len(ids) <= MAX_LENGTH
    text = [ids[1 + len(start) : -1] for ids in sequences]
    for one, other in pairwise(text):
        assert one[-4:] == other[:4]
    assert {len(ids) for ids in sequences[:-1]} == {MAX_LENGTH}
    whole = [token for ids in (text[0], *(ids[4:] for ids in text[1:])) for token in ids]
    assert whole == tokenizer(LONG, add_special_tokens=False)["input_ids"]
    bare = prepared_of(task, LONG, {**plain, "prompt": prompt, "add_special_tokens": False}).sequences
    assert all(ids[: len(start)] == start for ids in bare)


@pytest.mark.parametrize("prompt", ["search query: ", "alpha " * 50, "un"])
def test_a_text_that_fits_behind_its_prompt_is_not_divided(folder_of: Folders, prompt: str) -> None:
    """The last prompt becomes another token together with the text. The text beyond has its last token in a window."""
    folder = folder_of("DistilBertModel")
    task, tokenizer = task_of(folder, "feature-extraction"), tokenizer_of(folder)
    text, start = "known", tokenizer(prompt, add_special_tokens=False)["input_ids"]
    while len(tokenizer(prompt + text)["input_ids"]) < MAX_LENGTH:
        text += " cat"
    params = {"pooling": "mean", "prompt": prompt}
    assert prepared_of(task, text, WINDOWS | params).sequences == prepared_of(task, text, params).sequences
    for pooling in ("mean", "cls"):
        plain = ours(folder, "feature-extraction", [text, "ok"], {**params, "pooling": pooling})
        assert ours(folder, "feature-extraction", [text, "ok"], {**WINDOWS, **params, "pooling": pooling}) == plain
    for ids in prepared_of(task, text + " dog" * 9, WINDOWS | params).sequences:
        assert ids[: 1 + len(start)] == [tokenizer.cls_token_id, *start]
        assert set(ids[1 + len(start) : -1]) & set(tokenizer("known cat dog", add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("architecture", ["DistilBertModel", "DistilBertForMaskedLM"])
def test_a_default_prompt_that_is_not_pooled(folder_of: Folders, architecture: str) -> None:
    folder = folder_of(architecture)
    vectors = SentenceVectors(architecture=architecture, prompts={"": "search query: "}, include_prompt=False)
    name = "feature-extraction" if architecture == "DistilBertModel" else "sparse-embedding"
    task = find(name)(tokenizer_of(folder), model_of(folder, architecture).config, vectors)
    params = {"pooling": "sentence"} if name == "feature-extraction" else {}
    for words in (55, 59, 60, 61):
        plain = prepared_of(task, "cat " * words, {**params, "truncation": True})
        found = prepared_of(task, "cat " * words, {**params, **WINDOWS})
        assert (found.sequences == plain.sequences) == (words <= 59)
        assert len(found.sequences) == 1 + (words > 59)
        if params:
            assert set(map(str, found.rows)) == {"slice(4, None, None)"}


def test_sparse_vectors_are_those_of_all_positions(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForMaskedLM")
    [found] = ours(folder, "sparse-embedding", [LONG], WINDOWS)
    dense = np.zeros(30522)
    for ids in windows_of(folder, LONG):
        for item in ours(folder, "sparse-embedding", [ids])[0]:
            dense[item["index"]] = max(dense[item["index"]], item["value"])
    assert [item["index"] for item in found] == np.nonzero(dense)[0].tolist()
    np.testing.assert_allclose([item["value"] for item in found], dense[dense > 0], atol=1e-6)


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        (
            "text-classification",
            {"stride": 62},
            "stride must be at most 61, less than the 62 tokens of text",
        ),
        ("text-classification", {"stride": 8, "max_length": 10}, "stride must be at most 7"),
        ("text-classification", {"max_length": 2}, "no room for text"),
        ("text-classification", {"windows": "sum"}, "windows must be 'mean' or 'max'"),
        ("text-classification", {"stride": -1}, "stride must be an integer of at least 0"),
        ("feature-extraction", {}, "needs a pooling"),
        ("feature-extraction", {"pooling": "mean", "prompt": "a " * 62}, "shorten the prompt"),
        ("feature-extraction", {"pooling": "mean", "prompt": "a " * 60, "stride": 2}, "stride must be at most 1"),
        ("sentence-similarity", {}, "truncation must be None or False"),
        ("zero-shot-classification", {"candidate_labels": ["a"]}, "truncation must be None or False"),
    ],
)
def test_what_cannot_be_read_in_windows(folder_of: Folders, task: str, params: Any, message: str) -> None:
    folder = folder_of(find(task).architecture, id2label={0: "entailment", 1: "b"})
    with pytest.raises(InvalidParameter, match=message):
        task_of(folder, task).settle(WINDOWS | params)


def test_token_ids_are_not_divided(folder_of: Folders) -> None:
    folder = folder_of("DistilBertModel")
    params = {**WINDOWS, "pooling": "mean"}
    assert ours(folder, "feature-extraction", [[101, 7592, 102]], params)
    with pytest.raises(TooLong, match="100 token ids, a window at most 64; divide it, or send the text"):
        ours(folder, "feature-extraction", [list(range(1000, 1100))], params)


def test_windows_are_counted_before_they_are_made(folder_of: Folders) -> None:
    """With the prompt in each: 60 tokens of it leave room for two of the text."""
    folder = folder_of("DistilBertModel")
    task = task_of(folder, "feature-extraction")
    params = task.settle({**WINDOWS, "pooling": "mean", "prompt": "a " * 60})
    tokens = sum(map(len, prepared_of(task, LONG, params).sequences))
    assert tokens > 20 * len(LONG) / 5
    assert task.prepare([LONG], params, max_tokens=tokens + MAX_LENGTH)
    with pytest.raises(TooLarge, match="windows of 64 tokens that share 0 make"):
        task.prepare([LONG], params, max_tokens=tokens // 2)


def test_an_engine_reads_windows_with_others_requests(folder_of: Folders) -> None:
    folder = folder_of(CLASSIFIER)
    params = {**WINDOWS, "stride": 7, "return_windows": True}
    inputs = [LONG, TEXTS[0], LONG * 3]
    expected = ours(folder, "text-classification", inputs, params)
    with Engine(folder, num_threads=1) as engine:
        requests = [engine.submit("text-classification", item, params) for item in inputs]
        assert [request.result(60) for request in requests] == expected

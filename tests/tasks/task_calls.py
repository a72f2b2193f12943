"""Models, tokenizers and inputs of every task, and how their answers are compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distilrt.model import models
from distilrt.tasks import Prepared, Task, find, run
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


MASKED = ["The capital is [MASK].", "[MASK] and [MASK] met in Paris, [PAD] said [MASK].", "Ünïcode [MASK]?"]
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

"""Any number of inputs through a task: order, full batches, laziness, and models that do not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from distilrt.tasks import compute, find, run
from distilrt.text.tokenizer import DistilBertTokenizer
from tests.tasks.task_calls import (
    INPUTS,
    MAX_LENGTH,
    NLI,
    PARAMS,
    TEXTS,
    Folders,
    assert_same,
    folder_for,
    model_of,
    ours,
    prepared_of,
    task_of,
    tokenizer_of,
)


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

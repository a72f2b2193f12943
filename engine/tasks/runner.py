"""Any number of inputs through one task: packed batches under a token budget, answers in the order of the inputs.

It reads its inputs a window at a time and forgets them with their answers. It knows no task in particular.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, ClassVar, Protocol

import numpy as np

from distilrt.backends.base import Backend
from distilrt.batch import IndexArray, pack
from distilrt.errors import InvalidInput, InvalidParameter
from distilrt.model.config import DistilBertConfig
from distilrt.tasks.task import ALL, FIRST, Params, Prepared, Rows, Selection, Task
from distilrt.tasks.task_parameters import is_count

MAX_TOKENS = 4096
_CHUNK = 64  # inputs of one call of the tokenizer
_BATCHES = 4  # batches of a window: with more of them each is fuller, and more inputs are held until their turn


class Model(Protocol):
    """What a task needs of a model; those in `distilrt.model.models` have it."""

    config: DistilBertConfig
    backend: Backend
    architecture: ClassVar[str]


def compute(model: Model, sequences: Sequence[list[int]], rows: Sequence[Selection]) -> list[Rows]:
    """One packed batch: the head's output `[selected, width]` for the chosen rows of each sequence.

    The sequences may come from different inputs and from different tasks with the same head.
    """
    batch = pack(model.config, sequences)
    wanted: IndexArray | None = None
    ends: Sequence[int] = batch.cu_seqlens.tolist()
    if 0 < batch.num_seqs == len(rows) == rows.count(FIRST):
        wanted, ends = batch.cu_seqlens[:-1], range(len(rows) + 1)
    elif rows.count(ALL) < len(rows):
        index: list[int] = []
        counts = [0]
        for (start, end), chosen in zip(pairwise(ends), rows, strict=True):
            span = range(start, end)
            index += span[chosen] if isinstance(chosen, slice) else [span[i] for i in chosen]
            counts.append(len(index))
        wanted, ends = np.array(index, np.int32), counts
    output = model.backend.answer(batch, wanted)
    return [output[start:end] for start, end in pairwise(ends)]


def run(
    model: Model,
    task: Task,
    inputs: Iterable[Any],
    params: Mapping[str, Any] | None = None,
    *,
    max_tokens: int = MAX_TOKENS,
    batch_size: int | None = None,
    return_errors: bool = False,
) -> Iterator[Any]:
    """Answer inputs in their order, as `task.answer` describes the answers.

    Args:
        model: a model of the class that `task.architecture` names, with whose tokenizer and config `task` was made.
        inputs: they are read as answers are taken, about four batches ahead.
        max_tokens: the most tokens of a batch; a longer sequence gets a batch of its own.
        batch_size: the most sequences of a batch; None: as many as fit. Answers do not depend on either.
        return_errors: yield the InvalidInput of a bad input in its answer's place, and go on.

    Raises:
        InvalidInput: a bad input, when its turn comes; the message starts with its index.
        InvalidParameter: at once: `max_tokens`, `batch_size` or a parameter that is not allowed.
        TypeError: at once: a model of another class.
    """
    if not is_count(max_tokens):
        raise InvalidParameter(f"max_tokens must be an integer of at least 1, found {max_tokens!r}")
    if batch_size is not None and not is_count(batch_size):
        raise InvalidParameter(f"batch_size must be None or an integer of at least 1, found {batch_size!r}")
    if model.architecture != task.architecture:
        raise TypeError(f"{task.name} needs a {task.architecture}, found a {model.architecture}")
    windows = _windows(task, iter(inputs), task.settle(params or {}), _BATCHES * max_tokens)
    answers = (answer for window in windows for answer in _answers(model, task, window, max_tokens, batch_size))
    return answers if return_errors else _raising(answers)


def _raising(answers: Iterable[Any]) -> Iterator[Any]:
    for index, answer in enumerate(answers):
        if isinstance(answer, InvalidInput):
            raise answer.at(index)
        yield answer


def _windows(
    task: Task, source: Iterator[Any], params: Params, max_tokens: int
) -> Iterator[list[Prepared | InvalidInput]]:
    """The inputs, prepared, in parts that are at least `max_tokens` long if there are so many."""
    while True:
        window: list[Prepared | InvalidInput] = []
        tokens = 0
        while tokens < max_tokens and (chunk := list(islice(source, _CHUNK))):
            prepared = task.prepare(chunk, params)
            window += prepared
            tokens += sum(len(ids) for item in prepared if isinstance(item, Prepared) for ids in item.sequences)
        if not window:
            return
        yield window


def _answers(
    model: Model, task: Task, window: list[Prepared | InvalidInput], max_tokens: int, batch_size: int | None
) -> Iterator[Any]:
    """The answers to a window's inputs, and the errors of bad ones, in their order."""
    good = [item for item in window if isinstance(item, Prepared)]
    outputs: dict[tuple[int, int], Rows] = {}
    for batch in _batches(good, max_tokens, batch_size):
        sequences, rows = [good[i].sequences[k] for i, k in batch], [good[i].rows[k] for i, k in batch]
        outputs |= zip(batch, map(task.keep, compute(model, sequences, rows)), strict=True)
    number = 0
    for item in window:
        if isinstance(item, InvalidInput):
            yield item
        else:
            yield task.answer(item, [outputs.pop((number, k)) for k in range(len(item.sequences))])
            number += 1


def _batches(window: Sequence[Prepared], max_tokens: int, batch_size: int | None) -> list[list[tuple[int, int]]]:
    """All sequences, as (input, sequence of it), in as few batches as fitting the longest first finds."""
    sizes = {(i, k): len(ids) for i, item in enumerate(window) for k, ids in enumerate(item.sequences)}
    batches: list[list[tuple[int, int]]] = []
    room: list[int] = []
    for key in sorted(sizes, key=lambda key: -sizes[key]):
        size = sizes[key]
        place = next((place for place, left in enumerate(room) if size <= left), len(room))
        if place == len(room):
            batches.append([])
            room.append(max_tokens)
        batches[place].append(key)
        room[place] -= size
        if len(batches[place]) == batch_size:
            room[place] = 0
    return batches

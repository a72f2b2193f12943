"""A model's signature: the tensors that it takes and gives in the Open Inference Protocol, by its head.

It reads `text`, and perhaps `text_pair`, of datatype BYTES, or `input_ids`, and perhaps `attention_mask`, of INT64, and
gives the head's numbers in FP32, zeros for tokens that aren't there. `token_type_ids` beside the ids, which BERT's
tokenizers make, have no effect on a DistilBERT, which has no such embeddings. One for multiple choice reads `prompt`
and `choices` in place of the texts, and all its tensors have a choice's axis, as those of the reference.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distilrt.batch import TypedIds
from distilrt.model.heads import HEADS
from distilrt.runtime.engine import Engine
from distilrt.server.answer_limits import check_answer, most_tokens
from distilrt.server.statuses import Unprocessable

Arrays = dict[str, npt.NDArray[Any]]
Kind = tuple[str, str, list[int]]  # a tensor's name, datatype and shape; -1: any length


class Asked(NamedTuple):
    """What a request asks the engine.

    Attributes:
        items: for the task "outputs"; the choices of an input follow each other.
        length: how long ids were padded; 0 for texts.
        shape: of the items, `[n]` or `[n, choices]`.
    """

    items: list[Any]
    length: int
    shape: tuple[int, ...]


class Signature:
    """The tensors of an engine's model.

    Attributes:
        outputs: what it gives.
        names: of these.
        rows: whose numbers, for the task "outputs": the "first" token's or "all".
    """

    def __init__(self, engine: Engine) -> None:
        head, config = HEADS[engine.model.architecture], engine.model.config
        self._engine, self._choices = engine, head.has_choices
        self.rows = head.reads
        self.names = tuple(head.fields)
        self.outputs: list[Kind] = [
            (name, "FP32", [getattr(config, str(size), -1) for size in dimensions])
            for name, dimensions in head.fields.items()
        ]

    @property
    def inputs(self) -> list[Kind]:
        """What it takes: the texts, or else the ids."""
        ids = [-1, -1, -1] if self._choices else [-1, -1]
        texts: list[Kind] = [("text", "BYTES", [-1]), ("text_pair", "BYTES", [-1])]
        if self._choices:
            texts = [("prompt", "BYTES", [-1]), ("choices", "BYTES", [-1, -1])]
        types: list[Kind] = [("token_type_ids", "INT64", ids)] if self._engine.model.config.is_bert else []
        return [*texts, ("input_ids", "INT64", ids), ("attention_mask", "INT64", ids), *types]

    def asked(self, tensors: Arrays) -> Asked:
        """What to ask the engine for a request's tensors.

        Raises:
            Unprocessable: other tensors than it takes, or of shapes that don't fit.
        """
        names = set(tensors)
        if "input_ids" in names and names <= {"input_ids", "attention_mask", "token_type_ids"}:
            ids, types = tensors["input_ids"], tensors.get("token_type_ids")
            if types is not None and (types.dtype == object or types.shape != ids.shape):
                raise Unprocessable(
                    f"token_type_ids must be INT64 of input_ids' shape {list(ids.shape)}, found {list(types.shape)}"
                )
            return self._sequences(ids, tensors.get("attention_mask"), types)
        if self._choices and names == {"prompt", "choices"}:
            return _chosen(_column(tensors, "prompt"), tensors["choices"])
        if not self._choices and "text" in names and names <= {"text", "text_pair"}:
            texts = _column(tensors, "text")
            return Asked(texts if "text_pair" not in names else _pairs(texts, tensors), 0, (len(texts),))
        texts_are = "prompt and choices" if self._choices else "text, and perhaps text_pair"
        raise Unprocessable(
            f"the inputs must be {texts_are}, or input_ids, and perhaps attention_mask and token_type_ids; found "
            f"{', '.join(sorted(names)) or 'none'}"
        )

    def check_size(self, asked: Asked, binary: bool) -> None:
        """Refuse a request whose answer would be too large: each input has as many rows as the longest one has tokens.

        Raises:
            TooLarge: it would.
        """
        if self.rows == "all":
            longest = max(most_tokens(self._engine, item) for item in asked.items)
            width = abs(self.outputs[0][2][-1]) * len(self.names)
            check_answer(len(asked.items) * max(asked.length, longest), width, binary)

    def arrays(self, asked: Asked, rows: list[npt.NDArray[Any]]) -> Arrays:
        """The outputs by name, in float32, from the head's rows of each item."""
        if self.rows == "first":
            logits = np.concatenate(rows).astype("<f4")
            return {self.names[0]: logits.reshape(asked.shape) if self._choices else logits}
        padded = np.zeros((len(rows), max(asked.length, *map(len, rows)), rows[0].shape[1]), "<f4")
        for place, found in zip(padded, rows, strict=True):
            place[: len(found)] = found
        if len(self.names) == 1:
            return {self.names[0]: padded}
        return {name: np.ascontiguousarray(padded[..., index]) for index, name in enumerate(self.names)}

    def _sequences(self, ids: npt.NDArray[Any], mask: npt.NDArray[Any] | None, types: npt.NDArray[Any] | None) -> Asked:
        """The ids where the mask is 1, with their token types."""
        shape = "[n, choices, length]" if self._choices else "[n, length]"
        if ids.dtype == object or ids.ndim != (3 if self._choices else 2) or not ids.size:
            raise Unprocessable(f"input_ids must be INT64 of shape {shape}, found the shape {list(ids.shape)}")
        mask = np.ones(ids.shape, np.int64) if mask is None else mask
        if mask.dtype == object or mask.shape != ids.shape:
            raise Unprocessable(
                f"attention_mask must be INT64 of input_ids' shape {list(ids.shape)}, found {list(mask.shape)}"
            )
        length = ids.shape[-1]
        lengths = mask.sum(axis=-1)
        if not np.array_equal(mask, np.arange(length) < lengths[..., None]) or not lengths.all():
            raise Unprocessable("each row of attention_mask must be ones, at least one, and then zeros")
        ends = lengths.reshape(-1).tolist()
        items = [row[:end].tolist() for row, end in zip(ids.reshape(-1, length), ends, strict=True)]
        if types is not None and types.any():
            typed = zip(items, types.reshape(-1, length), ends, strict=True)
            items = [TypedIds(row, each[:end].tolist()) for row, each, end in typed]
        return Asked(items, length, ids.shape[:-1])


def _pairs(texts: list[str], tensors: Arrays) -> list[Any]:
    pairs = _column(tensors, "text_pair")
    if len(pairs) != len(texts):
        raise Unprocessable(f"text has {len(texts)} strings, and text_pair {len(pairs)}")
    return [{"text": text, "text_pair": pair} for text, pair in zip(texts, pairs, strict=True)]


def _chosen(prompts: list[str], choices: npt.NDArray[Any]) -> Asked:
    """Each prompt with each of its choices."""
    if choices.dtype != object or choices.ndim != 2 or len(choices) != len(prompts) or not choices.size:
        raise Unprocessable(
            f"choices must have the datatype BYTES and the shape [{len(prompts)}, choices], one row a "
            f"prompt, found the shape {list(choices.shape)}"
        )
    items = [
        {"text": prompt, "text_pair": str(choice)}
        for prompt, row in zip(prompts, choices, strict=True)
        for choice in row
    ]
    return Asked(items, 0, choices.shape)


def _column(tensors: Arrays, name: str) -> list[str]:
    found = tensors[name]
    if found.dtype != object or not found.size:
        raise Unprocessable(f"{name} must have the datatype BYTES and at least one string")
    if math.prod(found.shape[1:]) != 1:
        raise Unprocessable(f"{name} must have the shape [n] or [n, 1], found {list(found.shape)}")
    return [str(text) for text in found.reshape(-1)]

"""multiple-choice: which of several texts goes best with another."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distilrt.errors import InvalidInput
from distilrt.tasks.base import (
    CUT,
    FIRST,
    Param,
    Params,
    Prepared,
    Rows,
    Selection,
    Task,
    Text,
    as_fields,
    as_text,
    softmax,
)
from distilrt.tasks.size import Size, characters
from distilrt.text.tokenizer import DistilBertTokenizer


class MultipleChoice(Task):
    """`{"prompt", "choices"}` to a list of `{"choice", "score", "index"}`, the likeliest choice first; `index` is its
    place in `choices`.

    The model reads prompt and choice as a pair and gives it one number; scores are the softmax of these over the
    choices, what the cross entropy of `DistilBertForMultipleChoice` is taken of. transformers has no pipeline for it;
    prompt and choices are the words of its documentation.

    `truncation`, `max_length`, `truncation_side`, `add_special_tokens`: as in the tokenizer, of each pair.
    """

    name = "multiple-choice"
    architecture = "DistilBertForMultipleChoice"
    params: ClassVar[Mapping[str, Param]] = {**CUT}

    def size_of(self, item: Any, params: Mapping[str, Any]) -> Size:
        """That of the pairs: the prompt is read with each choice."""
        prompt, choices = (item.get("prompt"), item.get("choices")) if isinstance(item, Mapping) else (item, ())
        pairs = len(choices) if isinstance(choices, list | tuple) else 1
        return Size(pairs, pairs * characters(prompt) + characters(choices))

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The prompt with each choice."""
        prompt, choices = as_fields(item, "prompt", "choices")
        if not isinstance(choices, list | tuple) or not choices:
            raise InvalidInput(f"'choices' must be a list of at least one string, found {reprlib.repr(choices)}")
        prompt = as_text(prompt, "prompt")
        return [(prompt, as_text(choice, f"choices[{i}]")) for i, choice in enumerate(choices)]

    def select(self, tokenizer: DistilBertTokenizer, params: Params, ids: list[int]) -> Selection:
        """The first row."""
        return FIRST

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[dict[str, Any]]:
        """Choices by falling probability, equal ones in their order."""
        scores = softmax(np.concatenate(outputs)[:, 0])
        choices = prepared.source["choices"]
        order = np.argsort(-scores, kind="stable").tolist()
        return [{"choice": choices[i], "score": float(scores[i]), "index": i} for i in order]

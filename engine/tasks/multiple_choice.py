"""multiple-choice: which of several texts goes best with another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distilrt.model.functional import softmax
from distilrt.tasks.size import Size, characters
from distilrt.tasks.task import Params, Prepared, Rows, Task
from distilrt.tasks.task_inputs import Text, as_fields, as_text, as_texts
from distilrt.tasks.task_parameters import TOKENIZING, Param


class MultipleChoice(Task):
    """`{"prompt", "choices"}` to a list of `{"choice", "score", "index"}`, the likeliest choice first.

    The model reads prompt and choice as a pair and gives it one number. Scores are the softmax of these over the
    choices, of which `DistilBertForMultipleChoice` takes the cross entropy; `index` is a choice's place in `choices`.
    transformers has no pipeline for it; prompt and choices are the words of its documentation.
    """

    name = "multiple-choice"
    architecture = "DistilBertForMultipleChoice"
    params: ClassVar[Mapping[str, Param]] = TOKENIZING

    def size(self, item: Any, params: Params) -> Size:
        """The size of the pairs, as the prompt is read with each choice."""
        prompt, choices = (item.get("prompt"), item.get("choices")) if isinstance(item, Mapping) else (item, ())
        pairs = len(choices) if isinstance(choices, list | tuple) else 1
        return Size(pairs, pairs * characters(prompt) + characters(choices))

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The prompt with each choice."""
        prompt, choices = as_fields(item, "prompt", "choices")
        prompt = as_text(prompt, "prompt")
        return [(prompt, choice) for choice in as_texts(choices, "choices")]

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[dict[str, Any]]:
        """Choices by falling probability, equal ones in their order."""
        scores = softmax(np.concatenate(outputs)[:, 0])
        choices = prepared.source["choices"]
        order = np.argsort(-scores, kind="stable").tolist()
        return [{"choice": choices[i], "score": float(scores[i]), "index": i} for i in order]

"""zero-shot-classification: how well labels that the model was not trained on describe a text.

Each label becomes a hypothesis, and a model of natural language inference says whether the text entails it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from distilrt.errors import InvalidParameter
from distilrt.model.functional import softmax
from distilrt.tasks.size import Size, characters
from distilrt.tasks.task import Params, Prepared, Rows, Task
from distilrt.tasks.task_inputs import Text, as_text
from distilrt.tasks.task_parameters import PADDING, TOKENIZING, Param, one_of, strings


def _labels(value: Any) -> list[str]:
    """The labels in a parameter; none where it is not as it must be."""
    if isinstance(value, str):
        return [label.strip() for label in value.split(",") if label.strip()]
    return strings(value)


class ZeroShotClassification(Task):
    """A text to `{"sequence", "labels", "scores"}`, best label first. Too long a text is cut, a hypothesis never."""

    name = "zero-shot-classification"
    architecture = "DistilBertForSequenceClassification"
    params: ClassVar[Mapping[str, Param]] = {
        "candidate_labels": Param(
            "the labels",
            None,
            "labels in a list, or in a string with commas",
            lambda value: _labels(value) != [],
            _labels,
        ),
        "hypothesis_template": Param(
            "what is said of the text, with `{}` for the label, which may stand there several times",
            "This example is {}.",
            "a text with {} in the label's place",
            lambda value: isinstance(value, str) and "{}" in value,
        ),
        "multi_label": one_of("whether to score each label by itself", False, True),
        "truncation": replace(TOKENIZING["truncation"], about="without effect: the text is always cut, a label never"),
        "padding": PADDING,
    }
    called: ClassVar[Mapping[str, str]] = {
        "raise max_length, shorten a text or choose another truncation": "shorten the labels or hypothesis_template",
    }

    def size(self, item: Any, params: Params) -> Size:
        """The size of the pairs, as text and template are read with each label."""
        labels, template = params["candidate_labels"], params["hypothesis_template"]
        pairs, places = len(labels), template.count("{}")
        return Size(pairs, pairs * (characters(item) + len(template)) + places * characters(labels))

    def check(self, params: Params) -> None:
        """The model must know what entailment is."""
        self._entailment()

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text with each hypothesis."""
        text, template = as_text(item, empty=False), params["hypothesis_template"]
        return [(text, template.replace("{}", label)) for label in params["candidate_labels"]]

    def tokenizing(self, params: Params) -> dict[str, Any]:
        """Cut the text only."""
        return {"truncation": "only_first", "max_length": self.limit}

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> dict[str, Any]:
        """Probabilities among the labels; or of entailment against contradiction for each."""
        labels, logits = prepared.params["candidate_labels"], np.concatenate(outputs)
        entailment = self._entailment()
        if prepared.params["multi_label"] or len(labels) == 1:
            contradiction = 0 if entailment else -1
            scores = softmax(logits[:, [contradiction, entailment]])[:, 1]
        else:
            scores = softmax(logits[:, entailment])
        order = scores.argsort()[::-1]
        return {
            "sequence": prepared.source,
            "labels": [labels[i] for i in order],
            "scores": scores[order].tolist(),
        }

    def _entailment(self) -> int:
        """The index of the label that means it."""
        for label, index in (self.config.label2id or {}).items():
            if label.lower().startswith("entail"):
                return index
        raise InvalidParameter(
            "zero-shot-classification needs a model trained for natural language inference, with a label that starts "
            f"with 'entail' in config.label2id; this one has {', '.join(self.config.label_names())}"
        )

"""zero-shot-classification: how well labels that the model was not trained on describe a text.

Each label becomes a hypothesis, and a model of natural language inference says whether the text entails it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distilrt.errors import InvalidParameter
from distilrt.model.config import DistilBertConfig
from distilrt.tasks.base import (
    CUT,
    FIRST,
    PADDING,
    Param,
    Params,
    Prepared,
    Rows,
    Selection,
    Task,
    Text,
    as_text,
    one_of,
    softmax,
    strings,
)
from distilrt.tasks.size import Size, characters
from distilrt.text.tokenizer import DistilBertTokenizer


class ZeroShotClassification(Task):
    """A string to `{"sequence", "labels", "scores"}`, best label first.

    `candidate_labels`: a list of labels, or a string of labels with commas. `hypothesis_template`: a text with `{}` in
    the label's place, as often as it has that. `multi_label`: score each label by itself. `truncation`, `padding`:
    without effect, too long a text is cut, a hypothesis never.
    """

    name = "zero-shot-classification"
    architecture = "DistilBertForSequenceClassification"
    params: ClassVar[Mapping[str, Param]] = {
        "candidate_labels": Param(
            None,
            "labels in a list, or in a string with commas",
            lambda value: _labels(value) != [],
            lambda value: _labels(value),
        ),
        "hypothesis_template": Param(
            "This example is {}.",
            "a text with {} in the label's place",
            lambda value: isinstance(value, str) and "{}" in value,
        ),
        "multi_label": one_of(False, True),
        "truncation": CUT["truncation"],
        "padding": PADDING,
    }

    def size_of(self, item: Any, params: Mapping[str, Any]) -> Size:
        """That of the pairs: text and template are read with each label."""
        labels = params.get("candidate_labels")
        template = params.get("hypothesis_template") or self.params["hypothesis_template"].default
        pairs, places = 1, template.count("{}") if isinstance(template, str) else 1
        if isinstance(labels, str):
            pairs = 1 + labels.count(",")
        elif isinstance(labels, list | tuple):
            pairs = len(labels)
        return Size(pairs, pairs * (characters(item) + characters(template)) + places * characters(labels))

    def check(self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, params: Params) -> None:
        """The model must know what entailment is."""
        _entailment(config)

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text with each hypothesis."""
        text, template = as_text(item, empty=False), params["hypothesis_template"]
        return [(text, template.replace("{}", label)) for label in params["candidate_labels"]]

    def tokenizing(self, params: Params, limit: int) -> dict[str, Any]:
        """Cut the text only."""
        return {"truncation": "only_first", "max_length": limit}

    def select(self, tokenizer: DistilBertTokenizer, params: Params, ids: list[int]) -> Selection:
        """The first row."""
        return FIRST

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> dict[str, Any]:
        """Probabilities among the labels; or of entailment against contradiction for each."""
        labels, logits = prepared.params["candidate_labels"], np.concatenate(outputs)
        entailment = _entailment(prepared.config)
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


def _labels(value: Any) -> list[str]:
    """The labels in a parameter; none where it is not as it must be."""
    if isinstance(value, str):
        return [label.strip() for label in value.split(",") if label.strip()]
    return strings(value)


def _entailment(config: DistilBertConfig) -> int:
    for label, index in (config.label2id or {}).items():
        if label.lower().startswith("entail"):
            return index
    raise InvalidParameter(
        "zero-shot-classification needs a model trained for natural language inference, with a label that starts "
        f"with 'entail' in config.label2id; this one has {', '.join(config.label_names())}"
    )

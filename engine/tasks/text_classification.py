"""text-classification: the labels of a text or a pair of texts, with their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distilrt.errors import InvalidInput
from distilrt.model.config import DistilBertConfig
from distilrt.model.functional import softmax
from distilrt.tasks.task import Params, Prepared, Rows, Task
from distilrt.tasks.task_inputs import Text, as_pair
from distilrt.tasks.task_parameters import PADDING, TOKENIZING, Param, count, one_of, strings

_BEST = ""  # the best label alone, not in a list; transformers' pipeline has the same default

_FUNCTIONS: dict[str, Callable[[Rows], Rows]] = {
    "sigmoid": lambda logits: np.exp(-np.logaddexp(0, -logits)),
    "softmax": softmax,
    "none": lambda logits: logits,
}


class TextClassification(Task):
    """A text or a pair to `{"label", "score"}`, or to a list of these where `top_k` is given.

    A pair is `{"text", "text_pair"}`, `[["text", "text_pair"]]` or a tuple of two strings.
    """

    name = "text-classification"
    architecture = "DistilBertForSequenceClassification"
    params: ClassVar[Mapping[str, Param]] = {
        "top_k": count("how many labels, best first; '': the best one, not in a list; None: all", _BEST, None),
        "function_to_apply": one_of(
            "from logits to scores; None: what suits the config's `problem_type` and number of labels",
            *(None, *_FUNCTIONS),
            any_case=True,
        ),
        **TOKENIZING,
        "padding": PADDING,
    }

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text or the pair."""
        if isinstance(item, str):
            return [item]
        listed = item[0] if isinstance(item, list) and len(item) == 1 else None
        if isinstance(item, tuple) or isinstance(listed, list):
            pair = strings(item if listed is None else listed)
            if len(pair) != 2:
                raise InvalidInput("a pair must be two strings, a text and its text_pair")
            return [(pair[0], pair[1])]
        text = as_pair(item, "a string")
        return [text[0] if isinstance(text, tuple) and not text[1] else text]

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> dict[str, Any] | list[dict[str, Any]]:
        """Labels by falling score."""
        names, top_k = self.config.label_names(), prepared.params["top_k"]
        function = prepared.params["function_to_apply"] or _default_function(self.config)
        scores = _FUNCTIONS[function](outputs[0][0])
        order = np.argsort(-scores, kind="stable")[: 1 if top_k == _BEST else top_k]
        labels = [{"label": names[i], "score": float(scores[i])} for i in order]
        return labels[0] if top_k == _BEST else labels


def _default_function(config: DistilBertConfig) -> str:
    if config.problem_type == "regression":
        return "none"
    independent = config.problem_type == "multi_label_classification" or config.num_labels == 1
    return "sigmoid" if independent else "softmax"

"""text-classification: the labels of a text or a pair of texts, with their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from tokenizers import Encoding

from distilrt.errors import InvalidInput
from distilrt.model.config import DistilBertConfig
from distilrt.model.functional import softmax
from distilrt.tasks.task import Params, Prepared, Rows, Task
from distilrt.tasks.task_inputs import Text, as_pair
from distilrt.tasks.task_parameters import PADDING, WINDOWED, Param, count, one_of, strings

_BEST = ""  # the best label alone, not in a list; transformers' pipeline has the same default

_MERGED: dict[str, Callable[..., Rows]] = {"mean": np.mean, "max": np.max}
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
        **WINDOWED,
        "windows": one_of("how the logits of a text's windows become one's", *_MERGED),
        "return_windows": one_of(
            "whether the answer is {'labels', 'windows'}: the usual one, and of each window 'labels' and the 'start' "
            "and 'end' of its characters in the text, or in the second of a pair",
            *(False, True),
        ),
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
        """Labels by falling score, of the text and where asked for of its windows."""
        params, logits = prepared.params, np.concatenate(outputs)
        labels = self._labels(logits[0] if len(logits) == 1 else _MERGED[params["windows"]](logits, axis=0), params)
        if not params["return_windows"]:
            return labels
        spans = map(_span, prepared.encodings)
        windows = [
            {"start": start, "end": end, "labels": self._labels(row, params)}
            for (start, end), row in zip(spans, logits, strict=True)
        ]
        return {"labels": labels, "windows": windows}

    def _labels(self, logits: Rows, params: Params) -> dict[str, Any] | list[dict[str, Any]]:
        names, top_k = self.config.label_names(), params["top_k"]
        function = params["function_to_apply"] or _default_function(self.config)
        scores = _FUNCTIONS[function](logits).tolist()
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: 1 if top_k == _BEST else top_k]
        labels = [{"label": names[i], "score": scores[i]} for i in order]
        return labels[0] if top_k == _BEST else labels


def _span(window: Encoding) -> tuple[int, int]:
    """Where the characters of a window start and end in its text, of a pair in the second."""
    owners = window.sequence_ids  # None of special tokens
    last = max((owner for owner in owners if owner is not None), default=None)
    offsets = [place for place, owner in zip(window.offsets, owners, strict=True) if owner == last is not None]
    return (offsets[0][0], offsets[-1][1]) if offsets else (0, 0)


def _default_function(config: DistilBertConfig) -> str:
    if config.problem_type == "regression":
        return "none"
    independent = config.problem_type == "multi_label_classification" or config.num_labels == 1
    return "sigmoid" if independent else "softmax"

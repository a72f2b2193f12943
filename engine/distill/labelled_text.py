"""The corpus of a classifier: texts, one a line, some of them with a label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from distilrt.distill.examples import Examples, Numbers
from distilrt.distill.losses import NONE
from distilrt.distill.text_lines import lines_of
from distilrt.errors import InvalidInput
from distilrt.text.tokenizer import DistilBertTokenizer


class LabelledText:
    """Tokenized texts, cut to `length` tokens.

    A line is plain text, a JSON string, or an object `{"text": …, "label": …}` whose label is a name or number of the
    teacher's, or is left out.

    Raises:
        OSError, InvalidInput: as `lines_of`; or a line is of no such form, or its label is not the teacher's.
    """

    def __init__(
        self, paths: Sequence[str], tokenizer: DistilBertTokenizer, length: int, label2id: dict[str, int]
    ) -> None:
        lines = ((path, number, line) for path in paths for number, line in lines_of(path) if line)
        items = [_item(line, label2id, f"{path}, line {number}") for path, number, line in lines]
        texts = [text for text, _ in items]
        found = tokenizer(texts, truncation=True, max_length=length)["input_ids"] if texts else []
        self._ids = [np.array(ids, np.int32) for ids in found]
        self._labels = np.array([label for _, label in items], np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def examples(self, numbers: Numbers, rng: np.random.Generator) -> Examples:
        """The texts as they are; the logits of a classifier are those of the first token."""
        sequences = [self._ids[number] for number in numbers]
        return Examples(sequences, np.cumsum([0, *map(len, sequences[:-1])]), self._labels[numbers])


def _item(line: str, label2id: dict[str, int], where: str) -> tuple[str, int]:
    """The text of a line and the number of its label, or `NONE`."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        value = line
    if not isinstance(value, dict):  # numbers, true and lists are texts, since plain text has such lines too
        return value if isinstance(value, str) else line, NONE
    label = value.get("label")
    if not isinstance(value.get("text"), str) or value.keys() - {"text", "label"}:
        raise InvalidInput(f'{where} must be text or {{"text": …, "label": …}}, found keys {", ".join(value)}')
    names: dict[Any, int] = {**label2id, **{number: number for number in label2id.values()}, None: NONE}
    if type(label) not in (str, int, type(None)) or label not in names:
        known = ", ".join(label2id)
        raise InvalidInput(f"{where}: label {label!r} is none of the teacher's: {known}, or their numbers")
    return value["text"], names[label]

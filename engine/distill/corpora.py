"""Corpora of a student: text of full length for a masked language model, or labelled texts for a classifier."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distilrt.checkpoint.files import replacing
from distilrt.distill.masking import Ids, Masking, Numbers
from distilrt.errors import InvalidInput
from distilrt.model.config import DistilBertConfig
from distilrt.text.tokenizer import DistilBertTokenizer

NONE = -100  # the label of a row without one
_LINES = 2000  # tokenized at a time
_LONGEST = 65536  # characters; a longer line is read in parts
_SEQUENCES = 4096  # counted at a time


class Examples(NamedTuple):
    """A batch for student and teacher: sequences without padding, the rows whose logits count, right answers there."""

    sequences: Sequence[Ids]  # each [length]
    rows: Numbers  # [n] rising numbers of tokens, where all sequences lie end to end
    labels: Numbers  # [n], or NONE


class PackedText:
    """Sequences of `length` token ids, the first of each the classifier token, the last the separator token.

    The text between lies end to end (the full sentences of Liu et al. 2019, arXiv:1907.11692) in a file from
    `write_ids`, which is mapped into memory. `vocab_size` is the model's, the other arguments are those of `Masking`.
    A file with special tokens alone is an InvalidInput.
    """

    def __init__(
        self, file: Path, length: int, tokenizer: DistilBertTokenizer, vocab_size: int, share: float, smoothing: float
    ) -> None:
        ids = np.memmap(file, np.int32, mode="r") if file.stat().st_size else np.empty(0, np.int32)
        count = len(ids) // (length - 2)
        self._blocks = ids[: count * (length - 2)].reshape(count, length - 2)
        self._ends = tokenizer.cls_token_id, tokenizer.sep_token_id
        counts = np.zeros(vocab_size, np.int64)
        for start in range(0, count, _SEQUENCES):
            counts += np.bincount(self._blocks[start : start + _SEQUENCES].reshape(-1), minlength=vocab_size)
        special: list[Any] = tokenizer.all_special_ids
        if count and not np.delete(counts, special).any():
            raise InvalidInput(f"the corpus has no word to mask: all are {tokenizer.unk_token} to the tokenizer")
        mask_id = tokenizer.convert_tokens_to_ids(tokenizer.mask_token)
        self._masking = Masking(counts, mask_id, special, share, smoothing)

    def __len__(self) -> int:
        return len(self._blocks)

    def examples(self, numbers: Numbers, rng: np.random.Generator) -> Examples:
        """Masked sequences; labels are what stood in the chosen places."""
        first, last = (np.full((len(numbers), 1), end, np.int32) for end in self._ends)
        masked, rows, labels = self._masking(np.hstack([first, self._blocks[numbers], last]), rng)
        return Examples(list(masked), rows, labels)


def write_ids(paths: Sequence[str], tokenizer: DistilBertTokenizer, target: Path) -> None:
    """Write the token ids of the lines of text files as int32; the file is there whole or not at all.

    Documents end with a blank line or a file, and the separator token stands between them. Errors are those of
    `lines_of`, and an OSError where the disk is full.
    """
    encode, separator = tokenizer.backend_tokenizer.encode_batch, [tokenizer.sep_token_id]
    lines = (line for path in paths for _, line in chain(lines_of(path, _LONGEST), [(0, "")]))
    with replacing(target) as out:
        between = True  # documents, hence there is nothing to separate
        while batch := list(islice(lines, _LINES)):
            for line, encoding in zip(batch, encode(batch, add_special_tokens=False), strict=True):
                ids = encoding.ids if line or between else separator
                out.write(np.array(ids, np.int32).tobytes())
                between = not line or (between and not ids)


class LabelledText:
    """Texts, one a line, tokenized and cut to `length` tokens.

    A line is plain text, a JSON string, or an object `{"text": …, "label": …}` whose label is a name or number of the
    teacher's, which `config` has, or is left out unless `strict`. One that is not is an InvalidInput; other errors
    are those of `lines_of`.
    """

    def __init__(
        self, paths: Sequence[str], tokenizer: DistilBertTokenizer, length: int, config: DistilBertConfig, strict: bool
    ) -> None:
        labels: dict[Any, int] = {**(config.label2id or {}), **{number: number for number in config.id2label or {}}}
        if not strict:
            labels[None] = NONE
        lines = ((path, number, line) for path in paths for number, line in lines_of(path) if line)
        items = [_item(line, labels, f"{path}, line {number}") for path, number, line in lines]
        found = tokenizer([text for text, _ in items], truncation=True, max_length=length)["input_ids"] if items else []
        self._ids = [np.array(ids, np.int32) for ids in found]
        self._labels = np.array([label for _, label in items], np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def examples(self, numbers: Numbers, rng: np.random.Generator) -> Examples:
        """The texts as they are; the logits of a classifier are those of the first token."""
        sequences = [self._ids[number] for number in numbers]
        return Examples(sequences, np.cumsum([0, *map(len, sequences[:-1])]), self._labels[numbers])


Corpus = PackedText | LabelledText  # numbered sequences; what is random in its `examples` is drawn from `rng`


def _item(line: str, labels: Mapping[Any, int], where: str) -> tuple[str, int]:
    """The text of a line and the number of its label; `labels` has it by name, number, and None if it may lack."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        if line.startswith('{"'):
            advice = "mend it, or write a text that begins so as a JSON string"
            raise InvalidInput(f"{where} begins as a JSON object does and is none ({error}); {advice}") from None
        value = line
    if not isinstance(value, dict):  # Plain text may look like a number, true, null or a list.
        value = {"text": value if isinstance(value, str) else line}
    text, label = value.get("text"), value.get("label")
    if not isinstance(text, str) or value.keys() - {"text", "label"}:
        raise InvalidInput(f'{where} must be text or {{"text": …, "label": …}}, found keys {", ".join(value)}')
    if re.search("[\ud800-\udfff]", text):
        raise InvalidInput(f"{where} has half a surrogate pair, which no text has; leave it out")
    if type(label) not in (str, int, type(None)) or label not in labels:
        known = ", ".join(name for name in labels if isinstance(name, str))
        needed = ", which the hard loss alone can't do without," if label is None else ""
        raise InvalidInput(f"{where}: label {label!r}{needed} is none of the teacher's: {known}, or their numbers")
    return text, labels[label]


def lines_of(path: str, longest: int = -1) -> Iterator[tuple[int, str]]:
    """The number of each line, and the line without the space around it, in parts of at most `longest` characters.

    Raises:
        OSError: the file can't be read.
        InvalidInput: it is not UTF-8, or has a zero byte.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            number = 1
            while line := file.readline(longest):
                if "\0" in line:
                    raise InvalidInput(f"{path} is no text: line {number} has a zero byte; give UTF-8 text files")
                yield number, line.strip()
                number += line.endswith("\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is no UTF-8 text: {error}; convert it, or leave it out of the corpus") from None

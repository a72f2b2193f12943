"""The corpus of a masked language model: text files as sequences of full length, without padding.

Lines are tokenized in order and laid end to end, with the separator token where a blank line or a file ends a document
(the full sentences of Liu et al. 2019, arXiv:1907.11692). The ids lie in a file that is mapped into memory, so the
corpus may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np

from distilrt.checkpoint.files import replacing
from distilrt.distill.examples import Examples, Numbers
from distilrt.distill.masking import Masking
from distilrt.distill.text_lines import lines_of
from distilrt.text.tokenizer import DistilBertTokenizer

_LINES = 2000  # tokenized at a time
_SEQUENCES = 4096  # counted at a time


class PackedText:
    """Sequences `[length]` of token ids, each between the classifier and the separator token.

    Args:
        file: from `write_ids`.
        length: tokens of a sequence, these two among them.
        tokenizer: the one that `file` was made with.
        vocab_size: of the model.
        share, smoothing: see `Masking`.
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
        assert tokenizer.mask_token_id is not None
        special = [number for number in tokenizer.all_special_ids if number is not None]
        self._masking = Masking(counts, tokenizer.mask_token_id, special, share, smoothing)

    def __len__(self) -> int:
        return len(self._blocks)

    def examples(self, numbers: Numbers, rng: np.random.Generator) -> Examples:
        """Masked sequences; labels are what stood in the chosen places."""
        first, last = (np.full((len(numbers), 1), end, np.int32) for end in self._ends)
        masked, rows, labels = self._masking(np.hstack([first, self._blocks[numbers], last]), rng)
        return Examples(list(masked), rows, labels)


def write_ids(paths: Sequence[str], tokenizer: DistilBertTokenizer, target: Path) -> None:
    """Write the token ids of text files, end to end, as int32; the file is there whole or not at all.

    Raises:
        OSError, InvalidInput: as `lines_of`; or the disk is full.
    """
    encode, separator = tokenizer.backend_tokenizer.encode_batch, [tokenizer.sep_token_id]
    lines = (line for path in paths for _, line in chain(lines_of(path), [(0, "")]))
    with replacing(target) as out:
        between = True  # documents, hence there is nothing to separate
        while batch := list(islice(lines, _LINES)):
            for line, encoding in zip(batch, encode(batch, add_special_tokens=False), strict=True):
                ids = encoding.ids if line or between else separator
                out.write(np.array(ids, np.int32).tobytes())
                between = not line or (between and not ids)

"""A batch for student and teacher alike, and what it is taken from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


class Examples(NamedTuple):
    """Sequences without padding, the rows whose logits count, and the right answers there."""

    sequences: Sequence[npt.NDArray[np.int32]]  # token ids, each [length]
    rows: Numbers  # [n] rising numbers of tokens, where all sequences lie end to end
    labels: Numbers  # [n], -100 where there is none

    def padded(self, pad_id: int) -> tuple[Numbers, npt.NDArray[np.bool_] | None]:
        """Ids `[batch_size, seq_len]`, and where they are no padding; None where there is no padding."""
        lengths = np.array([len(ids) for ids in self.sequences])
        mask = np.arange(lengths.max()) < lengths[:, None]
        padded = np.full(mask.shape, pad_id, np.int64)
        padded[mask] = np.concatenate(self.sequences)
        return padded, None if mask.all() else mask


class Corpus(Protocol):
    """What a student is trained on; `len` is the number of its sequences."""

    def __len__(self) -> int: ...

    def examples(self, numbers: Numbers, rng: np.random.Generator) -> Examples:
        """The sequences of these numbers as a batch; what is random in it is drawn from `rng`."""
        ...

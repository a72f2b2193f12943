"""Masks: tokens that a masked language model must find, and what stands in their places, anew for every batch.

A share of the tokens is chosen, rare ones more often than frequent ones. Of the chosen, 80 % become the mask token,
10 % another token at random, and 10 % stay as they are (Devlin et al. 2018, arXiv:1810.04805).
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.int64]
MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens


class Masking:
    """Masks for one corpus and its tokenizer.

    Args:
        counts: `[vocab_size]`, how often each token occurs in the corpus.
        mask_id: the mask token.
        special_ids: tokens that are never chosen, and never stand in for another.
        share: the share of a batch's tokens that is chosen, rounded up.
        smoothing: a token is chosen with a probability in proportion to its count to the power of minus this.
    """

    def __init__(
        self, counts: Numbers, mask_id: int, special_ids: Collection[int], share: float, smoothing: float
    ) -> None:
        self._mask_id, self._share = mask_id, share
        self._log_weights = -smoothing * np.log(np.maximum(counts, 1))
        self._log_weights[list(special_ids)] = -np.inf
        self._words = np.flatnonzero(np.isfinite(self._log_weights)).astype(np.int32)

    def __call__(self, ids: Ids, rng: np.random.Generator) -> tuple[Ids, Numbers, Numbers]:
        """The ids with masks, the flat positions of the chosen tokens `[n]`, rising, and what stood there `[n]`.

        Where fewer tokens may be chosen than should be, all of them are.
        """
        flat = ids.reshape(-1)
        keys = self._log_weights[flat]
        number = min(math.ceil(self._share * flat.size), int(np.isfinite(keys).sum()))
        # The largest of log weights with Gumbel noise are a weighted sample without replacement.
        keys = keys + rng.gumbel(size=flat.size)
        chosen = np.sort(np.argpartition(-keys, number - 1)[:number]) if number else np.empty(0, np.int64)
        masked, dice = flat.copy(), rng.random(number)
        masked[chosen[dice < MASKED]] = self._mask_id
        others = chosen[(dice >= MASKED) & (dice < MASKED + REPLACED)]
        masked[others] = rng.choice(self._words, len(others))
        return masked.reshape(ids.shape), chosen, flat[chosen].astype(np.int64)

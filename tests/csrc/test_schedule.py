"""csrc/schedule.*: whichever thread computes a sequence, whatever beside it, its numbers are the same to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt import _C
from distilrt.backends.cpu import CpuBackend
from distilrt.batch import pack
from distilrt.checkpoint.weights import random_weights
from distilrt.model.config import DistilBertConfig

CONFIG = DistilBertConfig(dim=48, n_heads=2, n_layers=2, hidden_dim=100, vocab_size=60)
# Shared out in every way: too short to divide, a sequence or several on each thread, leftovers done together.
BATCHES = [(7,), (100, 100), (64,) * 4, (128,) * 9, (512, 512, 512), (500, 3, 120, 40, 40, 300, 1, 1, 130), (20,) * 40]


@pytest.mark.parametrize("dtype", _C.dtypes())
@pytest.mark.parametrize("lengths", BATCHES, ids=lambda lengths: f"{len(lengths)}x{max(lengths)}")
@pytest.mark.parametrize("num_threads", [1, 2, 3, 5])
def test_rows_do_not_depend_on_the_schedule(rng: Any, dtype: str, lengths: tuple[int, ...], num_threads: int) -> None:
    weights = random_weights(CONFIG, "DistilBertModel")
    one, many = (CpuBackend(CONFIG, weights, dtype=dtype, num_threads=n) for n in (1, num_threads))
    sequences = [rng.integers(0, CONFIG.vocab_size, length) for length in lengths]
    alone = [one.forward(pack(CONFIG, [sequence]), all_layers=True) for sequence in sequences]
    batch = pack(CONFIG, sequences)
    many.forward(batch)
    many._encoder.poison_workspace()
    layers = many.forward(batch, all_layers=True)
    np.testing.assert_array_equal(layers, np.concatenate(alone, axis=1))
    np.testing.assert_array_equal(many.forward(batch), layers[-1])
    wanted = np.flatnonzero(rng.random(sum(lengths)) < 0.1)
    np.testing.assert_array_equal(many.forward(batch, wanted=wanted), layers[-1][wanted])
    firsts = np.cumsum((0, *lengths[:-1]))
    np.testing.assert_array_equal(many.forward(batch, wanted=firsts), layers[-1][firsts])

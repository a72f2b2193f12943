"""Masks: how many, which tokens, and what stands in their places."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distilrt.distill.masking import Masking

SPECIAL, MASK = [0, 1, 2, 3], 3
COUNTS = np.array([9, 9, 9, 0, *range(1, 97)], np.int64)


def ids_of(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    ids = rng.integers(4, 100, shape).astype(np.int32)
    ids[:, 0], ids[:, -1] = 1, 2
    return ids


@pytest.mark.parametrize("share", [0.01, 0.15, 0.5])
@pytest.mark.parametrize("shape", [(1, 8), (3, 33), (16, 128)])
def test_number_and_labels(rng: np.random.Generator, share: float, shape: tuple[int, int]) -> None:
    ids = ids_of(rng, shape)
    masked, rows, labels = Masking(COUNTS, MASK, SPECIAL, share, 0.7)(ids, rng)
    assert masked.shape == ids.shape
    assert len(rows) == math.ceil(share * ids.size)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(labels, ids.reshape(-1)[rows])
    assert not set(labels) & set(SPECIAL)
    others = np.ones(ids.size, bool)
    others[rows] = False
    np.testing.assert_array_equal(masked.reshape(-1)[others], ids.reshape(-1)[others])


def test_shares_of_mask_random_and_same(rng: np.random.Generator) -> None:
    ids = ids_of(rng, (100, 1000))
    masked, rows, labels = Masking(COUNTS, MASK, SPECIAL, 0.5, 0.0)(ids, rng)
    found = masked.reshape(-1)[rows]
    same, mask = (found == labels).mean(), (found == MASK).mean()
    assert mask == pytest.approx(0.8, abs=0.01)
    assert same == pytest.approx(0.1 + 0.1 / 96, abs=0.01)  # a random token may be the same
    replaced = found[(found != MASK) & (found != labels)]
    assert set(replaced) == set(range(4, 100))


def test_rare_tokens_are_chosen_as_their_counts_say(rng: np.random.Generator) -> None:
    """Two tokens at equally many places, the one 81 times as frequent in the corpus as the other."""
    counts = np.array([0, 0, 0, 0, 1, 81], np.int64)
    ids = np.tile(np.array([4, 5], np.int32), (100, 500))
    masking = Masking(counts, MASK, SPECIAL, 0.001, 0.7)
    chosen = np.concatenate([masking(ids, rng)[2] for _ in range(60)])
    assert (chosen == 4).sum() / (chosen == 5).sum() == pytest.approx(81**0.7, rel=0.15)


def test_special_tokens_alone_are_left_alone(rng: np.random.Generator) -> None:
    masked, rows, labels = Masking(COUNTS, MASK, SPECIAL, 0.15, 0.7)(np.ones((2, 5), np.int32), rng)
    assert (masked == 1).all()
    assert len(rows) == len(labels) == 0


def test_the_same_seed_gives_the_same_masks(rng: np.random.Generator) -> None:
    ids, masking = ids_of(rng, (4, 64)), Masking(COUNTS, MASK, SPECIAL, 0.15, 0.7)
    one, two, three = (masking(ids, np.random.default_rng(seed)) for seed in (5, 5, 6))
    for part in range(3):
        np.testing.assert_array_equal(one[part], two[part])
    assert not np.array_equal(one[0], three[0])

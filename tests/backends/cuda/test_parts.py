"""parts.py: which sequences and rows go into which bucket, and when few rows are finished alone."""

from __future__ import annotations

import numpy as np
import pytest

from distilrt.backends.cuda.graphs import Bucket
from distilrt.backends.cuda.parts import divide
from distilrt.batch import pack
from distilrt.errors import TooLong
from distilrt.model.config import DistilBertConfig

CONFIG = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=9, max_position_embeddings=64)
BUCKETS = (Bucket(16, 4), Bucket(32, 4), Bucket(48, 8))


def test_parts_cover_the_batch_and_the_wanted_rows() -> None:
    rng = np.random.default_rng()
    for _ in range(100):
        batch = pack(CONFIG, [np.zeros(n, np.int64) for n in rng.integers(1, 49, rng.integers(1, 12))])
        wanted = np.flatnonzero(rng.random(batch.total_tokens) < rng.random())
        for given in (None, wanted, batch.cu_seqlens[:-1].astype(np.int64)):
            parts = divide(batch, given, BUCKETS, "cuda:0", few=True)
            assert (parts[0].first, parts[-1].end) == (0, batch.num_seqs)
            size = batch.total_tokens if given is None else len(given)
            assert [part.out.start for part in parts] == [0, *(part.out.stop for part in parts[:-1])]
            assert parts[-1].out.stop == size
            for part in parts:
                assert part.rows == slice(*batch.cu_seqlens[[part.first, part.end]].tolist())
                count = part.out.stop - part.out.start
                smaller = [b for b in BUCKETS if b.tokens < part.bucket.tokens]
                assert all(
                    part.rows.stop - part.rows.start > b.tokens or part.end - part.first > b.seqs for b in smaller
                )
                assert part.few == (given is not None and count <= part.bucket.seqs)
                if given is not None:
                    rows = given[part.out]
                    assert ((rows >= part.rows.start) & (rows < part.rows.stop)).all()
        assert not any(part.few for part in divide(batch, wanted, BUCKETS, "cuda:0", few=False))


def test_first_rows_are_always_few() -> None:
    batch = pack(CONFIG, [np.zeros(1, np.int64)] * 40)
    parts = divide(batch, batch.cu_seqlens[:-1].astype(np.int64), BUCKETS, "cuda:0", few=True)
    assert [part.end - part.first for part in parts] == [8] * 5
    assert all(part.few for part in parts)
    assert divide(pack(CONFIG, []), None, BUCKETS, "cuda:0", few=True) == []


def test_what_does_not_fit() -> None:
    batch = pack(CONFIG, [np.zeros(49, np.int64)])
    with pytest.raises(TooLong, match="a sequence has 49 tokens, and the workspace of this model on cuda:1 holds 48"):
        divide(batch, None, BUCKETS, "cuda:1", few=True)
    with pytest.raises(ValueError, match=r"wanted rows must rise and be 0 to 2, found \[1, 1\]"):
        divide(pack(CONFIG, [[1, 2, 3]]), np.array([1, 1]), BUCKETS, "cuda:1", few=True)

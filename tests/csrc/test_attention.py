"""csrc/attention-inl.h against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt import reference

LENGTHS = [1, 2, 63, 64, 65, 127, 511, 512]


def _run(kernels: Any, q: Any, k: Any, v: Any) -> Any:
    out = np.full_like(q, np.nan)
    kernels.attention(q, k, v, out=out)
    return out


def _exact(q: Any, k: Any, v: Any, dtype: Any = float) -> Any:
    return reference.attention_probs(q.astype(dtype), k.astype(dtype), 1)[0] @ v.astype(dtype)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("head_dim", [16, 18, 32, 64, 80, 100, 128])
def test_attention(kernels: Any, rng: Any, assert_close: Any, length: int, head_dim: int) -> None:
    q, k, v = (rng.standard_normal((length, head_dim), np.float32) for _ in range(3))
    assert_close(_run(kernels, q, k, v), _exact(q, k, v), _exact(q, k, v, np.float32))


@pytest.mark.parametrize(("queries", "keys"), [(1, 64), (65, 64), (3, 2), (130, 129)])
def test_rows_that_only_ask(kernels: Any, rng: Any, assert_close: Any, queries: int, keys: int) -> None:
    q = rng.standard_normal((queries, 64), np.float32)
    k, v = (rng.standard_normal((keys, 64), np.float32) for _ in range(2))
    assert_close(_run(kernels, q, k, v), _exact(q, k, v), _exact(q, k, v, np.float32))


def test_large_scores_do_not_overflow(kernels: Any, rng: Any, assert_close: Any) -> None:
    q, k, v = (rng.standard_normal((70, 64), np.float32) * np.float32(30) for _ in range(3))
    assert_close(_run(kernels, q, k, v), _exact(q, k, v), _exact(q, k, v, np.float32))


def test_nan_reaches_exactly_the_queries_that_ask_with_it(kernels: Any, rng: Any) -> None:
    q, k, v = (rng.standard_normal((20, 32), np.float32) for _ in range(3))
    q[3, 5] = np.nan
    out = _run(kernels, q, k, v)
    assert np.isnan(out[3]).all()
    assert np.isfinite(np.delete(out, 3, axis=0)).all()
    k[7, 0] = np.nan
    assert np.isnan(_run(kernels, q, k, v)).all()

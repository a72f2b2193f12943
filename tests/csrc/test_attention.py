"""csrc/attention-inl.h against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt.model import functional

LENGTHS = [1, 2, 63, 64, 65, 127, 511, 512]


def _run(kernels: Any, q: Any, k: Any, v: Any) -> Any:
    out = np.full_like(q, np.nan)
    kernels.attention(q, k, v, out=out)
    return out


def _exact(q: Any, k: Any, v: Any, dtype: Any = float) -> Any:
    return functional.attention_probs(q.astype(dtype), k.astype(dtype), 1)[0] @ v.astype(dtype)


def _check(kernels: Any, assert_close: Any, q: Any, k: Any, v: Any) -> None:
    # An average of values of both signs may be much smaller than they are, and rounds as that of their sizes. A row
    # or two of plain results may happen to be nearly exact; then the ulp of what is averaged counts.
    largest_term = np.abs(v).max() if len(q) <= 2 else _exact(q, k, np.abs(v)).max(initial=0)
    assert_close(_run(kernels, q, k, v), _exact(q, k, v), _exact(q, k, v, np.float32), largest_term)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("head_dim", [1, 3, 8, 16, 18, 32, 64, 80, 100, 128])
def test_attention(kernels: Any, rng: Any, assert_close: Any, length: int, head_dim: int) -> None:
    q, k, v = (rng.standard_normal((length, head_dim), np.float32) for _ in range(3))
    _check(kernels, assert_close, q, k, v)


@pytest.mark.parametrize(("queries", "keys"), [(1, 64), (65, 64), (3, 2), (130, 129), (9, 0)])
def test_rows_that_only_ask(kernels: Any, rng: Any, assert_close: Any, queries: int, keys: int) -> None:
    q = rng.standard_normal((queries, 64), np.float32)
    k, v = (rng.standard_normal((keys, 64), np.float32) for _ in range(2))
    _check(kernels, assert_close, q, k, v)


def test_large_scores_do_not_overflow(kernels: Any, rng: Any) -> None:
    """Scores in the hundreds: only rows whose two best keys nearly tie show an error, so few decide a mean.

    Hence a bound by analysis: a dot product of d terms is within (d + 4) ulp / 2 of sum |q k| (the scale, the exponent
    and its reduction take the 4), and a probability moves by twice that, relative to itself (Higham, section 3.1).
    """
    q, k, v = (rng.standard_normal((70, 64), np.float32) * np.float32(30) for _ in range(3))
    out = _run(kernels, q, k, v)
    exact = _exact(q, k, v)
    half_ulp = np.finfo(np.float32).eps / 2
    score_error = (64 + 4) * half_ulp * (np.abs(q).astype(float) @ np.abs(k).T.astype(float)).max(1) / 8
    probs = functional.attention_probs(q.astype(float), k.astype(float), 1)[0]
    spread = np.einsum("ij,ijd->id", probs, np.abs(v[None] - exact[:, None]))
    bound = 2 * score_error[:, None] * spread + (70 + 4) * half_ulp * (probs @ np.abs(v))
    assert (np.abs(out - exact) <= bound).all()


def test_nan_reaches_exactly_the_queries_that_ask_with_it(kernels: Any, rng: Any) -> None:
    q, k, v = (rng.standard_normal((20, 32), np.float32) for _ in range(3))
    q[3, 5] = np.nan
    out = _run(kernels, q, k, v)
    assert np.isnan(out[3]).all()
    assert np.isfinite(np.delete(out, 3, axis=0)).all()
    k[7, 0] = np.nan
    assert np.isnan(_run(kernels, q, k, v)).all()

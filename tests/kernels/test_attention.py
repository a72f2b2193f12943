from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from distilrt.kernels import launch, tiles
from distilrt.kernels.attention import attention
from distilrt.model import functional
from tests.kernels.conftest import LENGTHS, Close, double, empty, ints

Normal = Callable[..., torch.Tensor]


def _batch(lengths: Sequence[int], max_seqs: int, asking: Sequence[int] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """`cu_seqlens` padded with the total, and `key_lengths`; the last row of the sequences `asking` is no key."""
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    keys = [length - (seq in asking) for seq, length in enumerate(lengths)]
    spare = max_seqs - len(lengths)
    return ints(*ends, *[ends[-1]] * spare), ints(*keys, *[0] * spare)


def _plain(qkv: torch.Tensor, cu_seqlens: torch.Tensor, key_lengths: torch.Tensor, heads: int) -> torch.Tensor:
    """torch's own operations in the dtype of `qkv`, sequence by sequence."""
    parts = []
    for start, end, keys in zip(cu_seqlens[:-1], cu_seqlens[1:], key_lengths, strict=True):
        if end > start:
            q, k, v = (part.reshape(len(part), heads, -1).transpose(0, 1) for part in qkv[start:end].chunk(3, 1))
            k, v = k[:, :keys], v[:, :keys]
            weights = torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, -1)
            parts.append((weights @ v).transpose(0, 1).reshape(int(end - start), -1))
    return torch.cat(parts)


def _check(normal: Normal, assert_close: Close, dtype: torch.dtype, lengths: Sequence[int], heads: int, head_dim: int,
           max_seqlen: int | None = None, asking: Sequence[int] = ()) -> None:  # fmt: skip
    """Attention over a batch in buffers with room for 3 more sequences and 5 more rows, all NaN."""
    width, total = heads * head_dim, sum(lengths)
    cu_seqlens, key_lengths = _batch(lengths, len(lengths) + 3, asking)
    qkv, out = normal(total + 5, 3 * width, dtype=dtype), empty(total + 5, width, dtype=dtype)
    qkv[total:] = float("nan")
    before = qkv.clone()
    attention(out, qkv, cu_seqlens, key_lengths, heads, max_seqlen=max_seqlen or max(lengths))
    assert torch.equal(qkv.nan_to_num(), before.nan_to_num())
    q, k, v = double(qkv[:total]).reshape(total, 3, width).transpose(1, 0, 2)
    count = len(lengths)
    exact = functional.attention(q, k, v, cu_seqlens.numpy()[: count + 1], key_lengths.numpy()[:count], heads)
    assert_close(out[:total], exact, _plain(qkv[:total], cu_seqlens, key_lengths, heads))
    assert out[total:].isnan().all()


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(length: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    _check(normal, assert_close, dtype, [length], 1, 32)


@pytest.mark.parametrize("head_dim", [1, 8, 16, 18, 32, 64, 80, 100, 128])
@pytest.mark.parametrize("max_seqlen", [33, 512])
def test_head_dims(head_dim: int, max_seqlen: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    _check(normal, assert_close, dtype, [33, 1, 20], 2, head_dim, max_seqlen)


@pytest.mark.parametrize("asking", [(), (0, 2, 3)])
def test_mixed_lengths(asking: tuple[int, ...], normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    _check(normal, assert_close, dtype, [5, 1, 130, 64, 2], 2, 16, asking=asking)


@pytest.mark.parametrize("max_seqlen", [33, 512])
def test_a_sequence_without_keys(max_seqlen: int, dtype: torch.dtype, normal: Normal, assert_close: Close) -> None:
    """Its last row asks, and so does its only one."""
    _check(normal, assert_close, dtype, [5, 1, 7], 2, 16, max_seqlen, asking=(0, 1))


def test_more_sequences_than_one_step_of_the_search(
    normal: Normal, assert_close: Close, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilrt.kernels.attention.SEARCH_BLOCK", 4)
    _check(normal, assert_close, torch.float32, [1, 2, 30] * 5, 1, 16)


@pytest.mark.parametrize("chip", [tiles.A100, tiles.L40S, tiles.B200], ids=lambda chip: f"sm_{chip.capability}")
def test_tiles_of_other_chips(
    chip: tiles.Chip, normal: Normal, assert_close: Close, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "stand_in", chip)
    _check(normal, assert_close, dtype, [133, 3], 1, 64)


@pytest.mark.parametrize("max_seqlen", [64, 512])
def test_batch_mates_do_not_matter(max_seqlen: int, normal: Normal, dtype: torch.dtype) -> None:
    width, own = 32, normal(37, 96, dtype=dtype)
    results = []
    for before, after in (([], []), ([1, 30], [5]), ([64, 3, 9], [64])):
        lengths = [*before, 37, *after]
        qkv = normal(sum(lengths), 96, dtype=dtype)
        start = sum(before)
        qkv[start : start + 37] = own
        out = empty(len(qkv), width, dtype=dtype)
        attention(out, qkv, *_batch(lengths, 8, asking=[len(before)]), 2, max_seqlen=max_seqlen)
        results.append(out[start : start + 37])
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_large_scores_do_not_overflow(normal: Normal) -> None:
    """Scores of hundreds: exp of one would be infinite, and all but one weight vanish.

    A score of head_dim products is off by at most `(head_dim + 4) eps` of the sum of their sizes, a weight by that in
    relation, once for itself and once for the sum of all, and the result by the same of the largest value.
    """
    head_dim = 16
    for max_seqlen in (40, 512):
        qkv = normal(40, 6 * head_dim) * 30
        cu_seqlens, key_lengths = _batch([40], 1)
        out = empty(40, 2 * head_dim)
        attention(out, qkv, cu_seqlens, key_lengths, 2, max_seqlen=max_seqlen)
        q, k, v = double(qkv).reshape(40, 3, 2 * head_dim).transpose(1, 0, 2)
        exact = functional.attention(q, k, v, cu_seqlens.numpy(), key_lengths.numpy(), 2)
        sizes = (np.abs(q) @ np.abs(k).T).max() * head_dim**-0.5  # of both heads together, so more than of one
        relative = 2 * (head_dim + 4) * np.finfo(np.float32).eps * sizes
        assert np.abs(double(out) - exact).max() <= (relative + 1e-6) * np.abs(v).max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv": torch.empty(4, 95)}, r"qkv must be .* \[4, 96\]"),
        ({"num_heads": 3}, "must be a whole number of 1 to 128, found 32 / 3"),
        ({"cu_seqlens": ints(0, 4, 4)}, r"cu_seqlens must be contiguous int32 of shape \[2\]"),
        ({"key_lengths": torch.ones(1)}, "key_lengths must be contiguous int32"),
    ],
)
def test_bad_arguments(changes: dict[str, torch.Tensor | int], message: str) -> None:
    good = {"out": torch.empty(4, 32), "qkv": torch.empty(4, 96), "cu_seqlens": ints(0, 4), "key_lengths": ints(4),
            "num_heads": 2}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        attention(**{**good, **changes}, max_seqlen=4)  # type: ignore[arg-type]

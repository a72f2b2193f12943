"""Attention of some queries alone, against the rows of attention of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from distilrt.kernels.row_attention import row_attention
from distilrt.model import functional
from tests.kernels.conftest import LENGTHS, Close, double, empty, ints

Normal = Callable[..., torch.Tensor]


def _check(normal: Normal, assert_close: Close, dtype: torch.dtype, lengths: Sequence[int], index: Sequence[int],
           heads: int, head_dim: int, asking: Sequence[int] = (), max_seqlen: int | None = None) -> None:  # fmt: skip
    """Buffers with room for 3 more sequences, 5 more rows and 2 more queries, all NaN."""
    ends, width = np.cumsum([0, *lengths]), heads * head_dim
    keys, total = [length - (seq in asking) for seq, length in enumerate(lengths)], int(ends[-1])
    cu_seqlens, key_lengths = ints(*ends, total, total, total), ints(*keys, 0, 0, 0)
    qkv, rows = normal(total + 5, 3 * width, dtype=dtype), normal(total + 5, width, dtype=dtype)
    qkv[total:] = float("nan")
    out, picked = (empty(len(index) + 2, width, dtype=dtype) for _ in range(2))
    row_attention(out, picked, qkv, rows, ints(*index, -77, -77, len(index)), cu_seqlens, key_lengths, heads,
                  max_seqlen=max_seqlen or max(lengths))  # fmt: skip
    assert torch.equal(picked[: len(index)], rows[list(index)])
    q, k, v = double(qkv[:total]).reshape(total, 3, width).transpose(1, 0, 2)
    exact = functional.attention(q, k, v, ends.astype(np.int32), np.array(keys, np.int32), heads)[list(index)]
    parts = []
    for row in index:
        seq = int(np.searchsorted(ends, row, "right")) - 1
        query = qkv[row, :width].reshape(heads, 1, head_dim)
        own = qkv[ends[seq] : ends[seq] + keys[seq]].reshape(-1, 3, heads, head_dim).permute(1, 2, 0, 3)
        weights = torch.softmax(query @ own[1].transpose(1, 2) * head_dim**-0.5, -1)
        parts.append((weights @ own[2]).reshape(1, width))
    assert_close(out[: len(index)], exact, torch.cat(parts))
    assert out[len(index) :].isnan().all()
    assert picked[len(index) :].isnan().all()


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(length: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    _check(normal, assert_close, dtype, [length], sorted({0, length // 2, length - 1}), 1, 32)


@pytest.mark.parametrize("head_dim", [1, 8, 16, 18, 32, 64, 80, 100, 128])
def test_head_dims(head_dim: int, normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    _check(normal, assert_close, dtype, [33, 1, 20], [0, 33, 34], 2, head_dim)


@pytest.mark.parametrize("index", [(0, 5, 6, 136, 200), (3, 4, 5, 135, 201), (201,)])
@pytest.mark.parametrize("asking", [(), (0, 2, 3, 4)])
def test_first_rows_and_others(
    index: tuple[int, ...], asking: tuple[int, ...], normal: Normal, assert_close: Close, dtype: torch.dtype
) -> None:
    """Rows that only ask are rows like others; their sequences' keys end before them."""
    _check(normal, assert_close, dtype, [5, 1, 130, 64, 2], index, 2, 16, asking, 512)


def test_more_sequences_than_one_step_of_the_search(
    normal: Normal, assert_close: Close, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilrt.kernels.row_attention.SEARCH_BLOCK", 4)
    _check(normal, assert_close, torch.float32, [1, 2, 30] * 3, [0, 1, 33, 36, 98], 1, 16)


def test_batch_mates_do_not_matter(normal: Normal, dtype: torch.dtype) -> None:
    own, found = normal(37, 96, dtype=dtype), []
    for before, after in (([], []), ([1, 30], [5]), ([64, 3, 9], [64])):
        lengths = [*before, 37, *after]
        qkv, start = normal(sum(lengths), 96, dtype=dtype), sum(before)
        qkv[start : start + 37] = own
        out, picked = empty(1, 32, dtype=dtype), empty(1, 32, dtype=dtype)
        row_attention(out, picked, qkv, normal(len(qkv), 32, dtype=dtype), ints(start + 3, 1),
                      ints(*np.cumsum([0, *lengths])), ints(*lengths), 2, max_seqlen=64)  # fmt: skip
        found.append(out)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_no_rows_and_large_scores(normal: Normal) -> None:
    """Nothing is written for no rows; scores of hundreds do not overflow, and all but one weight vanish."""
    qkv = normal(40, 96) * 30
    out, picked = empty(1, 32), empty(1, 32)
    arguments = (out, picked, qkv, normal(40, 32), ints(3, 0), ints(0, 40), ints(40), 2)
    row_attention(*arguments, max_seqlen=40)
    assert out.isnan().all()
    row_attention(*arguments[:4], ints(3, 1), *arguments[5:], max_seqlen=40)
    assert out.isfinite().all()
    assert out.abs().max() <= qkv[:, 64:].abs().max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv": torch.empty(4, 95)}, r"qkv must be .* \[any, 96\]"),
        ({"picked": torch.empty(3, 32)}, r"picked must be .* \[2, 32\]"),
        ({"rows": torch.empty(3, 32)}, r"rows must be .* \[4, 32\]"),
        ({"index": ints(0, 1)}, r"index must be contiguous int32 of shape \[3\]"),
        ({"num_heads": 3}, "must be a whole number of 1 to 128, found 32 / 3"),
        ({"cu_seqlens": ints(0, 4, 4)}, r"cu_seqlens must be contiguous int32 of shape \[2\]"),
    ],
)
def test_bad_arguments(changes: dict[str, torch.Tensor | int], message: str) -> None:
    good = {"out": torch.empty(2, 32), "picked": torch.empty(2, 32), "qkv": torch.empty(4, 96),
            "rows": torch.empty(4, 32), "index": ints(0, 1, 2), "cu_seqlens": ints(0, 4), "key_lengths": ints(4),
            "num_heads": 2}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        row_attention(**{**good, **changes}, max_seqlen=4)  # type: ignore[arg-type]

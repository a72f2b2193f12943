from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.cuda.graphs import cut, ladder, pick, top_tokens
from distilrt.kernels import launch, tiles
from distilrt.kernels.attention import attention, max_query_blocks, query_blocks
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


def _blocks(out: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor], heads: int, max_seqlen: int) -> torch.Tensor:
    """The list of query blocks in a buffer with room for more."""
    name, size = launch.DTYPE_NAMES[out.dtype], min(max_seqlen, len(out))
    block_m = tiles.attention_tile(size, out.shape[1] // heads, name, launch.stand_in).block_m
    listed = query_blocks(batch[0].numpy(), batch[1].numpy(), block_m)
    room = max_query_blocks(len(out), len(batch[1]), block_m) + 1 - len(listed)
    return torch.from_numpy(np.concatenate([listed, np.full((room, 4), -77, np.int32)]))


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
    longest = max_seqlen or max(lengths)
    attention(out, qkv, _blocks(out, (cu_seqlens, key_lengths), heads, longest), heads, max_seqlen=longest)
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


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129])
def test_short_and_long_sequences_in_one_launch(length: int, normal: Normal, assert_close: Close) -> None:
    """Blocks of keys that are whole, begun and missing."""
    _check(normal, assert_close, torch.bfloat16, [length, 200], 1, 16, 512, asking=(0,))


@pytest.mark.parametrize("asking", [(), (0, 2, 3)])
def test_mixed_lengths(asking: tuple[int, ...], normal: Normal, assert_close: Close, dtype: torch.dtype) -> None:
    _check(normal, assert_close, dtype, [5, 1, 130, 64, 2], 2, 16, asking=asking)


@pytest.mark.parametrize("max_seqlen", [33, 512])
def test_a_sequence_without_keys(max_seqlen: int, dtype: torch.dtype, normal: Normal, assert_close: Close) -> None:
    """Its last row asks, and so does its only one."""
    _check(normal, assert_close, dtype, [5, 1, 7], 2, 16, max_seqlen, asking=(0, 1))


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
        blocks = _blocks(out, _batch(lengths, 8, asking=[len(before)]), 2, max_seqlen)
        attention(out, qkv, blocks, 2, max_seqlen=max_seqlen)
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
        attention(out, qkv, _blocks(out, (cu_seqlens, key_lengths), 2, max_seqlen), 2, max_seqlen=max_seqlen)
        q, k, v = double(qkv).reshape(40, 3, 2 * head_dim).transpose(1, 0, 2)
        exact = functional.attention(q, k, v, cu_seqlens.numpy(), key_lengths.numpy(), 2)
        sizes = (np.abs(q) @ np.abs(k).T).max() * head_dim**-0.5  # of both heads together, so more than of one
        relative = 2 * (head_dim + 4) * np.finfo(np.float32).eps * sizes
        assert np.abs(double(out) - exact).max() <= (relative + 1e-6) * np.abs(v).max()


def test_no_block() -> None:
    out = empty(4, 32)
    attention(out, torch.ones(4, 96), ints(0, 0, 0, 0, *[-77] * 8).view(3, 4), 2, max_seqlen=4)
    assert out.isnan().all()


def test_each_sequence_has_its_own_form(normal: Normal, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one launch a short sequence is taken in one block, without the second `exp2` that rescales what was summed."""
    calls: list[int] = []
    plain = np.exp2

    def counted(x: Any) -> Any:
        calls.append(x.size)
        return plain(x)

    monkeypatch.setattr(np, "exp2", counted)
    out, batch = empty(129, 16, dtype=torch.bfloat16), _batch([64, 65], 2)
    qkv = normal(129, 48, dtype=torch.bfloat16)
    attention(out, qkv, _blocks(out, batch, 1, 512), 1, max_seqlen=512)
    assert len(calls) == 1 + 2 * 2 * 2  # and the other in two blocks of queries, of two steps each


BATCHES = {
    "1x16": [16],
    "8x128": [128] * 8,
    "32x128": [128] * 32,
    "44x128": [128] * 44,
    "256x128": [128] * 256,
    "32x512": [512] * 32,
    "mixed": [4, 511, 77, 128, 1, 300, 16, 16, 65, 400] * 6,
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("chip", [tiles.A100, tiles.H200], ids=lambda chip: f"sm_{chip.capability}")
def test_no_program_has_much_more_than_its_share(batch: str, chip: tiles.Chip) -> None:
    """Items are the blocks of the list in each head, which programs take in turns; multiprocessors take programs in
    turns, as many as fit."""
    heads, buckets = 12, ladder(top_tokens(chip.num_sms, 768, 512))
    every = [0, *accumulate(BATCHES[batch])]
    for start, stop in cut(every, buckets[-1]):
        lengths = np.array(BATCHES[batch][start:stop], np.int32)
        ends = np.array([0, *accumulate(lengths.tolist())], np.int32)
        bucket = pick(buckets, int(ends[-1]), len(lengths))
        tile = tiles.attention_tile(bucket.tokens, 64, "bfloat16", chip)
        listed = query_blocks(ends, lengths, tile.block_m)
        assert len(listed) - 1 == listed[0, 0] == sum(-(-length // tile.block_m) for length in lengths.tolist())
        covered = np.concatenate([start + np.arange(first, min(first + tile.block_m, length))
                                  for start, first, length, _ in listed[1:]])  # fmt: skip
        assert (covered == np.arange(ends[-1])).all()
        items = int(listed[0, 0]) * heads
        programs = min(tile.programs, max_query_blocks(bucket.tokens, bucket.seqs, tile.block_m) * heads)
        most = -(-items // programs)
        assert most == 1 or most <= 1.15 * items / programs
        if items >= 4 * chip.num_sms:  # beneath, all run at once
            assert -(-items // chip.num_sms) <= 1.15 * items / chip.num_sms


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv": torch.empty(4, 95)}, r"qkv must be .* \[4, 96\]"),
        ({"num_heads": 3}, "must be a whole number of 1 to 128, found 32 / 3"),
        ({"blocks": torch.ones(2, 4)}, r"blocks must be contiguous int32 of shape \[any, 4\]"),
        ({"blocks": ints(0, 4, 4)}, r"blocks must be contiguous int32 of shape \[any, 4\]"),
    ],
)
def test_bad_arguments(changes: dict[str, torch.Tensor | int], message: str) -> None:
    good = {"out": torch.empty(4, 32), "qkv": torch.empty(4, 96), "blocks": ints(0, 0, 0, 0).view(1, 4),
            "num_heads": 2}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        attention(**{**good, **changes}, max_seqlen=4)  # type: ignore[arg-type]

"""How a batch packed on the host is cut among the buckets of a GPU, and in which form each part runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distilrt.backends.cuda.graphs import Bucket, cut, pick
from distilrt.batch import Batch, IndexArray
from distilrt.errors import TooLong


class Part(NamedTuple):
    """Whole sequences of a batch that one bucket holds."""

    first: int
    end: int
    rows: slice  # of the batch
    out: slice  # of what is returned: these rows, or the wanted ones among them
    bucket: Bucket
    few: bool  # whether the last layer finishes the wanted rows alone


def divide(
    batch: Batch, wanted: IndexArray | None, buckets: Sequence[Bucket], device: object, *, few: bool
) -> list[Part]:
    """Cut a batch into parts of whole sequences, each in the smallest bucket that holds it.

    Args:
        batch: packed rows.
        wanted: `[n]` rising row numbers; None: all rows.
        buckets: rising.
        device: for an error's words.
        few: a last layer may finish wanted rows alone, where they are no more than a bucket has sequences.

    Raises:
        ValueError: wanted rows that do not rise or are not there.
        TooLong: a sequence has more rows than the largest bucket.
    """
    longest, most, total = batch.max_seqlen, buckets[-1].tokens, batch.total_tokens
    if longest > most:
        raise TooLong(
            f"a sequence has {longest} tokens, and the workspace of this model on {device} holds {most}; split it, "
            "raise or unset DISTILRT_GPU_MEMORY, or use backend='cpu'"
        )
    if wanted is not None and wanted.size:
        outside = wanted.item(0) < 0 or wanted.item(-1) >= total
        if outside or (wanted.size > 1 and np.count_nonzero(wanted[1:] <= wanted[:-1])):
            raise ValueError(f"wanted rows must rise and be 0 to {total - 1}, found {wanted.tolist()}")
    parts = []
    start = low = 0
    ends = batch.cu_seqlens.tolist()
    for first, end in cut(ends, buckets[-1]):
        stop = ends[end]
        high = stop if wanted is None else wanted.size if stop == total else int(wanted.searchsorted(stop))
        bucket = pick(buckets, stop - start, end - first)
        part_few = few and wanted is not None and high - low <= bucket.seqs
        parts.append(Part(first, end, slice(start, stop), slice(low, high), bucket, part_few))
        start, low = stop, high
    return parts

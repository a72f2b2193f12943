"""Pinned memory through which batches go to a GPU and answers come back: persistent, for graphs hold its addresses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distilrt.backends.cuda.encoder import INTEGERS, Buffers
from distilrt.backends.cuda.parts import Part
from distilrt.batch import Batch, IndexArray
from distilrt.kernels.attention import query_blocks

try:
    from distilrt._C import BucketIntegers
except ImportError:
    BucketIntegers = None  # type: ignore[assignment,misc]


class Staging:
    """Pinned memory for the integers of one bucket, and for its head's output. One call at a time has it.

    Args:
        buffers: the bucket's.
        rows, width: of the head's output that comes back by this way.
        done: an event that is recorded behind the work of each call; None where there is no device.
    """

    def __init__(self, buffers: Buffers, rows: int, width: int, done: Any) -> None:
        self.done, self._buffers, pinned = done, buffers, done is not None
        self.block = torch.zeros(buffers.block.shape, dtype=torch.int32, device="cpu", pin_memory=pinned)
        origin, numbers = buffers.block.storage_offset(), self.block.numpy()
        views: dict[str, torch.Tensor] = {name: getattr(buffers, name) for name in INTEGERS}
        self._fields = {
            name: numbers[int(view.storage_offset() - origin) :][: view.numel()].reshape(view.shape)
            for name, view in views.items()
        }
        self._native: BucketIntegers | None = None
        if BucketIntegers is not None:
            self._native = BucketIntegers(*self._fields.values(), block_rows=buffers.block_rows)
        self._scores = torch.empty((rows, width), device="cpu", pin_memory=pinned)
        self._output = self._scores.numpy()

    def fill(self, part: Part, batch: Batch, wanted: IndexArray | None) -> None:
        """Write the integers of a part of a batch, when the work of the call before is done.

        Args:
            part: of `batch`, in this bucket.
            wanted: rows of the whole batch that are wanted, or None. Those of the part go into `wanted`, and their
                number, if they are few; else into `index`.
        """
        self._wait()
        if self._native is None:
            self._fill_by_numpy(part, batch, wanted)
        else:
            self._native.fill(batch.cu_seqlens, batch.key_lengths, batch.position_ids, batch.input_ids, wanted,
                              part.first, part.end, part.out.start, part.out.stop, part.few)  # fmt: skip

    def _fill_by_numpy(self, part: Part, batch: Batch, wanted: IndexArray | None) -> None:
        first, end, start, tokens = part.first, part.end, part.rows.start, part.rows.stop - part.rows.start
        fields, seqs = self._fields, end - first
        ends, keys = fields["cu_seqlens"], fields["key_lengths"][:seqs]
        np.subtract(batch.cu_seqlens[first:end], start, out=ends[:seqs])
        ends[seqs:] = tokens
        keys[:] = batch.key_lengths[first:end]
        blocks = query_blocks(ends[: seqs + 1], keys, self._buffers.block_rows)
        fields["query_blocks"][: len(blocks)] = blocks
        fields["position_ids"][:tokens] = batch.position_ids[part.rows]
        if batch.input_ids is not None:
            fields["input_ids"][:tokens] = batch.input_ids[part.rows]
        if wanted is not None:
            rows = wanted[part.out] - start
            fields["wanted" if part.few else "index"][: len(rows)] = rows
            if part.few:
                fields["wanted"][-1] = len(rows)

    def send(self) -> None:
        """Enqueue the copy of the integers to the device."""
        self._buffers.block.copy_(self.block, non_blocking=True)

    def receive(self, scores: torch.Tensor) -> None:
        """Enqueue the copy of the head's output from the device."""
        self._scores.copy_(scores, non_blocking=True)

    def read(self, out: npt.NDArray[np.float32]) -> None:
        """Wait for the head's output, and take its first rows."""
        self._wait()
        out[:] = self._output[: len(out)]

    def _wait(self) -> None:
        if self.done is not None:
            self.done.synchronize()

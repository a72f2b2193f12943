"""Packed weights lie side by side, so that the system can give them large pages."""

from __future__ import annotations

import numpy as np

from distilrt import _C


def test_each_begins_behind_the_one_before() -> None:
    """At the next cache line, unless a large one has memory of its own; and none is written over."""
    table = np.zeros((1, 4), np.float32)
    encoder = _C.Encoder(
        hidden_size=4, num_heads=1, num_layers=1, intermediate_size=4, activation="relu", eps=1e-12,
        word_embeddings=table, position_embeddings=table,
    )  # fmt: skip
    shapes = [(3, 5), (70, 33), (64, 1), (2**13, 2**10 + 1), (7, 9), (8, 9)]
    for value, shape in enumerate(shapes, 1):
        encoder.add_linear(str(value), [np.full(shape, value, np.float32)], [np.zeros(shape[0], np.float32)])
    panels = [encoder.linear_parts(str(value))["panels"] for value in range(1, len(shapes) + 1)]
    starts = [each.ctypes.data for each in panels]
    ends = [start + -(-each.nbytes // 64) * 64 for start, each in zip(starts, panels, strict=True)]
    assert all(start % 64 == 0 for start in starts)
    assert (starts[1], starts[2], starts[5]) == (ends[0], ends[1], ends[4])
    for value, (each, shape) in enumerate(zip(panels, shapes, strict=True), 1):
        weights = each.view(np.float32)
        assert np.count_nonzero(weights == value) == shape[0] * shape[1]
        assert np.count_nonzero(weights) == shape[0] * shape[1]

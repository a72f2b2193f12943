"""benches/agreement.py: the slowed engine is slower by what it says. The bench itself takes minutes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from benches.agreement import SLOWED, SLOWER, beside_itself, slowed
from distilrt.bench.findings import Findings


def test_slowed() -> None:
    """At least a twentieth longer than the answer itself took."""
    took = []

    async def answer(indices: Sequence[int]) -> list[Any]:
        start = time.perf_counter()
        await asyncio.sleep(0.02)
        took.append(time.perf_counter() - start)
        return list(indices)

    start = time.perf_counter()
    assert asyncio.run(slowed(answer)([3, 4])) == [3, 4]
    assert time.perf_counter() - start >= (1 + SLOWER) * took[0]


def test_the_slowed_one_is_compared_with_the_other() -> None:
    times = [1.0, 1.1, 0.9, 1.0, 1.05]
    rows = [{"target": name, "rounds_ms": [factor * time for time in times]}
            for name, factor in (("onnxruntime", 3.0), ("distilrt", 1.0), (SLOWED, 1.05))]  # fmt: skip
    assert beside_itself(Findings({}, {}, rows=rows)).ratio == pytest.approx(1 / 1.05)

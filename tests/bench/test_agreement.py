"""benches/agreement.py: the slowed engine is slower by what it says. The bench itself takes minutes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from benches.agreement import SLOWER, slowed


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

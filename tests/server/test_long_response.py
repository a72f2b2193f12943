"""engine/server/long_response.py: the same JSON as at once, with turns for others between the items."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import orjson
import pytest

from distilrt.server.long_response import LongResponse, array_pieces, in_turns, json_pieces

LONG = np.linspace(0, 1, 400_000, dtype=np.float32)
CONTENTS: dict[str, Any] = {
    "nothing": [], "one": [1], "two": [{"a": None}, "é"], "list": [LONG[:40_000]] * 9, "rows": [LONG.reshape(-1, 40)],
    "object": {"data": [{"index": 0, "vector": LONG[:9]}] * 2, "empty": {}, "none": [], "usage": {"tokens": 1}},
    "arrays": {"outputs": [{"name": "é", "data": LONG}, {"data": LONG[:7]}]}, "labels": [[{"score": 0.5}] * 3] * 2,
}  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS)
def test_an_answer_is_sent_as_encoded_at_once(content: str) -> None:
    sent: list[Any] = []
    turns = 0

    async def send(message: Any) -> None:
        sent.append(message)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.create_task(others())
        response = LongResponse(json_pieces(CONTENTS[content]), {"x-a": "b"})
        await response({"type": "http"}, send, send)  # type: ignore[arg-type]
        task.cancel()

    asyncio.run(main())
    start, *parts = sent
    body = b"".join(part["body"] for part in parts)
    headers = dict(start["headers"])
    assert body == orjson.dumps(CONTENTS[content], option=orjson.OPT_SERIALIZE_NUMPY)
    assert (start["status"], headers[b"content-length"], headers[b"x-a"]) == (200, str(len(body)).encode(), b"b")
    assert headers[b"content-type"] == b"application/json"
    assert [part["more_body"] for part in parts] == [True] * (len(parts) - 1) + [False]
    assert len(parts) == 1 or turns


def test_the_longest_that_others_wait() -> None:
    """While millions of numbers of one array are encoded."""
    gaps = []

    async def others() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()

    async def main() -> float:
        task = asyncio.create_task(others())
        await asyncio.sleep(0)
        start = time.perf_counter()
        await in_turns(json_pieces({"outputs": [{"data": np.tile(LONG, 10)}]}))
        task.cancel()
        return time.perf_counter() - start

    whole = asyncio.run(main())
    assert np.median(sorted(gaps)[-9:]) < whole / 10


def test_the_bytes_of_an_array() -> None:
    pieces = list(array_pieces(LONG.reshape(4, -1)))
    assert len(pieces) > 1
    assert b"".join(pieces) == LONG.tobytes()

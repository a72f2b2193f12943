"""engine/server/list_response.py: the same JSON as at once, with turns for others between the items."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import orjson
import pytest

from distilrt.server.list_response import ListResponse


@pytest.mark.parametrize(
    "items", [[], [1], [{"a": None}, "é"], [[0.5] * 40_000] * 9], ids=["none", "one", "two", "long"]
)
def test_a_list_is_sent_as_encoded_at_once(items: list[Any]) -> None:
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
        response = ListResponse([np.array(item) if item == [0.5] * 40_000 else item for item in items], {"x-a": "b"})
        await response({"type": "http"}, send, send)  # type: ignore[arg-type]
        task.cancel()

    asyncio.run(main())
    start, *parts = sent
    body = b"".join(part["body"] for part in parts)
    headers = dict(start["headers"])
    assert body == orjson.dumps(items)
    assert (start["status"], headers[b"content-length"], headers[b"x-a"]) == (200, str(len(body)).encode(), b"b")
    assert headers[b"content-type"] == b"application/json"
    assert [part["more_body"] for part in parts] == [True] * (len(parts) - 1) + [False]
    assert len(parts) == 1 or turns

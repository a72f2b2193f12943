"""A long JSON list as an HTTP response, encoded in turns with whatever else the event loop has to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_TURN = 0.005  # seconds of encoding after which others have a turn
_PIECE = 2**18  # bytes, about, that are handed to the connection at once


class ListResponse(Response):
    """The items are encoded one by one when the response is sent; no other thread could do it, as orjson holds the
    interpreter's lock. Items may hold NumPy arrays."""

    media_type = "application/json"

    def __init__(self, items: list[Any], headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers)
        self._items = items

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        pieces = []
        start = time.perf_counter()
        for piece in _pieces(self._items):
            pieces.append(piece)
            if time.perf_counter() - start > _TURN:
                await asyncio.sleep(0)
                start = time.perf_counter()
        self.headers["content-length"] = str(sum(map(len, pieces)))
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pieces.reverse()
        while pieces:
            body = pieces.pop()
            await send({"type": "http.response.body", "body": body, "more_body": bool(pieces)})


def _pieces(items: list[Any]) -> Iterator[bytes]:
    """The list in JSON, an item at least in each piece."""
    piece = bytearray(b"[")
    for index, item in enumerate(items):
        if index:
            piece += b","
        piece += orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY)
        if len(piece) > _PIECE:
            yield bytes(piece)
            piece.clear()
    piece += b"]"
    yield bytes(piece)

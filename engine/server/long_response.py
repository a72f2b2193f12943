"""A long answer as an HTTP response. It is encoded in steps, between which the event loop serves others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_TURN = 0.005  # seconds of encoding after which the event loop serves others
_PIECE = 2**18  # bytes, about, that are handed to the connection at once
_NUMBERS = 2**15  # of an array that are encoded at once, in some 2 ms


class LongResponse(Response):
    """A response whose body is made of pieces when it is sent.

    A thread would not help, since orjson holds the interpreter's lock.
    """

    def __init__(
        self, pieces: Iterable[bytes], headers: Mapping[str, str], media_type: str = "application/json"
    ) -> None:
        super().__init__(headers=headers, media_type=media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        pieces = await in_turns(self._pieces)
        self.headers["content-length"] = str(sum(map(len, pieces)))
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pieces.reverse()
        while pieces:
            body = pieces.pop()
            await send({"type": "http.response.body", "body": body, "more_body": bool(pieces)})


async def in_turns(pieces: Iterable[bytes]) -> list[bytes]:
    """All pieces; the event loop serves others in between."""
    made = []
    start = time.perf_counter()
    for piece in pieces:
        made.append(piece)
        if time.perf_counter() - start > _TURN:
            await asyncio.sleep(0)
            start = time.perf_counter()
    return made


def json_pieces(content: Any) -> Iterator[bytes]:
    """Content in JSON, which may hold NumPy arrays: in each piece at least an item of its list, or of a list in its
    object."""
    piece = bytearray()
    for part in _parts(content):
        piece += part
        if len(piece) > _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def array_pieces(array: npt.NDArray[Any]) -> Iterator[bytes]:
    """The bytes of a contiguous array."""
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _PIECE):
        yield flat[start : start + _PIECE].tobytes()


def _parts(content: Any, item: bool = False) -> Iterator[bytes]:
    """Content in JSON, in parts that are each encoded at once. An item of a list is such a part, except for its large
    arrays: a step of Python's for each number or label would take longer than encoding them all."""
    if _large(content):
        rows = max(1, _NUMBERS * len(content) // content.size)
        for start in range(0, len(content), rows):
            yield b"," if start else b"["
            yield _encoded(content[start : start + rows])[1:-1]
        yield b"]"
    elif isinstance(content, dict) and content and (not item or any(map(_large, content.values()))):
        for number, (name, value) in enumerate(content.items()):
            yield (b"," if number else b"{") + _encoded(name) + b":"
            yield from _parts(value)
        yield b"}"
    elif isinstance(content, list) and content and not item:
        for number, value in enumerate(content):
            yield b"," if number else b"["
            yield from _parts(value, item=True)
        yield b"]"
    else:
        yield _encoded(content)


def _large(content: Any) -> bool:
    return isinstance(content, np.ndarray) and content.size > _NUMBERS


def _encoded(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

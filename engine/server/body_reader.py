"""The bytes of a request's body, within the bounds of size, time and memory that the settings give."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive

from distilrt.errors import TooLarge
from distilrt.server.json_bodies import ENCODINGS, inflated
from distilrt.server.serving import Serving
from distilrt.server.statuses import Gone, TooSlow, UnknownEncoding

SMALL = 65536  # bytes of a body that takes nothing of the budget; a connection reads as many before it is asked to
MOST_DIGITS = 15  # A number in a header may have so many.


class BodyReader:
    """Reads the body of one request.

    Args:
        serving: with the settings and the budget of memory.
        client: to whose share of the budget the body belongs.
        headers: of the request, by their names in lower case.
        receive: ASGI's.

    Attributes:
        arrived: when the whole body was there, from when deadlines count; None: not yet.
    """

    def __init__(self, serving: Serving, client: str, headers: Mapping[str, str], receive: Receive) -> None:
        self._serving, self._client, self._headers, self._receive = serving, client, headers, receive
        self._held = 0  # bytes of the budget
        self.arrived: float | None = None

    async def read(self) -> bytes:
        """The body as it was before it was compressed.

        Raises:
            TooLarge, TooSlow: as the settings say.
            Malformed, UnknownEncoding: it is not compressed as its header says, or in another way.
            Gone: the client hung up.
        """
        settings = self._serving.settings
        most = settings.max_body_bytes
        encoding = self._headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise UnknownEncoding(f"the content-encoding must be one of {known}, found {encoding!r:.40}")
        announced = self._headers.get("content-length", "")
        size = int(announced[:MOST_DIGITS]) if announced.isdigit() else 0
        if size > most:
            raise TooLarge(f"the body has {announced} bytes, at most {most} are allowed; send fewer inputs")
        await self._take(most if encoding != "identity" else size)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            parts = [message.get("body", b"")]
        else:
            await self._take(size or most)
            try:
                parts = await asyncio.wait_for(self._parts(message, most), settings.body_timeout)
            except asyncio.TimeoutError:
                raise TooSlow(f"the body did not arrive in {settings.body_timeout} seconds") from None
        self.arrived = time.perf_counter()
        if sum(map(len, parts)) > most:
            raise TooLarge(f"the body has more than the {most} bytes that are allowed; send fewer inputs")
        body = b"".join(parts)
        if encoding != "identity":
            body = inflated(body, most)
        self.release(keep=len(body))
        return body

    def release(self, keep: int = 0) -> None:
        """Give back what the body holds of the budget, but for so many bytes."""
        keep = keep if keep > SMALL else 0
        if self._held > keep:
            self._serving.budget.give(self._client, self._held - keep)
            self._held = keep

    async def _take(self, size: int) -> None:
        if size > SMALL and not self._held:
            self._held = await self._serving.budget.take(self._client, size)

    async def _parts(self, message: Any, most: int) -> list[bytes]:
        """The parts of a body, to be read until they are too long."""
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most or not message.get("more_body"):
                return parts
            message = await self._receive()

"""Uvicorn's connections, with an end to waiting for headers, and errors in JSON before there is a request."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from distilrt.server.errors import Error


def protocol(patience: float) -> type[asyncio.Protocol]:
    """The class of connections whose clients get so many seconds for a request's headers, from when the connection was
    made or the request began; then 408 ends it. The next request of a connection may come when it likes, within
    uvicorn's own limit."""

    class Connection(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._wait()

        def on_headers_complete(self) -> None:
            self._stop()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            self._end(b"400 Bad Request", Error("this is no request in HTTP/1.1", "Malformed"))

        def _wait(self) -> None:
            self._stop()
            self._timer = self.loop.call_later(patience, self._give_up)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._end(b"408 Request Timeout", Error(f"the headers did not arrive in {patience} seconds", "TooSlow"))

        def _end(self, status: bytes, error: Error) -> None:
            self._stop()
            body = msgspec.json.encode(error)
            head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            if not self.transport.is_closing():
                self.transport.write(head % (status, len(body)) + body)
                self.transport.close()

    return Connection

"""A small HTTP/1.1 client for load: requests written beforehand, connections kept open, answers parsed by httptools.

A general client costs several times as much of a core for each request, on the machine that is measured.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httptools

from distilrt.bench.load import TargetError

MOST_CONNECTIONS = 2000
CONNECT = 5.0  # seconds
IDLE = 2.0  # seconds; servers hang up after a few, perhaps just as the next request is on its way


class Refused(TargetError):
    """The server answered with another status than 200, `after` so many seconds from the sending of the request.

    Neither waiting for a connection nor a late schedule of the client counts, as both do in a query's latency.
    """

    def __init__(self, status: int, after: float) -> None:
        super().__init__(f"HTTP {status}")
        self.after = after


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way; `free` is called when that has ended, well or not."""

    def __init__(self, free: Callable[[_Connection], None]) -> None:
        self._free = free
        self._answer: asyncio.Future[bytes] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.headers: dict[bytes, bytes] = {}
        self.alive = True
        self.used = self._sent = 0.0

    def send(self, request: bytes) -> asyncio.Future[bytes]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._parts, self.headers = [], {}
        self._sent = time.perf_counter()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self.alive = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            self._fail(f"broken HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False
        self._fail("connection lost")

    def _fail(self, reason: str) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        self._free(self)
        if not answer.done():
            answer.set_exception(TargetError(reason))

    # The parser's callbacks.
    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name] = value

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.alive = self.alive and self._parser.should_keep_alive()
        answer, self._answer = self._answer, None
        if answer is None:
            return
        self._free(self)
        if answer.done():  # given up
            return
        if status == 200:
            answer.set_result(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        else:
            answer.set_exception(Refused(status, time.perf_counter() - self._sent))


class HttpClient:
    """Sends requests to one server, each on a connection that has none under way.

    Args:
        url: http://HOST:PORT, with a path before those of the requests if need be.
        key: bearer key.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._host, self._port = parts.hostname, parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._fixed = f"Host: {parts.netloc}\r\nConnection: keep-alive\r\nAccept: application/json\r\n"
        if key is not None:
            self._fixed += f"Authorization: Bearer {key}\r\n"
        self._idle: list[_Connection] = []
        self._open = 0

    def request(self, path: str, body: bytes | None = None) -> bytes:
        """The bytes of a POST of JSON, or without a body of a GET."""
        place = (self._prefix + path).rstrip("/") or "/"  # a model's own URL has no slash at its end
        head = f"{'GET' if body is None else 'POST'} {place} HTTP/1.1\r\n{self._fixed}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + (body or b"")

    def start(self, request: bytes) -> asyncio.Future[bytes]:
        """Send at once where a connection is free, without a task; the body of the answer, or `TargetError`."""
        connection = self._waiting()
        if connection is not None:
            return connection.send(request)
        return asyncio.get_running_loop().create_task(self.send(request))

    async def send(self, request: bytes) -> bytes:
        """The body of the answer.

        Raises:
            TargetError: there is no connection, or the status is not 200 (`Refused`).
        """
        connection = self._waiting() or await self._connect()
        try:
            return await connection.send(request)
        except asyncio.CancelledError:
            connection.close()
            raise

    async def server(self) -> str:
        """What the server calls itself, by its answer to `GET /`; empty: nothing."""
        connection = self._waiting() or await self._connect()
        try:
            await connection.send(self.request("/"))
        except TargetError as error:
            if not str(error).startswith("HTTP"):
                raise
        names = {name.lower(): value for name, value in connection.headers.items()}
        return names.get(b"server", b"").decode(errors="replace")

    def _waiting(self) -> _Connection | None:
        """An open connection without a request."""
        while self._idle:
            connection = self._idle.pop()
            if connection.alive and time.perf_counter() - connection.used < IDLE:
                return connection
            connection.close()
            self._open -= 1
        return None

    async def _connect(self) -> _Connection:
        if self._open >= MOST_CONNECTIONS:
            raise TargetError(f"{MOST_CONNECTIONS} requests under way")
        self._open += 1
        try:
            loop = asyncio.get_running_loop()
            made: tuple[Any, _Connection] = await asyncio.wait_for(
                loop.create_connection(lambda: _Connection(self._give_back), self._host, self._port), CONNECT
            )
        except asyncio.TimeoutError:  # a class of its own before Python 3.11
            self._open -= 1
            raise TargetError(f"no connection to {self._host}:{self._port} in {CONNECT:g} s") from None
        except OSError as error:
            self._open -= 1
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise TargetError(f"cannot connect to {self._host}:{self._port}: {reason}") from None
        return made[1]

    def _give_back(self, connection: _Connection) -> None:
        if connection.alive:
            connection.used = time.perf_counter()
            self._idle.append(connection)
        else:
            self._open -= 1

    async def close(self) -> None:
        """Close all connections; those with a request under way fail it."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

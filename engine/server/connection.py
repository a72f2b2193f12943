"""Uvicorn's connections with bounds: on the bytes of headers, on slow clients, and on the number of connections.

An error that comes before there is a request is answered in JSON as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from distilrt.server.serving import Serving
from distilrt.server.statuses import PlainError

MOST_URL_BYTES = 2**13
MOST_HEAD_BYTES = 2**16  # of a request's line and headers; of its trailers and chunk extensions about as much
MOST_HEADERS = 128
MOST_REFUSED = 64  # connections beyond the limit that get an answer before they are closed
MOST_PIPELINED = 64  # requests that came before earlier ones were answered
_MOST_UNREAD_BYTES = 2**26  # of what comes after an answer, which is read so that the client reads the answer
_LEAST_TAKEN_BYTES = 2**16  # of an answer within the time that a client has, or it does not read
_OVERHEAD = 8  # bytes of chunk headers for each byte of body


class Refusal(NamedTuple):
    """What a client is told before there is a request: the status, the error's name for programs, and the message."""

    status: int
    kind: str
    message: str

    def response(self) -> bytes:
        """The response, after which the connection ends."""
        body = msgspec.json.encode(PlainError(self.message, self.kind))
        head = b"%scontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        return head % (STATUS_LINE[self.status], len(body)) + body


_NO_HTTP = Refusal(400, "Malformed", "this is no request in HTTP/1.1")
_LARGE_URL = Refusal(414, "TooLarge", f"the URL may have at most {MOST_URL_BYTES} bytes")
_LARGE_HEAD = Refusal(
    431,
    "TooLarge",
    f"headers, trailers and chunk extensions may have at most {MOST_HEAD_BYTES} bytes, and a request at most "
    f"{MOST_HEADERS} headers",
)
_PIPELINED = Refusal(
    503,
    "Overloaded",
    f"at most {MOST_PIPELINED} requests may wait on a connection for answers to earlier ones; send the others again",
)


class _Refused(Exception):
    """The client exceeded a bound, as the refusal says that is the argument."""


class _Transport:
    """A transport whose closing lets the connection read what is still coming: a socket that is closed before resets
    the connection, and the client would lose the answer."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport, self._connection = transport, connection
        self.write = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether no more is to be written."""
        return self._connection.lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close when the request has arrived; a second time, now."""
        if not self._connection.linger():
            self._transport.close()


class _Alarm:
    """A timer of a connection, which calls what it was last set to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop, self._seconds = loop, seconds
        self._handle: asyncio.TimerHandle | None = None

    def set(self, then: Callable[[], object]) -> None:
        self.stop()
        self._handle = self._loop.call_later(self._seconds, then)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Connection(HttpToolsProtocol):
    """A connection of uvicorn to an application of `distilrt.server.app.create_app`, whose settings give the bounds.

    A client gets `body_timeout` seconds for a request's headers, from when the connection was made or the request
    began; then 408 ends it. It may stop reading an answer for as long; then the connection is cut. Request lines (414),
    headers, trailers and chunk extensions (431) and pipelined requests (503) have bounds. Beyond `max_connections`, the
    answer is 503. These refusals are counted in the server's `responses` by route, which is "none", and status.
    """

    lingering = False
    _arriving = ""  # "head" or "body" while a request is
    _head = 0  # bytes of names and values so far, trailers included
    _beside = 0  # bytes since the request began that are no body
    _unread = 0  # bytes that came after the answer
    _refusal: Refusal | None = None  # to be sent after the answers to earlier requests

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._serving: Serving = self.config.app.state.serving  # type: ignore[union-attr]  # which `create_app` set
        seconds = self._serving.settings.body_timeout
        self._headers_alarm = _Alarm(self.loop, seconds)  # also for what is read after an answer
        self._reader_alarm = _Alarm(self.loop, seconds)  # while an answer is not taken

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        most, there = self._serving.settings.max_connections, len(self.connections)
        if there > most + MOST_REFUSED:
            transport.abort()
        elif there > most:
            self._arriving = "head"  # A request is about to begin.
            self._send(Refusal(503, "Overloaded", f"the server has {most} connections, and takes no more; try again"))
        else:
            self._headers_alarm.set(self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_alarm.stop()
        self._reader_alarm.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.lingering or self._refusal:
            self._drop(len(data))
            return
        self._beside += len(data)
        try:
            self._feed(data)
            if self._beside > MOST_HEAD_BYTES:
                raise _Refused(_LARGE_HEAD)
        except (httptools.HttpParserError, _Refused) as error:
            cause = error if isinstance(error, _Refused) else error.__context__
            self._refuse(cause.args[0] if isinstance(cause, _Refused) else _NO_HTTP)

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._arriving, self._head, self._beside = "head", 0, 0
        if len(self.pipeline) >= MOST_PIPELINED:
            raise _Refused(_PIPELINED)
        self._headers_alarm.set(self._give_up)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MOST_URL_BYTES:
            raise _Refused(_LARGE_URL)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > MOST_HEAD_BYTES or len(self.headers) >= MOST_HEADERS:
            raise _Refused(_LARGE_HEAD)
        if self._arriving == "head":  # no trailer is a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._headers_alarm.stop()
        self._unset_keepalive_if_required()  # which an answer may have started meanwhile
        super().on_headers_complete()
        self._arriving = "body"

    def on_body(self, body: bytes) -> None:
        self._beside = max(0, self._beside - _OVERHEAD * len(body))
        if self.cycle.response_complete:
            self._drop(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arriving, self._beside = "", 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        last = not self.pipeline
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()
        elif last and self._refusal:
            self._send(self._refusal)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._reader_alarm.stop()
        super().resume_writing()

    def linger(self) -> bool:
        """Go on reading, for as long as a body may take, where a request is still arriving and nothing else ends the
        connection; False where it is to be closed."""
        transport = self.transport
        if self.lingering or not self._arriving or transport.is_closing():
            self._await_reader()
            return False
        self.lingering = True
        transport.write_eof()
        self._headers_alarm.set(transport.abort)
        self.flow.resume_reading()
        return True

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:  # which is declined: what follows is HTTP/1.1
                data = data[upgrade.args[0] :]

    def _drop(self, size: int) -> None:
        self._unread += size
        if self._unread > _MOST_UNREAD_BYTES:
            self.transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what can't be read on, after the answers to earlier requests."""
        self._headers_alarm.stop()
        cycle, begun = self.cycle, self._arriving == "body"  # then the last cycle is its own
        if begun and not self.pipeline:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
            else:
                self._send(refusal)
        elif cycle is None or cycle.response_complete:
            self._send(refusal)
        else:
            if begun:
                self.pipeline.popleft()
            self._refusal = refusal

    def _send(self, refusal: Refusal) -> None:
        if not self.transport.is_closing():
            self._serving.responses["none", refusal.status] += 1
            self.transport.write(refusal.response())
            self.transport.close()

    def _give_up(self) -> None:
        seconds = self._serving.settings.body_timeout
        self._refuse(Refusal(408, "TooSlow", f"the headers did not arrive in {seconds} seconds"))

    def _await_reader(self) -> None:
        """Cut the connection unless the client goes on taking what is written."""
        left = self.transport.get_write_buffer_size()

        def check() -> None:
            if left - self.transport.get_write_buffer_size() < min(left, _LEAST_TAKEN_BYTES):
                self.transport.abort()
            else:
                self._await_reader()

        self._reader_alarm.stop()
        if left:
            self._reader_alarm.set(check)

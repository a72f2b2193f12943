"""Uvicorn's connections with bounds: on the bytes of headers, on slow clients, and on the number of connections.

An error that comes before there is a request is answered in JSON as well.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from distilrt.server.settings import Settings
from distilrt.server.statuses import PlainError

MOST_URL_BYTES = 2**13
MOST_HEAD_BYTES = 2**16  # of a request's line and headers; of its trailers and chunk extensions about as much
MOST_HEADERS = 128
MOST_REFUSED = 64  # connections beyond the limit that get an answer before they are closed
MOST_PIPELINED = 64  # requests that came before earlier ones were answered
_MOST_UNREAD_BYTES = 2**26  # of what comes after an answer, which is read so that the client reads the answer
_LEAST_TAKEN_BYTES = 2**16  # of an answer within the time that a client has, or it does not read
_OVERHEAD = 8  # bytes of chunk headers for each byte of body


class _Refused(Exception):
    """The client exceeded a bound. The arguments are the status and the error to send."""


class _Transport:
    """A transport whose closing lets the connection read what is still coming: a socket that is closed before resets
    the connection, and the client would lose the answer."""

    def __init__(self, transport: asyncio.Transport, connection: Any) -> None:
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


def protocol(settings: Settings, responses: Counter[tuple[str, int]]) -> type[asyncio.Protocol]:
    """The class of connections under these settings.

    A client gets `body_timeout` seconds for a request's headers, from when the connection was made or the request
    began; then 408 ends it. It may stop reading an answer for as long; then the connection is cut. Request lines (414),
    headers, trailers and chunk extensions (431) and pipelined requests (503) have bounds. Beyond `max_connections`, the
    answer is 503. These refusals are counted in `responses` by route, which is "none", and status.
    """
    patience = settings.body_timeout

    class Connection(HttpToolsProtocol):
        lingering = False
        _timer: asyncio.TimerHandle | None = None  # for headers, and for what is read after an answer
        _reader: asyncio.TimerHandle | None = None  # while an answer is not taken
        _arriving = ""  # "head" or "body" while a request is
        _head = 0  # bytes of names and values so far, trailers included
        _beside = 0  # bytes since the request began that are no body
        _unread = 0  # bytes that came after the answer
        _refusal: tuple[int, PlainError] | None = None  # to be sent after the answers to earlier requests

        def connection_made(self, transport: Any) -> None:
            super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
            most, there = settings.max_connections, len(self.connections)
            if there > most + MOST_REFUSED:
                transport.abort()
            elif there > most:
                self._arriving = "head"  # as it will be
                self._send(
                    503, PlainError(f"the server has {most} connections, and takes no more; try again", "Overloaded")
                )
            else:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            self._stop_reader()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.lingering or self._refusal:
                self._drop(len(data))
                return
            self._beside += len(data)
            try:
                self._feed(data)
                if self._beside > MOST_HEAD_BYTES:
                    raise _Refused(*_too_large_head())
            except httptools.HttpParserError as error:
                cause = error.__context__
                refused = cause.args if isinstance(cause, _Refused) else None
                self._refuse(*(refused or (400, PlainError("this is no request in HTTP/1.1", "Malformed"))))
            except _Refused as error:
                self._refuse(*error.args)

        def on_message_begin(self) -> None:
            self._unset_keepalive_if_required()
            super().on_message_begin()
            self._arriving, self._head, self._beside = "head", 0, 0
            if len(self.pipeline) >= MOST_PIPELINED:
                raise _Refused(
                    503,
                    PlainError(
                        f"at most {MOST_PIPELINED} requests may wait on a connection for answers to "
                        "earlier ones; send the others again",
                        "Overloaded",
                    ),
                )
            self._wait()

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            if len(self.url) > MOST_URL_BYTES:
                raise _Refused(414, PlainError(f"the URL may have at most {MOST_URL_BYTES} bytes", "TooLarge"))

        def on_header(self, name: bytes, value: bytes) -> None:
            self._head += len(name) + len(value)
            if self._head > MOST_HEAD_BYTES or len(self.headers) >= MOST_HEADERS:
                raise _Refused(*_too_large_head())
            if self._arriving == "head":  # no trailer is a header
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._stop()
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
                self._send(*self._refusal)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._await_reader()

        def resume_writing(self) -> None:
            self._stop_reader()
            super().resume_writing()

        def linger(self) -> bool:
            """Go on reading, for as long as a body may take, where a request is still arriving and nothing else ends
            the connection; False where it is to be closed."""
            transport = self.transport
            if self.lingering or not self._arriving or transport.is_closing():
                self._await_reader()
                return False
            self.lingering = True
            transport.write_eof()
            self._wait(transport.abort)
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

        def _refuse(self, status: int, error: PlainError) -> None:
            """Answer what can't be read on, after the answers to earlier requests."""
            self._stop()
            cycle, begun = self.cycle, self._arriving == "body"  # then the last cycle is its own
            if begun and not self.pipeline:
                cycle.disconnected = True
                cycle.message_event.set()
                if cycle.response_started:
                    self.transport.close()
                else:
                    self._send(status, error)
            elif cycle is None or cycle.response_complete:
                self._send(status, error)
            else:
                if begun:
                    self.pipeline.popleft()
                self._refusal = status, error

        def _send(self, status: int, error: PlainError) -> None:
            body = msgspec.json.encode(error)
            head = b"%scontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            if not self.transport.is_closing():
                responses["none", status] += 1
                self.transport.write(head % (STATUS_LINE[status], len(body)) + body)
                self.transport.close()

        def _wait(self, then: Any = None) -> None:
            self._stop()
            self._timer = self.loop.call_later(patience, then or self._give_up)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._refuse(408, PlainError(f"the headers did not arrive in {patience} seconds", "TooSlow"))

        def _await_reader(self) -> None:
            """Cut the connection unless the client goes on taking what is written."""
            self._stop_reader()
            left = self.transport.get_write_buffer_size()

            def check() -> None:
                if left - self.transport.get_write_buffer_size() < min(left, _LEAST_TAKEN_BYTES):
                    self.transport.abort()
                else:
                    self._await_reader()

            if left:
                self._reader = self.loop.call_later(patience, check)

        def _stop_reader(self) -> None:
            if self._reader is not None:
                self._reader.cancel()
                self._reader = None

    return Connection


def _too_large_head() -> tuple[int, PlainError]:
    return 431, PlainError(
        f"headers, trailers and chunk extensions may have at most {MOST_HEAD_BYTES} bytes, and a request "
        f"at most {MOST_HEADERS} headers",
        "TooLarge",
    )

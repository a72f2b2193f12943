"""The second try, in place of Ray's proxy an application that dies as it does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from distilrt.scale.ray_proxy import Retry, middlewares


class Proxy:
    """Ends without an answer so often, then gives the body back."""

    def __init__(self, deaths: int, begins: bool = False) -> None:
        self.deaths, self.begins = deaths, begins
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        if self.begins or len(self.bodies) > self.deaths:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if len(self.bodies) > self.deaths:
            await send({"type": "http.response.body", "body": body})


def answer(app: Any, *messages: Message, kind: str = "http") -> list[Message]:
    """What is sent for these messages of a request."""
    left, sent = iter(messages), []

    async def receive() -> Message:
        return next(left)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app({"type": kind, "path": "/", "headers": []}, receive, send))
    return sent


PARTS = ({"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request", "body": b"c"})


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_another_is_asked_the_same(deaths: int, begins: bool) -> None:
    proxy = Proxy(deaths, begins)
    start, body = answer(Retry(proxy), *PARTS)
    assert (start["status"], body["body"]) == (200, b"abc")
    assert proxy.bodies == [b"abc"] * (deaths + 1)


def test_a_request_that_ends_every_replica_is_given_up() -> None:
    proxy = Proxy(99)
    start, body = answer(Retry(proxy), *PARTS)
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"1"
    assert "3 replicas ended" in json.loads(body["body"])["error"]
    assert len(proxy.bodies) == 3


def test_nobody_is_asked_for_a_client_that_hung_up() -> None:
    proxy = Proxy(99)
    assert answer(Retry(proxy), PARTS[0], {"type": "http.disconnect"}) == []
    assert proxy.bodies == []


def test_a_body_too_large_to_keep_is_sent_once() -> None:
    part = {"type": "http.request", "body": b"x" * 8_000_001, "more_body": True}
    proxy = Proxy(0)
    assert len(answer(Retry(proxy), part, part, part, PARTS[1])) == 2
    [body] = proxy.bodies
    assert len(body) == 24_000_004
    assert answer(Retry(Proxy(1)), part, part, part, PARTS[1]) == []


def test_other_protocols_pass() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})

    assert answer(Retry(app), kind="websocket") == [{"type": "websocket.close"}]


def test_ray_builds_it() -> None:
    [middleware] = middlewares()
    assert isinstance(middleware.cls(Proxy(0), *middleware.args, **middleware.kwargs), Retry)

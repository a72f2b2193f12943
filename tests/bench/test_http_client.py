"""engine/bench/http_client.py: requests on kept connections, chunked answers, statuses, servers that hang up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from distilrt.bench import http_client
from distilrt.bench.http_client import HttpClient
from distilrt.bench.load import TargetError


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


@pytest.mark.parametrize("chunked", [False, True])
def test_answers_on_one_connection(server: Any, chunked: bool) -> None:
    server.chunked = chunked
    server.reply = lambda path, body: (200, {"path": path, "body": body})

    async def go() -> list[bytes]:
        client = HttpClient(server.url + "/base", "secret")
        found = [await client.send(client.request("/x", b'{"n": %d}' % n)) for n in range(3)]
        assert client._open == len(client._idle) == 1
        await client.close()
        return found

    assert run(go()) == [b'{"path": "/base/x", "body": {"n": %d}}' % n for n in range(3)]
    assert "Authorization: Bearer secret\r\n" in server.heads[0]


def test_many_at_a_time_each_get_their_own(server: Any) -> None:
    server.reply = lambda path, body: (200, body)

    async def go() -> list[bytes]:
        client = HttpClient(server.url)
        found = await asyncio.gather(*(client.send(client.request("/", b"%d" % n)) for n in range(50)))
        await client.close()
        return found

    assert run(go()) == [b"%d" % n for n in range(50)]


def test_statuses_and_hang_ups_are_failures_and_the_next_request_works(server: Any) -> None:
    async def go() -> list[str]:
        client, said = HttpClient(server.url), []
        for status in (429, 0, 503, 200):
            server.reply = lambda path, body, status=status: (status, {"error": "x"})
            try:
                said.append((await client.send(client.request("/", b"1"))).decode())
            except TargetError as error:
                said.append(str(error))
        await client.close()
        return said

    assert run(go()) == ["HTTP 429", "connection lost", "HTTP 503", '{"error": "x"}']


def test_old_connections_are_not_used(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        client = HttpClient(server.url)
        await client.send(client.request("/", b"1"))
        first = client._idle[0]
        monkeypatch.setattr(http_client, "IDLE", -1.0)
        await client.send(client.request("/", b"1"))
        assert not first.alive
        assert client._idle[0] is not first
        assert client._open == 1
        await client.close()

    run(go())


def test_who_serves(server: Any) -> None:
    async def go() -> str:
        client = HttpClient(server.url)
        try:
            return await client.server()
        finally:
            await client.close()

    assert run(go()) == "tiny"
    server.reply = lambda path, body: (404, None)
    assert run(go()) == "tiny"


def test_nobody_there(server: Any) -> None:
    async def go() -> None:
        client = HttpClient("http://127.0.0.1:1")
        with pytest.raises(TargetError, match=r"127\.0\.0\.1:1: Connection refused"):
            await client.send(client.request("/", b"1"))
        assert client._open == 0
        monkey = HttpClient(server.url)
        monkey._open = http_client.MOST_CONNECTIONS
        with pytest.raises(TargetError, match="requests under way"):
            await monkey.send(monkey.request("/", b"1"))

    run(go())

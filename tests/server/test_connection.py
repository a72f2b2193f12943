"""Connections that bring no request: slow headers, and what is no HTTP."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE = 30


@pytest.fixture(scope="module")
def port(folder_of: Callable[..., Path]) -> Iterator[int]:
    command = [sys.executable, "-m", "distilrt", "serve", "--port", "0", "--threads", "1", "--drain-delay", "0",
               "--body-timeout", "0.3", "--model", str(folder_of("DistilBertForMaskedLM"))]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield int(process.stderr.readline().rpartition(":")[2])
        finally:
            process.terminate()


def sent(port: int, data: bytes) -> tuple[bytes, dict[str, str]]:
    """What comes back until the server closes the connection: the status, and the JSON."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        received = connection.makefile("rb").read()
    head, _, body = received.rpartition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/json\r\n" in head
    return received.split(b" ")[1], json.loads(body)


@pytest.mark.parametrize("data", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nhost: x\r\nx-a"])
def test_slow_headers(port: int, data: bytes) -> None:
    status, body = sent(port, data)
    assert (status, body["error_type"]) == (b"408", "TooSlow")
    assert "headers did not arrive in 0.3 seconds" in body["error"]


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"nonsense\r\n\r\n", b"GET / HTTP/9.9.9\r\n\r\n"])
def test_what_is_no_http(port: int, data: bytes) -> None:
    status, body = sent(port, data)
    assert (status, body["error_type"]) == (b"400", "Malformed")


def test_a_request_after_a_request(port: int) -> None:
    """Its headers have their own time; what is between them is not counted."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        stream = connection.makefile("rb")
        for _ in range(2):
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            while stream.readline() != b"\r\n":
                pass
            assert stream.read(18) == b'{"status":"alive"}'
        connection.sendall(b"GET /livez HTT")
        assert stream.readline() == b"HTTP/1.1 408 Request Timeout\r\n"

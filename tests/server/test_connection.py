"""Connections: slow headers, what is no HTTP, what is too much of it, and clients that do not read."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

PATIENCE = 30


@pytest.fixture(scope="module")
def port(folder_of: Callable[..., Path]) -> Iterator[int]:
    command = [sys.executable, "-m", "distilrt", "serve", "--port", "0", "--threads", "1", "--drain-delay", "0",
               "--body-timeout", "0.3", "--max-connections", "20", "--max-body-bytes", "100000",
               "--model", str(folder_of("DistilBertForMaskedLM"))]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            found = int(process.stderr.readline().rpartition(":")[2])
            until_ready(found)
            yield found
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


HEAD = b"GET /livez HTTP/1.1\r\nhost: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
ENDLESS: dict[str, tuple[bytes, bytes, bytes]] = {
    "URL": (b"GET /", b"a" * 1000, b"414"),
    "one header": (HEAD + b"x: ", b"a" * 1000, b"431"),
    "headers": (HEAD, b"x: a\r\n" * 100, b"431"),
    "name": (HEAD, b"a" * 1000, b"431"),
    "chunk extension": (CHUNKED + b"1;", b"a" * 1000, b"431"),
    "trailer": (CHUNKED + b"0\r\nx: ", b"a" * 1000, b"431"),
    "trailers": (CHUNKED + b"0\r\n", b"x: a\r\n" * 100, b"431"),
}


@pytest.mark.parametrize("start", ENDLESS)
def test_what_has_no_end(port: int, start: str) -> None:
    first, part, status = ENDLESS[start]
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(first)
        for _ in range(300):
            connection.sendall(part)
        assert connection.makefile("rb").readline().split()[1] == status


def test_refusals_are_counted(port: int) -> None:
    def counted() -> dict[str, float]:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            families = {each.name: each for each in text_string_to_metric_families(answer.read().decode())}
        found = families["distilrt_http_responses"].samples
        return {each.labels["code"]: each.value for each in found if each.labels["route"] == "none"}

    before = counted()
    asked = {"414": b"GET /" + b"a" * 10_000, "431": HEAD + b"x: a\r\n" * 200, "408": b"GET", "400": b"\0"}
    for status, data in asked.items():
        assert sent(port, data)[0].decode() == status
    held = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(20)]
    assert sent(port, HEAD)[0] == b"503"
    for connection in held:
        connection.close()
    while answered(port, HEAD + b"connection: close\r\n\r\n") != [b"200"]:
        pass
    after = counted()
    assert all(after[status] > before.get(status, 0) for status in (*asked, "503"))


def test_headers_up_to_the_bound(port: int) -> None:
    many = b"".join(b"x-%d: %b\r\n" % (number, b"a" * 500) for number in range(126))
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(HEAD + many + b"\r\n")
        assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


def test_a_trailer_is_no_header(port: int) -> None:
    """Nothing that follows a body changes what was asked."""
    body = b'f\r\n{"inputs": "a"}\r\n0\r\nx-priority: none\r\n\r\n'
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(CHUNKED + body.replace(b'"a"', b"1") + HEAD + b"\r\n")
        assert b"priority" not in connection.recv(2000)


def answers(connection: socket.socket) -> list[bytes]:
    """The statuses of all that comes until the server closes."""
    return re.findall(rb"HTTP/1\.1 (\d+) ", connection.makefile("rb").read())


@pytest.mark.parametrize(("half", "status"), [(b"GET /livez HTT", b"408"), (b"\0", b"400")])
def test_half_a_request_answers_no_other(folder_of: Callable[..., Path], half: bytes, status: bytes) -> None:
    """An error comes in its turn, after the answers to what came before it."""
    options = ["--body-timeout", "0.2", "--max-delay", "0.5", "--drain-delay", "0"]
    command = [sys.executable, "-m", "distilrt", "serve", "--port", "0", *options, "-m",
               str(folder_of("DistilBertForSequenceClassification"))]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            port = int(process.stderr.readline().rpartition(":")[2])
            until_ready(port)
            request = b'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{"inputs": "a"}'
            assert answered(port, request * 2 + half) == [b"200", b"200", status]
        finally:
            process.terminate()


def until_ready(port: int) -> None:
    while answered(port, b"GET /readyz HTTP/1.0\r\n\r\n") != [b"200"]:
        time.sleep(0.01)


def answered(port: int, data: bytes) -> list[bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        return answers(connection)


def test_many_pipelined_requests(port: int) -> None:
    found = answered(port, (HEAD + b"\r\n") * 10_000)
    assert found[-1] == b"503"
    assert set(found[:-1]) == {b"200"}


def test_an_upgrade_is_declined(port: int) -> None:
    """As curl and Java ask for HTTP/2; the request is answered, and so is the next."""
    upgrade = HEAD + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
    assert answered(port, upgrade + HEAD + b"connection: close\r\n\r\n") == [b"200", b"200"]


@pytest.mark.parametrize("path", [b"/", b"/nowhere"])
def test_an_error_reaches_who_is_still_sending(port: int, path: bytes) -> None:
    size = 8_000_000
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path, size))
        for _ in range(80):
            connection.sendall(b" " * (size // 80))
        assert connection.makefile("rb").readline().split()[1] == {b"/": b"413", b"/nowhere": b"404"}[path]


def test_too_many_connections(port: int) -> None:
    held = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(20)]
    assert sent(port, HEAD)[1]["error_type"] == "Overloaded"
    for connection in held:
        connection.close()
    while answered(port, HEAD + b"connection: close\r\n\r\n") != [b"200"]:
        pass


def test_who_does_not_read_is_cut_off(port: int) -> None:
    """And who reads slowly gets all."""
    body = b'{"inputs": "%b", "parameters": {"top_k": 1000}}' % (b"[MASK] " * 20)
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body
    received = []
    for first, each in ((0, 0.02), (1.5, 0)):
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            connection.settimeout(PATIENCE)
            connection.connect(("127.0.0.1", port))
            connection.sendall(request)
            size = len(connection.recv(1))
            time.sleep(first)
            with suppress(ConnectionError):
                while found := connection.recv(2**17):
                    size += len(found)
                    time.sleep(each if size < 2**21 else 0)
            received.append(size)
    assert received[0] > 2**21
    assert received[1] < received[0]

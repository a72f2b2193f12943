"""Sockets of addresses: bound and not listening, one for each, and what can't be bound."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from distilrt.server.uvicorn_server import bind


def test_nobody_can_connect_before_it_listens() -> None:
    [found] = bind("127.0.0.1", 0)
    with found:
        address = found.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        found.listen()
        socket.create_connection(address).close()


@pytest.mark.parametrize("host", ["localhost", "", "0.0.0.0"])
def test_every_address_of_a_host(host: str) -> None:
    sockets = bind(host, 0)
    assert sockets
    assert all(found.getsockname()[1] for found in sockets)
    assert len({found.family for found in sockets}) == len(sockets)
    for found in sockets:
        found.close()


def test_addresses_that_this_machine_lacks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = ("127.0.0.1", 0), ("192.0.2.1", 0)  # the latter is nobody's: RFC 5737
    kinds: Any = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    for addresses in ([here, elsewhere], [elsewhere, here]):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, known=addresses, **options: [
            (*kinds, address) for address in known])  # fmt: skip
        [found] = bind("both", 0)
        assert found.getsockname()[0] == "127.0.0.1"
        found.close()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [(*kinds, elsewhere)])
    with pytest.raises(OSError, match="can't listen on none:0: Cannot assign requested address"):
        bind("none", 0)


def test_what_is_taken_or_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{port}: Address already in use; choose another"):
            bind("127.0.0.1", port)
    with pytest.raises(OSError, match=r"can't listen on nobody\.invalid:80: .* choose another --host"):
        bind("nobody.invalid", 80)

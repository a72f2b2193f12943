"""Where a server listens: sockets that are bound before models load, so that a wrong address fails at once."""

from __future__ import annotations

import errno
import socket

_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # as IPv6's on a machine without it, which localhost may name


def bound(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host that this machine has, none of them listening yet: until they do, whoever
    connects is refused, and doesn't wait.

    Args:
        host: a name or an address; "": all of this machine's.
        port: 0: any free one, which may be another for each address.

    Raises:
        OSError: there is no such address, or the port is taken.
    """
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        wanted = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(wanted):
            try:
                found = socket.socket(family, kind, protocol)
                sockets.append(found)
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # despite connections that just ended
                if family == socket.AF_INET6:  # else it would take the port of IPv4 too
                    found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                found.bind(address)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
                if sockets and sockets[-1].getsockname()[1] == 0:
                    sockets.pop().close()
        if absent and not sockets:
            raise absent
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise OSError(f"can't listen on {host}:{port}: {error.strerror}; choose another --host or --port, or end what "
                      "listens there") from None  # fmt: skip
    return sockets

"""The process that listens: its sockets, and uvicorn's server until a signal ends it.

Sockets are bound before models load, so that a wrong address fails at once.
"""

from __future__ import annotations

import errno
import faulthandler
import logging
import socket
import sys
import time
from collections.abc import Mapping
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from distilrt.faster_dtypes import advice
from distilrt.isas import why_not_the_best
from distilrt.runtime.engine import Engine
from distilrt.server.connection import Connection
from distilrt.server.settings import Settings

_log = logging.getLogger("distilrt.server")

# What a machine without IPv6 says of its addresses, which localhost may name.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_STUCK_SECONDS = 3.0  # after the drain, until a process that hangs is ended


def bind(host: str, port: int) -> list[socket.socket]:
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
        raise OSError(
            f"can't listen on {host}:{port}: {error.strerror}; "
            "choose another --host or --port, or end what listens there"
        ) from None
    return sockets


def run(app: Starlette, settings: Settings, engines: Mapping[str, Engine], sockets: list[socket.socket]) -> None:
    """Serve an application on bound sockets until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        http=Connection,
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # it is only added to a time
        timeout_graceful_shutdown=int(settings.drain_timeout) or 1,
    )
    _DrainingServer(config, settings, engines).run(sockets)


class _DrainingServer(uvicorn.Server):
    """Uvicorn that first says it is not ready, then keeps listening for a while, then ends as it does.

    On a terminal it also says what it serves and that it ends; programs get the one line with the address.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings, engines: Mapping[str, Engine]) -> None:
        super().__init__(config)
        self._serving = config.app.state.serving  # type: ignore[union-attr]  # the application of `run`
        self._settings, self._engines = settings, engines
        self._on_terminal = sys.stderr.isatty()
        self._told = False
        self._draining_from = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; a second one does not wait for requests that still come."""
        if self._serving.draining:
            self.should_exit = True
            return
        self._serving.draining = True
        # Whatever hangs then, with the interpreter's lock or without: say where, and end.
        seconds = self._settings.drain_delay + self._settings.drain_timeout + _STUCK_SECONDS
        faulthandler.dump_traceback_later(seconds, exit=True)
        self._draining_from = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """End when the delay is over; uvicorn asks ten times a second."""
        if self._serving.draining and not self.should_exit:
            delay = self._settings.drain_delay
            if self._on_terminal and not self._told:
                self._told = True
                _say(f"ending when all that comes within {delay:g} s is answered; Ctrl-C again to take no more")
            self.should_exit = time.monotonic() >= self._draining_from + delay
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for each in sockets or ():
            address, port = each.getsockname()[:2]
            host = f"[{address}]" if ":" in address else address
            _say(f"serving {', '.join(self._engines)} on http://{host}:{port}")
        for engine in self._engines.values():
            if self._on_terminal:
                _introduce(engine)
            elif engine.describe().get("isa") == "generic" and (words := why_not_the_best("generic")):
                _log.warning("%s: %s", engine.name, words)  # it is many times slower than any other


def _introduce(engine: Engine) -> None:
    """Say what a model is and computes in, and what would be faster."""
    facts = engine.describe()
    number = facts.get("num_threads")
    threads = f", {number} thread{'s' * (number > 1)}" if number else ""
    _say(f"{engine.name}: {', '.join(engine.tasks)}; {facts['backend']}, {facts['dtype']}{threads}")
    if words := advice(facts):
        _say(f"{engine.name}: {words}")
    if words := why_not_the_best(facts["isa"]) if "isa" in facts else "":
        _say(f"{engine.name}: {words}")


def _say(text: str) -> None:
    print(f"distilrt: {text}", file=sys.stderr, flush=True)

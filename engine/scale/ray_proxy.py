"""Ray Serve's HTTP proxy with a second try: a request whose replica died before answering goes to another one.

Ray sends a request again only if no replica took it; of one that a dying replica took, the client gets 500. Answers
here depend on nothing but the request, so asking twice is as good as once. Ray builds into every proxy what
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=distilrt.scale.ray_proxy.middlewares` names; the variable must be set where
Ray starts, on every machine, and every application of that Ray must bear being asked twice.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distilrt.errors import NotReady
from distilrt.server import statuses

_ATTEMPTS = 3  # a request that is itself what ends replicas must not end all of them
_MOST = 16_000_000  # bytes of a body that are kept for another attempt


def middlewares() -> list[Middleware]:
    """What Ray puts around a proxy's application."""
    return [Middleware(Retry)]


class Retry:
    """An ASGI application that asks another again while that ends without having begun to answer.

    After three attempts the client gets 503.

    Args:
        app: which ends like this, and only like this, when a replica dies or the client hangs up.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(receive)
        response = _Response(send)
        await request.read()
        for _ in range(_ATTEMPTS):
            await self._app(dict(scope), request.again(), response)
            if response.begun or request.gone or not request.kept:
                return
            response.forget()
        failure = NotReady(f"{_ATTEMPTS} replicas ended while they had this request; try again in a moment")
        await statuses.response(failure)(scope, receive, send)


class _Request:
    """A body that can be read again.

    Attributes:
        kept: whether all of it is here; it was not too large, and the client didn't hang up meanwhile.
        gone: whether the client hung up by now.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []
        self.kept = self.gone = False

    async def read(self) -> None:
        """Keep the body, up to a size."""
        size = 0
        while not self.kept and not self.gone and size <= _MOST:
            message = await self._next()
            self._messages.append(message)
            size += len(message.get("body", b""))
            self.kept = not self.gone and not message.get("more_body", False)

    def again(self) -> Receive:
        """The request's messages from the first on."""
        messages = iter(self._messages)

        async def receive() -> Message:
            return next(messages, None) or await self._next()

        return receive

    async def _next(self) -> Message:
        message = await self._receive()
        self.gone = self.gone or message["type"] == "http.disconnect"
        return message


class _Response:
    """Sends a response's start with its first part, so that an answer has begun only when some of it was there."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None:
            self.begun = True
            await self._send(self._start)
            self._start = None
        await self._send(message)

    def forget(self) -> None:
        self._start = None

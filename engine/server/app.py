"""The ASGI application: every wire format's routes over the same engines.

A new wire format is a module with `OPERATIONS`, and an entry in `FORMATS`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from distilrt.errors import NotReady, detached
from distilrt.runtime.engine import Engine
from distilrt.server import (
    cloud_platforms,
    health,
    huggingface,
    logs,
    metrics,
    open_inference,
    openai,
    openapi,
    statuses,
    tei,
    tracing,
    web_page,
)
from distilrt.server.call import Call
from distilrt.server.operation import Operation
from distilrt.server.serving import Serving
from distilrt.server.settings import Settings

FORMATS = (huggingface, tei, openai, open_inference, cloud_platforms, health, metrics, openapi, web_page)


def create_app(engines: Mapping[str, Engine], settings: Settings | None = None) -> Starlette:
    """An application that serves engines; they stay the caller's, who closes them when the server has ended.

    It warms the engines up when it starts, and answers probes meanwhile. `app.state.serving` is its
    `distilrt.server.serving.Serving`.

    Args:
        engines: by the names that clients use; the first answers where a request names none.
        settings: None: the defaults and `DISTILRT_…` variables.

    Raises:
        ValueError: no engine, or a variable that is not allowed.
    """
    operations = [operation for module in FORMATS for operation in module.OPERATIONS]
    serving = Serving(engines, settings or Settings.from_env(), operations)
    serving.observers = [*([logs.observe] if logs.wanted() else []), *tracing.observers()]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Not in the event loop's own threads, for which it waits when it ends.
        threading.Thread(target=serving.warm_up, name="distilrt-warm-up", daemon=True).start()
        yield

    async def refuse(request: Request, error: Exception) -> Response:
        serving.responses["none", statuses.failure(error).status] += 1
        return statuses.response(error, _shape(serving, request.url.path))

    app = Starlette(
        routes=[Route(each.path, _Endpoint(serving, each), methods=[each.method]) for each in operations],
        exception_handlers={HTTPException: refuse},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # "/models/x/" is another name, not the same
    app.state.serving = serving
    return app


class _Endpoint:
    """An operation as ASGI application, without the layers that Starlette would put around a function."""

    def __init__(self, serving: Serving, operation: Operation) -> None:
        self._serving, self._operation = serving, operation
        has_body = operation.body is not None and operation.decodes
        self._decoder = msgspec.json.Decoder(operation.body) if has_body else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving, path, shape = self._serving, self._operation.path, self._operation.shape
        call = Call(serving, scope, receive)
        try:
            response = await self._answer(call)
        except statuses.Gone as error:
            detached(error)
            serving.responses[path, 499] += 1
            return
        except asyncio.CancelledError:
            if not serving.draining:
                raise
            words = "the server ends, and the time for its requests is over; send the request to another one"
            response = statuses.response(NotReady(words), shape)
        except Exception as error:
            response = statuses.response(error, shape)
            detached(error)  # its functions' variables have the body, and the request that has the error
        finally:
            call.body.release()
        if serving.draining:  # so that the client opens its next connection elsewhere
            response.headers["connection"] = "close"
        serving.responses[path, response.status_code] += 1
        await response(scope, receive, send)
        for observe in serving.observers:
            observe(call, path, response.status_code)

    async def _answer(self, call: Call) -> Response:
        operation = self._operation
        if not operation.public:
            call.authorize()
        if self._decoder is None:
            content = await operation.handler(call)
        else:
            content = await operation.handler(call, call.decode(await call.body.read(), self._decoder))
        return content if isinstance(content, Response) else call.reply(content)


def _shape(serving: Serving, path: str) -> statuses.Shape:
    """The shape of the error for a path that no route takes, or that is asked with another method."""
    exact = (each.shape for each in serving.operations if each.path == path)
    beside = (each.shape for each in serving.operations if _first_word(each.path) == _first_word(path))
    return next(exact, next(beside, statuses.plain))


def _first_word(path: str) -> str:
    """What stands between a path's first two slashes; a client may send a path without any, as in `OPTIONS *`."""
    return path.partition("/")[2].partition("/")[0]

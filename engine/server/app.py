"""The ASGI application: every wire format's routes over the same engines.

A new wire format is a module with `routes(serving)`, and a line in `FORMATS`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from distilrt.runtime.engine import Engine
from distilrt.server import (
    errors,
    health,
    huggingface,
    logs,
    metrics,
    open_inference,
    openai,
    openapi,
    page,
    sagemaker,
    tei,
    tracing,
    vertex,
)
from distilrt.server.serving import Serving
from distilrt.server.settings import Settings

FORMATS = (huggingface, tei, openai, open_inference, sagemaker, vertex, health, metrics, openapi, page)

_SHAPES = {"/v1/": openai.shape, "/v2/": open_inference.shape}  # of paths that start so

_log = logging.getLogger("distilrt.server")


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
    serving = Serving(engines, settings or Settings.from_env())
    serving.observers = [*([logs.observe] if logs.wanted() else []), *tracing.observers()]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        warming = asyncio.create_task(_warm_up(serving))
        yield
        warming.cancel()

    async def refuse(request: Request, error: Exception) -> Response:
        serving.responses["none", errors.failure(error).status] += 1
        return errors.response(error, _shape(serving, request.url.path))

    app = Starlette(
        routes=[route for module in FORMATS for route in module.routes(serving)],
        exception_handlers={HTTPException: refuse},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # "/models/x/" is another name, not the same
    app.state.serving = serving
    return app


def _shape(serving: Serving, path: str) -> errors.Shape:
    """How errors look to whoever asks for a path that no route takes, or not by this method."""
    exact = (each.shape for each in serving.described if each.path == path)
    under = (shape for start, shape in _SHAPES.items() if path.startswith(start))
    return next(exact, next(under, errors.plain))


async def _warm_up(serving: Serving) -> None:
    try:
        for engine in serving.engines.values():
            await asyncio.to_thread(engine.warm_up)
    except Exception as error:
        serving.trouble = str(error)
        _log.error("warming up failed", exc_info=error)
        return
    serving.warm = True

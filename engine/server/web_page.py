"""The page for people at `GET /`, its files, and `GET /stats`, the numbers that it draws. They need no key.

The files lie in `static/` and are sent as they are; the page asks for nothing from elsewhere, and may not.
"""

from __future__ import annotations

import time
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from distilrt.runtime.engine import Engine
from distilrt.server.call import Call
from distilrt.server.health import status_of
from distilrt.server.operation import Operation

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # a new version's files must never meet an old one's
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


async def _file(call: Call) -> Response:
    name = call.path.get("name", "index.html")
    if name not in _files():
        raise HTTPException(404)
    return Response(_files()[name], headers=_HEADERS, media_type=_TYPES[PurePath(name).suffix])


async def _stats(call: Call) -> Response:
    """The server's state, and what each model is and has done so far. Counters only grow: rates are differences."""
    serving = call.serving
    numbers = {
        "status": status_of(serving),
        "needs_key": serving.settings.api_key is not None,
        "seconds": time.monotonic(),  # when these numbers were read
        "models": [{"name": name, **_of_engine(engine)} for name, engine in serving.engines.items()],
    }
    response = call.reply(numbers)
    response.headers["cache-control"] = "no-store"
    return response


@cache
def _files() -> dict[str, bytes]:
    """The content of each file of the page."""
    folder = resources.files("distilrt.server") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if PurePath(file.name).suffix in _TYPES}


def _of_engine(engine: Engine) -> dict[str, Any]:
    counters, facts = engine.counters, engine.describe()
    waiting = zip(("requests", "sequences", "tokens"), engine.waiting, strict=True)
    with counters.lock:
        outcomes: dict[str, int] = {}
        for (_, outcome), number in counters.requests.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + number
        latency = {"bounds": counters.request_seconds.bounds, "counts": list(counters.request_seconds.counts)}
        tokens = int(counters.batch_tokens.total)
    names = ("architecture", "tasks", "labels", "max_input_tokens", "tokens_per_second", "backend", "dtype")
    return {
        **{name: facts[name] for name in names},
        "mask_token": engine.tokenizer.mask_token,
        "pooling": engine.pooling,
        "queue": dict(waiting),
        "requests": outcomes,  # by how they ended
        "computed_tokens": tokens,
        "request_seconds": latency,  # of answered ones: how many in each range, the last above all bounds
    }


OPERATIONS = [
    Operation("GET", "/", _file, "A page to try the models on", media_type="text/html", public=True),
    Operation("GET", "/static/{name}", _file, "A file of the page", media_type="*/*", public=True),
    Operation("GET", "/stats", _stats, "The numbers that the page draws", None, dict[str, Any], public=True),
]

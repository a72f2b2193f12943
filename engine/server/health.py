"""Probes: `/livez` (the process answers), `/readyz` and `/health` (it is to be sent requests). They need no key."""

from __future__ import annotations

from contextlib import suppress

from starlette.responses import Response
from starlette.routing import Route

from distilrt.errors import DistilrtError
from distilrt.server.serving import Call, Serving


def routes(serving: Serving) -> list[Route]:
    """The routes of the probes."""

    async def live(call: Call) -> Response:
        return call.reply({"status": "alive"})

    async def ready(call: Call) -> Response:
        status = status_of(serving)
        return call.reply({"status": status, "models": list(serving.engines)}, 200 if status == "ready" else 503)

    def probe(path: str, handler: object) -> Route:
        return serving.route(path, handler, methods=["GET"], public=True)  # type: ignore[arg-type]

    return [probe("/livez", live), probe("/readyz", ready), probe("/health", ready)]


def status_of(serving: Serving) -> str:
    """`ready`, or why the server is not to be sent requests. Lets engines that failed try again."""
    if serving.draining:
        return "draining"
    if not serving.warm:
        return f"failed to warm up: {serving.trouble}" if serving.trouble else "warming up"
    failing = [name for name, engine in serving.engines.items() if not engine.ready]
    for name in failing:
        with suppress(DistilrtError):
            serving.engines[name].probe()  # by the next time it is known whether it works again
    return f"failing: {', '.join(failing)}" if failing else "ready"

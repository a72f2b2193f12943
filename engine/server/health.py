"""Probes: `/livez` (the process answers), `/readyz` and `/health` (it is to be sent requests). They need no key."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from starlette.responses import Response

from distilrt.errors import DistilrtError
from distilrt.server.call import Call
from distilrt.server.operation import Operation
from distilrt.server.serving import Serving


class Health(msgspec.Struct, omit_defaults=True):
    """What a probe answers."""

    status: str
    models: list[str] | None = None


async def ready(call: Call) -> Response:
    """Whether the server is to be sent requests, and which models it has."""
    status = status_of(call.serving)
    return probed(call, {"status": status, "models": list(call.serving.engines)}, status == "ready")


def probed(call: Call, content: Any, fit: bool) -> Response:
    """The response to a probe: 200 where it is fit to be sent requests, else 503."""
    response = call.reply(content)
    response.status_code = 200 if fit else 503
    return response


async def _live(call: Call) -> Any:
    return {"status": "alive"}


def status_of(serving: Serving) -> str:
    """`ready`, or why the server is not to be sent requests. Lets engines that failed try again."""
    if serving.draining:
        return "draining"
    if not serving.warm:
        return f"failed to warm up: {serving.trouble}" if serving.trouble else "warming up"
    if serving.files.changed():
        return "a model's file was changed in place since it was opened; start a new process"
    failing = [name for name, engine in serving.engines.items() if not engine.ready]
    for name in failing:
        with suppress(DistilrtError):
            serving.engines[name].probe()  # by the next time it is known whether it works again
    return f"failing: {', '.join(failing)}" if failing else "ready"


OPERATIONS = [
    Operation("GET", path, handler, summary, None, Health, public=True)
    for path, handler, summary in (
        ("/livez", _live, "Whether it runs"),
        ("/readyz", ready, "Whether it is to be sent requests"),
        ("/health", ready, "Whether it is to be sent requests"),
    )
]

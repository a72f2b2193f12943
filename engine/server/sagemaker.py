"""Amazon SageMaker's container contract: `GET /ping` and `POST /invocations`, with Hugging Face's task payloads."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from distilrt.server import health, huggingface
from distilrt.server.operation import Operation
from distilrt.server.serving import Call, Serving


def routes(serving: Serving) -> list[Route]:
    """The routes of this format."""
    decoder = msgspec.json.Decoder(huggingface.Payload)

    async def invoke(call: Call) -> Response:
        return call.reply(await huggingface.answer(call, await call.read(decoder)))

    async def ping(call: Call) -> Response:
        return health.report(call)

    return [
        serving.route("/ping", ping, methods=["GET"], public=True,
                      about=Operation("Whether it is to be sent requests (SageMaker)", None, health.Health)),
        serving.route("/invocations", invoke,
                      about=Operation("The model's task (SageMaker)", huggingface.Payload, Any)),
    ]  # fmt: skip

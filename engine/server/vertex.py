"""Google Vertex AI's prediction contract: `POST /vertex`, `{"instances": […]}` to `{"predictions": […]}`.

An instance is a Hugging Face task payload without its parameters, which are the same for all: `{"inputs": …}`, or the
bare input. Deploy with the predict route `/vertex` and the health route `/health`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.responses import Response
from starlette.routing import Route

from distilrt.server import huggingface
from distilrt.server.errors import Unprocessable
from distilrt.server.operation import Operation
from distilrt.server.serving import Call, Serving


class Instances(msgspec.Struct, forbid_unknown_fields=True):
    """A body."""

    instances: Annotated[list[Any], Meta(min_length=1)]
    parameters: dict[str, Any] | None = None


class Predictions(msgspec.Struct):
    """An answer to each instance, in order."""

    predictions: list[Any]


def routes(serving: Serving) -> list[Route]:
    """The route of this format."""
    decoder = msgspec.json.Decoder(Instances)

    async def predict(call: Call) -> Response:
        body = await call.read(decoder)
        inputs = [_input(instance) for instance in body.instances]
        found = await huggingface.answer(call, huggingface.Payload(inputs, body.parameters))
        return call.reply({"predictions": found})

    return [serving.route("/vertex", predict, about=Operation("The model's task (Vertex AI)", Instances, Predictions))]


def _input(instance: Any) -> Any:
    if not isinstance(instance, dict) or "inputs" not in instance:
        return instance
    if len(instance) > 1:
        raise Unprocessable("an instance has one key, 'inputs'; the parameters stand beside the instances")
    if isinstance(instance["inputs"], list):
        raise Unprocessable("an instance has one input; several are several instances")
    return instance["inputs"]

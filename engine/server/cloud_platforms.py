"""Contracts of cloud platforms, which carry Hugging Face's task payloads.

Amazon SageMaker: `GET /ping`, and `POST /invocations` with a payload. Google Vertex AI: `POST /vertex` with
`{"instances": […]}`, answered by `{"predictions": […]}`. An instance is a payload without its parameters, which are the
same for all: `{"inputs": …}`, or the bare input. Deploy with the predict route `/vertex` and the health route
`/health`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from distilrt.server import health, huggingface
from distilrt.server.call import Call
from distilrt.server.operation import Operation
from distilrt.server.statuses import Unprocessable


class Instances(msgspec.Struct, forbid_unknown_fields=True):
    """A body."""

    instances: Annotated[list[Any], Meta(min_length=1)]
    parameters: dict[str, Any] | None = None


class Predictions(msgspec.Struct):
    """An answer to each instance, in order."""

    predictions: list[Any]


async def _predict(call: Call, body: Instances) -> Any:
    inputs = [_input(instance) for instance in body.instances]
    return {"predictions": await huggingface.answer(call, huggingface.Payload(inputs, body.parameters))}


def _input(instance: Any) -> Any:
    if not isinstance(instance, dict) or "inputs" not in instance:
        return instance
    if len(instance) > 1:
        raise Unprocessable("an instance has one key, 'inputs'; the parameters stand beside the instances")
    if isinstance(instance["inputs"], list):
        raise Unprocessable("an instance has one input; several are several instances")
    return instance["inputs"]


OPERATIONS = [
    Operation(
        "GET", "/ping", health.ready, "Whether it is to be sent requests (SageMaker)", None, health.Health, public=True
    ),
    Operation("POST", "/invocations", huggingface.answer, "The model's task (SageMaker)", huggingface.Payload, Any),
    Operation("POST", "/vertex", _predict, "The model's task (Vertex AI)", Instances, Predictions),
]

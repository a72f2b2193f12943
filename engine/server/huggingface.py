"""Hugging Face's task payloads: `POST /` and `POST /models/{model}`, as huggingface_hub's InferenceClient sends them.

`{"inputs": …, "parameters": {…}}` of the model's task; where its head serves two, the payload says which. Inputs may be
a list, and then so is the answer. Forms of inputs and answers: huggingface_hub's types, and the pipelines'.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from distilrt.engine import Engine
from distilrt.server.errors import Unprocessable
from distilrt.server.operation import Operation
from distilrt.server.serving import Call, Serving


class Payload(msgspec.Struct, forbid_unknown_fields=True):
    """A body. What follows `options` are feature-extraction's parameters, which InferenceClient sends beside the
    inputs."""

    inputs: Any
    parameters: dict[str, Any] | None = None
    options: dict[str, Any] | None = None  # of the hub's own servers; without effect
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    encoding_format: str | None = None


_DECODER = msgspec.json.Decoder(Payload)


def routes(serving: Serving) -> list[Route]:
    """The routes of this format."""

    async def reply(call: Call) -> Response:
        return call.reply(await answer(call, await call.read(_DECODER)))

    about = Operation("The model's task, as huggingface_hub's InferenceClient asks for it", Payload, Any)
    return [
        serving.route("/", reply, about=about),
        serving.route("/models/{model:path}", reply, about=about),
    ]


async def answer(call: Call, payload: Payload) -> Any:
    """The answer to a payload, by the model that the route names. Raises as `Call.answer`, and Unprocessable."""
    engine = call.serving.engine(call.path.get("model"))
    task, params = _task(engine, payload), {**(payload.parameters or {}), **_beside(payload)}
    if task == "text-classification":
        params.setdefault("top_k", None)  # all labels
    if task == "feature-extraction" and engine.pooling and "pooling" not in params:
        params |= {"pooling": engine.pooling, "normalize": params.get("normalize", True)}
    found = await call.answer(engine, task, payload.inputs, params)
    return _formed(task, payload.inputs, params, found)


def _task(engine: Engine, payload: Payload) -> str:
    """The model's task, or the other that its head serves where the payload can only mean that."""
    if "zero-shot-classification" in engine.tasks and "candidate_labels" in (payload.parameters or {}):
        return "zero-shot-classification"
    first = payload.inputs[0] if isinstance(payload.inputs, list) and payload.inputs else payload.inputs
    if "sentence-similarity" in engine.tasks and isinstance(first, dict):
        return "sentence-similarity"
    return engine.task


def _beside(payload: Payload) -> dict[str, Any]:
    """The parameters beside the inputs, by our names.

    Raises:
        Unprocessable: one that is not served.
    """
    params: dict[str, Any] = {}
    if payload.normalize is not None:
        params["normalize"] = payload.normalize
    if payload.truncate is not None:
        params["truncation"] = payload.truncate
    if (payload.truncation_direction or "right").lower() != "right":
        raise Unprocessable("truncation_direction must be 'right', the only one served, "
                            f"found {payload.truncation_direction!r}")  # fmt: skip
    if payload.encoding_format not in (None, "float"):
        raise Unprocessable(f"encoding_format must be 'float', the only one served, found {payload.encoding_format!r}")
    for name in ("prompt_name", "dimensions"):
        if getattr(payload, name) is not None:
            raise Unprocessable(f"{name} is not served; leave it out")
    return params


def _formed(task: str, inputs: Any, params: dict[str, Any], found: Any) -> Any:
    """An answer as InferenceClient reads it."""
    if task == "text-classification":
        return found if isinstance(inputs, list) else [found]
    if task == "feature-extraction" and params.get("pooling"):
        return found if isinstance(inputs, list) else [found]
    if task == "zero-shot-classification":
        return [_labels(item) for item in found] if isinstance(inputs, list) else _labels(found)
    return found


def _labels(answer: dict[str, Any]) -> list[dict[str, Any]]:
    pairs = zip(answer["labels"], answer["scores"], strict=True)
    return [{"label": label, "score": score} for label, score in pairs]

"""OpenAI's embeddings: `POST /v1/embeddings` and `GET /v1/models`, as the openai package and others like it call them.

Vectors have length 1, as OpenAI's. The package asks for base64 unless told otherwise. Token ids are this model's own;
those of another tokenizer are refused where the model doesn't know them.
"""

from __future__ import annotations

import base64
import time
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from starlette.responses import Response
from starlette.routing import Route

from distilrt import tasks
from distilrt.server import embedding_inputs
from distilrt.server.embedding_inputs import Texts
from distilrt.server.errors import Failure, NoSuchTask
from distilrt.server.operation import Operation
from distilrt.server.serving import Call, Handler, Serving


class Embeddings(msgspec.Struct, forbid_unknown_fields=True):
    """A body. Inputs are a text, its token ids, or a list of either; the model is the first encoder if not named."""

    input: Texts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None  # without effect


class Embedding(msgspec.Struct):
    """One vector; in base64 it is little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(msgspec.Struct):
    """What was computed."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    """An answer."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(msgspec.Struct):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(msgspec.Struct):
    """The models."""

    object: Literal["list"]
    data: list[Model]


class Details(msgspec.Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(msgspec.Struct):
    """An error."""

    error: Details


def shape(failure: Failure) -> Error:
    """An error in OpenAI's words."""
    kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        failure.status, "server_error" if failure.status >= 500 else "invalid_request_error"
    )
    code = "model_not_found" if failure.kind == "UnknownModel" else failure.kind
    return Error(Details(failure.message, kind, None, code))


_DECODER = msgspec.json.Decoder(Embeddings)


def routes(serving: Serving) -> list[Route]:
    """The routes of this format."""
    started = int(time.time())

    def as_model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "distilrt"}

    async def models(call: Call) -> Response:
        return call.reply({"object": "list", "data": [as_model(name) for name in serving.engines]})

    async def model(call: Call) -> Response:
        return call.reply(as_model(serving.engine(call.path["model"]).name))

    def route(path: str, method: str, handler: Handler, summary: str, body: Any, answer: Any) -> Route:
        return serving.route(path, handler, methods=[method], shape=shape, about=Operation(summary, body, answer))

    return [
        route("/v1/embeddings", "POST", _embeddings, "Vectors of texts", Embeddings, EmbeddingList),
        route("/v1/models", "GET", models, "What is served", None, ModelList),
        route("/v1/models/{model:path}", "GET", model, "A model that is served", None, Model),
    ]


async def _embeddings(call: Call) -> Response:
    body = await call.read(_DECODER)
    serving = call.serving
    engine = serving.having("feature-extraction") if body.model is None else serving.engine(body.model)
    if "feature-extraction" not in engine.tasks:
        raise NoSuchTask(f"{engine.name} makes no embeddings, it serves {', '.join(engine.tasks)}")
    params = {"pooling": tasks.SENTENCE, "normalize": True, "dimensions": body.dimensions,
              "prompt": engine.prompts[""]}  # fmt: skip
    found = await call.answer(engine, "feature-extraction", embedding_inputs.items(body.input), params)
    if body.encoding_format == "base64":
        found = await call.aside(4 * len(found) * len(found[0]), lambda: list(map(_base64, found)))
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(found)]
    usage = {"prompt_tokens": call.tokens, "total_tokens": call.tokens}
    return call.reply({"object": "list", "data": data, "model": engine.name, "usage": usage})


def _base64(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()

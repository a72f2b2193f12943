"""OpenAI's embeddings: `POST /v1/embeddings` and `GET /v1/models`, as the openai package and others like it call them.

Vectors have length 1, as OpenAI's. The package asks for base64 unless told otherwise. Token ids are this model's own;
those of another tokenizer are refused where the model doesn't know them.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from distilrt import tasks
from distilrt.server import embedding_inputs
from distilrt.server.call import Call
from distilrt.server.embedding_inputs import Texts
from distilrt.server.operation import Operation
from distilrt.server.statuses import Failure, NoSuchTask


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


class ServedModel(msgspec.Struct):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(msgspec.Struct):
    """The models."""

    object: Literal["list"]
    data: list[ServedModel]


class Details(msgspec.Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """An error."""

    error: Details


def shape(failure: Failure) -> OpenAIError:
    """An error in OpenAI's words."""
    kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        failure.status, "server_error" if failure.status >= 500 else "invalid_request_error"
    )
    code = "model_not_found" if failure.kind == "UnknownModel" else failure.kind
    return OpenAIError(Details(failure.message, kind, None, code))


async def _models(call: Call) -> Any:
    return {"object": "list", "data": [_as_model(call, name) for name in call.serving.engines]}


async def _model(call: Call) -> Any:
    return _as_model(call, call.serving.engine(call.path["model"]).name)


def _as_model(call: Call, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": call.serving.started, "owned_by": "distilrt"}


async def _embeddings(call: Call, body: Embeddings) -> Any:
    serving = call.serving
    engine = serving.having("feature-extraction") if body.model is None else serving.engine(body.model)
    if "feature-extraction" not in engine.tasks:
        raise NoSuchTask(f"{engine.name} makes no embeddings, it serves {', '.join(engine.tasks)}")
    params = {
        "pooling": tasks.SENTENCE,
        "normalize": True,
        "dimensions": body.dimensions,
        "prompt": engine.prompts[""],
    }
    found = await call.answer(engine, "feature-extraction", embedding_inputs.items(body.input), params)
    if body.encoding_format == "base64":
        found = await call.aside(4 * len(found) * len(found[0]), lambda: list(map(_base64, found)))
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(found)]
    usage = {"prompt_tokens": call.tokens, "total_tokens": call.tokens}
    return {"object": "list", "data": data, "model": engine.name, "usage": usage}


def _base64(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


OPERATIONS = [
    Operation("POST", "/v1/embeddings", _embeddings, "Vectors of texts", Embeddings, EmbeddingList, shape=shape),
    Operation("GET", "/v1/models", _models, "What is served", None, ModelList, shape=shape),
    Operation("GET", "/v1/models/{model:path}", _model, "A model that is served", None, ServedModel, shape=shape),
]

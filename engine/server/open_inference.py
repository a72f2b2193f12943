"""The Open Inference Protocol, version 2 (KServe, Triton): metadata, health and `POST /v2/models/{model}/infer`.

A model takes `text`, and perhaps `text_pair`, of datatype BYTES, or `input_ids`, and perhaps `attention_mask`, of
INT64; it gives its head's numbers in FP32, in JSON or the binary extension. Tokens that aren't there have zeros.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from starlette.responses import Response
from starlette.routing import Route

import distilrt
from distilrt.engine import Engine
from distilrt.server import health
from distilrt.server.answers import check_answer, most_tokens
from distilrt.server.errors import Failure, Malformed, UnknownModel, Unprocessable
from distilrt.server.operation import Operation
from distilrt.server.serving import Call, Handler, Serving
from distilrt.server.tensors import Tensor, array, blobs

_LENGTH = "inference-header-content-length"
_VERSION = "1"
_MODEL = "/v2/models/{model:path}"
_OUTPUTS = {"DistilBertModel": ("last_hidden_state",), "DistilBertForQuestionAnswering": ("start_logits", "end_logits")}
_PARAMETERS = ("binary_data_output", "truncation")


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """An output that is wanted."""

    name: str
    parameters: dict[str, Any] | None = None


class Infer(msgspec.Struct, forbid_unknown_fields=True):
    """A request, or its header in the binary extension."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Wanted] | None = None


class Output(msgspec.Struct, omit_defaults=True):
    """A tensor of an answer; its data are flat, in row-major order, or after the header."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[float] | None = None


class Inferred(msgspec.Struct, omit_defaults=True):
    """An answer."""

    model_name: str
    outputs: list[Output]
    model_version: str | None = None
    id: str | None = None


class Server(msgspec.Struct):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class TensorKind(msgspec.Struct):
    """A tensor that a model takes or gives; -1: any length."""

    name: str
    datatype: str
    shape: list[int]


class Metadata(msgspec.Struct):
    """What a model takes and gives: the texts, or else the ids."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorKind]
    outputs: list[TensorKind]


class Live(msgspec.Struct):
    """Whether the server runs."""

    live: bool


class Ready(msgspec.Struct, omit_defaults=True):
    """Whether server or model are to be sent requests."""

    ready: bool
    name: str | None = None


class Error(msgspec.Struct):
    """An error."""

    error: str


def shape(failure: Failure) -> Error:
    """An error in the protocol's form."""
    return Error(failure.message)


_DECODER = msgspec.json.Decoder(Infer)


def routes(serving: Serving) -> list[Route]:
    """The routes of this format; the more specific ones come first, since a model's name may have slashes."""

    async def server(call: Call) -> Response:
        return call.reply({"name": "distilrt", "version": distilrt.__version__, "extensions": ["binary_tensor_data"]})

    async def live(call: Call) -> Response:
        return call.reply({"live": True})

    async def ready(call: Call) -> Response:
        status = health.report(call).status_code
        return call.reply({"ready": status == 200}, status)

    def get(path: str, handler: Handler, summary: str, answer: Any, public: bool = False) -> Route:
        about = Operation(summary, None, answer)
        return serving.route(path, handler, methods=["GET"], shape=shape, public=public, about=about)

    def infer(path: str) -> Route:
        return serving.route(path, _infer, shape=shape, about=Operation("The head's numbers", Infer, Inferred))

    versions = _MODEL + "/versions/{version}"
    return [
        get("/v2", server, "What the server is", Server),
        get("/v2/health/live", live, "Whether it runs", Live, public=True),
        get("/v2/health/ready", ready, "Whether it is to be sent requests", Ready, public=True),
        get(versions + "/ready", _ready, "Whether the model is to be sent requests", Ready),
        get(_MODEL + "/ready", _ready, "Whether the model is to be sent requests", Ready),
        infer(versions + "/infer"),
        infer(_MODEL + "/infer"),
        get(versions, _metadata, "What the model takes and gives", Metadata),
        get(_MODEL, _metadata, "What the model takes and gives", Metadata),
    ]


def _engine(call: Call) -> Engine:
    if call.path.get("version", _VERSION) != _VERSION:
        raise UnknownModel(f"a model has the version {_VERSION} alone, found {call.path['version']!r}")
    return call.serving.engine(call.path["model"])


async def _ready(call: Call) -> Response:
    engine = _engine(call)
    fit = call.serving.warm and engine.ready
    return call.reply({"name": engine.name, "ready": fit}, 200 if fit else 503)


async def _metadata(call: Call) -> Response:
    engine = _engine(call)
    inputs = [("text", "BYTES", [-1]), ("text_pair", "BYTES", [-1]),
              ("input_ids", "INT64", [-1, -1]), ("attention_mask", "INT64", [-1, -1])]  # fmt: skip
    return call.reply({
        "name": engine.name,
        "versions": [_VERSION],
        "platform": "distilrt",
        "inputs": [{"name": name, "datatype": kind, "shape": dims} for name, kind, dims in inputs],
        "outputs": [{"name": name, "datatype": "FP32", "shape": _dims(engine)} for name in _names(engine)],
    })  # fmt: skip


def _names(engine: Engine) -> tuple[str, ...]:
    return _OUTPUTS.get(engine.model.architecture, ("logits",))


def _first_only(engine: Engine) -> bool:
    return bool(engine.model.architecture == "DistilBertForSequenceClassification")


def _dims(engine: Engine) -> list[int]:
    config = engine.model.config
    if engine.model.architecture == "DistilBertForQuestionAnswering":
        return [-1, -1]
    width = {"DistilBertModel": config.hidden_size, "DistilBertForMaskedLM": config.vocab_size}
    last = width.get(engine.model.architecture, config.num_labels)
    return [-1, last] if _first_only(engine) else [-1, -1, last]


async def _infer(call: Call) -> Response:
    engine = _engine(call)
    header, rest = _split(call, await call.body())
    body = call.decode(header, _DECODER)
    parameters = _checked(body.parameters or {}, "parameter", _PARAMETERS)
    names = _names(engine)
    binary = {name: parameters.get("binary_data_output", False) for name in names}
    if body.outputs:
        for wanted in body.outputs:
            if wanted.name not in names:
                raise Unprocessable(f"the model has the outputs {' and '.join(names)}, found {wanted.name!r}")
        binary = {
            wanted.name: _checked(wanted.parameters or {}, f"output {wanted.name!r}: parameter", ("binary_data",))
            .get("binary_data", binary[wanted.name])
            for wanted in body.outputs
        }  # fmt: skip
    blobbed = zip(body.inputs, blobs(body.inputs, rest), strict=True)
    tensors = {tensor.name: array(tensor, blob) for tensor, blob in blobbed}
    if len(tensors) < len(body.inputs):
        raise Unprocessable("two inputs have one name")
    items, length = _items(tensors)
    _check_size(engine, items, length, all(binary.values()))
    params = {"rows": "first" if _first_only(engine) else "all", "truncation": parameters.get("truncation")}
    rows = await call.answer(engine, "outputs", items, params)
    return _respond(call, engine, body.id, _arrays(engine, rows, length), binary)


def _check_size(engine: Engine, items: list[Any], length: int, binary: bool) -> None:
    """An answer has as many rows for each input as the longest has tokens."""
    if not _first_only(engine):
        rows = len(items) * max(length, *(most_tokens(engine, item) for item in items))
        check_answer(rows, abs(_dims(engine)[-1]) * len(_names(engine)), binary)


def _split(call: Call, body: bytes) -> tuple[bytes, bytes]:
    """JSON and what follows it."""
    text = call.headers.get(_LENGTH)
    if text is None:
        return body, b""
    if not (text.isascii() and text.isdigit() and int(text) <= len(body)):
        raise Malformed(f"{_LENGTH} must be an integer of at most the body's {len(body)} bytes, found {text!r:.40}")
    return body[: int(text)], body[int(text) :]


def _checked(given: dict[str, Any], what: str, known: tuple[str, ...]) -> dict[str, bool]:
    for name, value in given.items():
        if name not in known:
            raise Unprocessable(f"{what} {name!r} is not served; there is {', '.join(known)}")
        if type(value) is not bool:
            raise Unprocessable(f"{what} {name!r} must be true or false, found {value!r:.40}")
    return given


def _items(tensors: dict[str, npt.NDArray[Any]]) -> tuple[list[Any], int]:
    """What the engine is to be asked, and how long sequences were padded; 0 for texts."""
    names = set(tensors)
    if names <= {"text", "text_pair"} and "text" in names:
        texts = _texts(tensors, "text")
        if "text_pair" not in names:
            return texts, 0
        pairs = _texts(tensors, "text_pair")
        if len(pairs) != len(texts):
            raise Unprocessable(f"text has {len(texts)} strings, and text_pair {len(pairs)}")
        return [{"text": text, "text_pair": pair} for text, pair in zip(texts, pairs, strict=True)], 0
    if names <= {"input_ids", "attention_mask"} and "input_ids" in names:
        return _sequences(tensors["input_ids"], tensors.get("attention_mask"))
    raise Unprocessable("the inputs must be text, and perhaps text_pair, or input_ids, and perhaps attention_mask; "
                        f"found {', '.join(sorted(names)) or 'none'}")  # fmt: skip


def _texts(tensors: dict[str, npt.NDArray[Any]], name: str) -> list[str]:
    found = tensors[name]
    if found.dtype != object or not found.size:
        raise Unprocessable(f"{name} must have the datatype BYTES and at least one string")
    if found.ndim > 1 and found.size != len(found):
        raise Unprocessable(f"{name} must have the shape [n] or [n, 1], found {list(found.shape)}")
    return [str(text) for text in found.reshape(-1)]


def _sequences(ids: npt.NDArray[Any], mask: npt.NDArray[Any] | None) -> tuple[list[list[int]], int]:
    """The ids where the mask is 1."""
    if ids.dtype == object or ids.ndim != 2 or not ids.size:
        raise Unprocessable(f"input_ids must be INT64 of shape [n, length], found the shape {list(ids.shape)}")
    mask = np.ones(ids.shape, np.int64) if mask is None else mask
    if mask.dtype == object or mask.shape != ids.shape:
        raise Unprocessable(f"attention_mask must be INT64 of input_ids' shape {list(ids.shape)}, "
                            f"found {list(mask.shape)}")  # fmt: skip
    lengths = mask.sum(axis=1)
    if not np.array_equal(mask, np.arange(ids.shape[1]) < lengths[:, None]) or not lengths.all():
        raise Unprocessable("each row of attention_mask must be ones, at least one, and then zeros")
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)], ids.shape[1]


def _arrays(engine: Engine, rows: list[npt.NDArray[Any]], length: int) -> dict[str, npt.NDArray[np.float32]]:
    """The outputs by name, those of tokens padded with zeros."""
    if _first_only(engine):
        return {"logits": np.concatenate(rows).astype("<f4")}
    padded = np.zeros((len(rows), max(length, *map(len, rows)), rows[0].shape[1]), "<f4")
    for place, found in zip(padded, rows, strict=True):
        place[: len(found)] = found
    names = _names(engine)
    return {names[0]: padded} if len(names) == 1 else {
        name: np.ascontiguousarray(padded[..., index]) for index, name in enumerate(names)
    }  # fmt: skip


def _respond(
    call: Call, engine: Engine, number: str | None, arrays: dict[str, npt.NDArray[np.float32]], binary: dict[str, bool]
) -> Response:
    outputs: list[dict[str, Any]] = []
    rest = []
    for name, wanted in binary.items():
        found = arrays[name]
        output: dict[str, Any] = {"name": name, "shape": list(found.shape), "datatype": "FP32"}
        if wanted:
            output["parameters"] = {"binary_data_size": found.nbytes}
            rest.append(found.tobytes())
        else:
            output["data"] = found.reshape(-1)
        outputs.append(output)
    content = {"model_name": engine.name, "model_version": _VERSION, "outputs": outputs}
    response = call.reply(content if number is None else {**content, "id": number})
    if not rest:
        return response
    header = bytes(response.body)
    return Response(b"".join([header, *rest]), 200, {**call.timings(), _LENGTH: str(len(header))},
                    media_type="application/octet-stream")  # fmt: skip

"""The Open Inference Protocol, version 2 (KServe, Triton): metadata, health and `POST /v2/models/{model}/infer`.

Tensors are in JSON or the binary extension; which of them a model takes and gives says its
`distilrt.server.signature.Signature`.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.responses import Response

import distilrt
from distilrt.runtime.batcher import PRIORITIES
from distilrt.runtime.engine import Engine
from distilrt.server import health
from distilrt.server.call import Call
from distilrt.server.long_response import LongResponse, array_pieces, in_turns, json_pieces
from distilrt.server.operation import Operation
from distilrt.server.signature import Arrays, Asked, Kind, Signature
from distilrt.server.statuses import Failure, Malformed, UnknownModel, Unprocessable
from distilrt.server.tensors import Tensor, array, blobs

_LENGTH = "inference-header-content-length"
_VERSION = "1"
_MODEL = "/v2/models/{model:path}"
_MODEL_VERSION = _MODEL + "/versions/{version}"


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a request may say beside its tensors: Triton's priority, of which 1 goes first, its timeout in microseconds,
    whether outputs are in binary, and whether texts are cut. The headers count where priority or timeout is 0."""

    priority: Annotated[int, Meta(ge=0, le=len(PRIORITIES))] = 0
    timeout: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    binary_data_output: bool = False
    truncation: bool | None = None


class OutputParameters(msgspec.Struct, forbid_unknown_fields=True):
    """Whether an output is in binary, where that is not as for all."""

    binary_data: bool | None = None


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class Infer(msgspec.Struct, forbid_unknown_fields=True):
    """A request, or its header in the binary extension."""

    inputs: list[Tensor]
    id: Annotated[str, Meta(max_length=1024)] | None = None
    parameters: Parameters | None = None
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


class ServerMetadata(msgspec.Struct):
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


class InferenceError(msgspec.Struct):
    """An error."""

    error: str


def shape(failure: Failure) -> InferenceError:
    """An error in the protocol's form."""
    return InferenceError(failure.message)


_DECODER = msgspec.json.Decoder(Infer)


async def _server(call: Call) -> Any:
    return {"name": "distilrt", "version": distilrt.__version__, "extensions": ["binary_tensor_data"]}


async def _live(call: Call) -> Any:
    return {"live": True}


async def _server_ready(call: Call) -> Response:
    fit = health.status_of(call.serving) == "ready"
    return health.probed(call, {"ready": fit}, fit)


def _engine(call: Call) -> Engine:
    if call.path.get("version", _VERSION) != _VERSION:
        raise UnknownModel(f"a model has the version {_VERSION} alone, found {call.path['version']!r}")
    return call.serving.engine(call.path["model"])


async def _ready(call: Call) -> Response:
    engine = _engine(call)
    fit = call.serving.warm and engine.ready
    return health.probed(call, {"name": engine.name, "ready": fit}, fit)


async def _metadata(call: Call) -> Any:
    engine = _engine(call)
    signature = Signature(engine)
    return {
        "name": engine.name,
        "versions": [_VERSION],
        "platform": "distilrt",
        "inputs": [_described(kind) for kind in signature.inputs],
        "outputs": [_described(kind) for kind in signature.outputs],
    }


def _described(kind: Kind) -> dict[str, Any]:
    name, datatype, shape = kind
    return {"name": name, "datatype": datatype, "shape": shape}


async def _infer(call: Call) -> Response:
    engine = _engine(call)
    signature = Signature(engine)
    header, rest = _split(call, await call.body.read())
    body = call.decode(header, _DECODER)
    parameters = body.parameters or Parameters()
    call.priority = PRIORITIES[-1] + 1 - parameters.priority if parameters.priority else None
    call.timeout = parameters.timeout / 1e6 or None
    binary = _wanted(body.outputs or [], signature.names, parameters.binary_data_output)
    asked = await call.aside(len(header) + len(rest), partial(_asked, signature, body.inputs, rest))
    signature.check_size(asked, all(binary.values()))
    params = {"rows": signature.rows, "truncation": parameters.truncation}
    rows = await call.answer(engine, "outputs", asked.items, params)
    arrays = await call.aside(sum(row.nbytes for row in rows), partial(signature.arrays, asked, rows))
    return await _respond(call, engine, body.id, arrays, binary)


def _asked(signature: Signature, inputs: list[Tensor], rest: bytes) -> Asked:
    """What the inputs ask, of which some may have their data in the rest of the body."""
    tensors = {tensor.name: array(tensor, blob) for tensor, blob in zip(inputs, blobs(inputs, rest), strict=True)}
    if len(tensors) < len(inputs):
        raise Unprocessable("two inputs have one name")
    return signature.asked(tensors)


def _wanted(outputs: list[Wanted], names: tuple[str, ...], binary: bool) -> dict[str, bool]:
    """The outputs that are wanted, all where none is named, each in binary or not; `binary` where that isn't said."""
    found = {}
    for wanted in outputs or map(Wanted, names):
        if wanted.name not in names:
            raise Unprocessable(f"the model has the outputs {' and '.join(names)}, found {wanted.name!r}")
        own = wanted.parameters.binary_data if wanted.parameters else None
        found[wanted.name] = binary if own is None else own
    return found


def _split(call: Call, body: bytes) -> tuple[bytes, bytes]:
    """JSON and what follows it."""
    text = call.headers.get(_LENGTH)
    if text is None:
        return body, b""
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= len(body)):
        raise Malformed(f"{_LENGTH} must be an integer of at most the body's {len(body)} bytes, found {text!r:.40}")
    return body[: int(text)], body[int(text) :]


async def _respond(call: Call, engine: Engine, number: str | None, arrays: Arrays, binary: dict[str, bool]) -> Response:
    outputs: list[dict[str, Any]] = []
    rest = []
    for name, wanted in binary.items():
        found = arrays[name]
        output: dict[str, Any] = {"name": name, "shape": list(found.shape), "datatype": "FP32"}
        if wanted:
            output["parameters"] = {"binary_data_size": found.nbytes}
            rest.append(array_pieces(found))
        else:
            output["data"] = found.reshape(-1)
        outputs.append(output)
    content = {"model_name": engine.name, "model_version": _VERSION, "outputs": outputs}
    if number is not None:
        content["id"] = number
    if not rest:
        return call.reply(content)
    header = await in_turns(json_pieces(content))
    headers = {**call.timings(), _LENGTH: str(sum(map(len, header)))}
    return LongResponse(chain(header, *rest), headers, "application/octet-stream")


def _get(path: str, handler: Any, summary: str, answer: Any, public: bool = False) -> Operation:
    return Operation("GET", path, handler, summary, None, answer, shape=shape, public=public)


def _post(path: str) -> Operation:
    return Operation("POST", path, _infer, "The head's numbers", Infer, Inferred, shape=shape, decodes=False)


OPERATIONS = [  # the more specific ones first, since a model's name may have slashes
    _get("/v2", _server, "What the server is", ServerMetadata),
    _get("/v2/health/live", _live, "Whether it runs", Live, public=True),
    _get("/v2/health/ready", _server_ready, "Whether it is to be sent requests", Ready, public=True),
    _get(f"{_MODEL_VERSION}/ready", _ready, "Whether the model is to be sent requests", Ready),
    _get(f"{_MODEL}/ready", _ready, "Whether the model is to be sent requests", Ready),
    _post(f"{_MODEL_VERSION}/infer"),
    _post(f"{_MODEL}/infer"),
    _get(_MODEL_VERSION, _metadata, "What the model takes and gives", Metadata),
    _get(_MODEL, _metadata, "What the model takes and gives", Metadata),
]

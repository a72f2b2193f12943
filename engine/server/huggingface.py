"""Hugging Face's task payloads: `POST /` and `POST /models/{model}`, as huggingface_hub's InferenceClient sends them.

`{"inputs": …, "parameters": {…}}` of the model's task; where its head serves two, the payload says which. Inputs may be
a list, and then so is the answer. Forms of inputs and answers: huggingface_hub's types, and the pipelines'.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from distilrt import tasks
from distilrt.runtime.engine import Engine
from distilrt.server import embedding_inputs
from distilrt.server.answer_limits import check_answer, check_candidates, check_entries, most_tokens
from distilrt.server.call import Call
from distilrt.server.embedding_inputs import Direction
from distilrt.server.operation import Operation
from distilrt.server.statuses import Unprocessable
from distilrt.tasks.size import characters

_EMBEDDINGS = ("feature-extraction", "sentence-similarity", "sparse-embedding")


class Payload(msgspec.Struct, forbid_unknown_fields=True):
    """A body. The fields after `options` are parameters of feature-extraction, which InferenceClient sends beside the
    inputs. `prompt_name` is one of the checkpoint's prompts; None: its default."""

    inputs: Any
    parameters: dict[str, Any] | None = None
    options: dict[str, Any] | None = None  # of the hub's own servers; without effect
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float"] | None = None


async def answer(call: Call, payload: Payload) -> Any:
    """The answer to a payload, by the model that the route names.

    Raises:
        TooLarge: the answer would be too large.
        Unprocessable: the model has no prompt of that name.
        Exception: as `Call.answer`.
    """
    engine = call.serving.engine(call.path.get("model"))
    task, params = _task(engine, payload), {**(payload.parameters or {}), **_beside(payload)}
    items = payload.inputs if isinstance(payload.inputs, list) else [payload.inputs]
    call.limits.check(texts=len(items))  # before each is looked at
    if task == "text-classification":
        params.setdefault("top_k", None)  # all labels
    if task == "feature-extraction" and engine.pooling and "pooling" not in params:
        params |= {"pooling": tasks.SENTENCE, "normalize": params.get("normalize", True)}
    if payload.prompt_name is not None and task not in _EMBEDDINGS:
        raise Unprocessable(f"prompt_name is for {' and '.join(_EMBEDDINGS)}; {task} has no prompts")
    if task in _EMBEDDINGS and (payload.prompt_name is not None or "prompt" not in params):
        params["prompt"] = embedding_inputs.prompt(engine, payload.prompt_name, items)
    _check_size(engine, task, items, params)
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
    """The parameters beside the inputs, by our names."""
    direction = payload.truncation_direction
    given = {
        "normalize": payload.normalize,
        "truncation": payload.truncate,
        "truncation_side": None if direction is None else direction.lower(),
        "dimensions": payload.dimensions,
    }
    return {name: value for name, value in given.items() if value is not None}


def _check_size(engine: Engine, task: str, items: list[Any], params: dict[str, Any]) -> None:
    """Refuse answers that a small body can make large: vectors of tokens, and candidates by `top_k`."""
    if task == "feature-extraction" and not params.get("pooling"):
        rows = sum(most_tokens(engine, item, params["prompt"]) for item in items)
        check_answer(rows, engine.model.config.hidden_size)
    elif task == "text-classification":
        top_k = params["top_k"]
        windows = characters(items) if params.get("return_windows") else 0  # A window has one character or more.
        check_entries((len(items) + windows) * (engine.model.config.num_labels if top_k is None else 1))
    elif task == "fill-mask":
        mask = engine.tokenizer.mask_token
        check_candidates(
            task, ((item, item.count(mask)) for item in items if mask and isinstance(item, str)), params.get("top_k")
        )
    elif task == "question-answering":
        contexts = (item.get("context") for item in items if isinstance(item, dict))
        check_candidates(task, ((text, 1) for text in contexts if isinstance(text, str)), params.get("top_k"))


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


_SUMMARY = "The model's task, as huggingface_hub's InferenceClient asks for it"
OPERATIONS = [Operation("POST", path, answer, _SUMMARY, Payload, Any) for path in ("/", "/models/{model:path}")]

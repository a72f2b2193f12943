"""How servers want to be asked: one small entry for each wire format. JSON only, no HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Encode = Callable[[str, Sequence[Any], Mapping[str, Any], str], Any]
Decode = Callable[[Any], Any]

CLASSIFY, EMBED = "text-classification", "feature-extraction"


@dataclass(frozen=True, slots=True)
class Format:
    """One wire format.

    Attributes:
        paths: below the server's URL, of each task that it serves.
        body: task, inputs, the task's parameters and the model's name to the object that is sent.
        answer: the object that came back for one input to that input's answer.
        softmax: the server gives a softmax's probabilities; `answer` gives their logarithms, logits but for a constant.
    """

    paths: Mapping[str, str]
    body: Encode
    answer: Decode
    softmax: bool = False

    def encode(self, task: str, inputs: Sequence[Any], params: Mapping[str, Any], model: str) -> bytes:
        """The body of a request."""
        return json.dumps(self.body(task, inputs, params, model), ensure_ascii=False).encode()

    def decode(self, body: bytes) -> Any:
        """The answer to a request of one input.

        Raises:
            ValueError: the body is not what the format says.
        """
        try:
            return self.answer(json.loads(body))
        except (ValueError, LookupError, TypeError) as error:
            shown = body[:80].decode(errors="replace")
            raise ValueError(f"the server answers {shown!r}, which is not of this format") from error


def _hf_body(task: str, inputs: Sequence[Any], params: Mapping[str, Any], model: str) -> Any:
    """Hugging Face's Inference API: parameters under a key of their own, except for embeddings, as in its client."""
    asked = inputs[0] if len(inputs) == 1 else list(inputs)
    if task == EMBED:
        return {"inputs": asked, "truncate": True, "normalize": True}
    return {"inputs": asked, "parameters": {k: v for k, v in params.items() if k != "pooling"}}


def _openai_body(task: str, inputs: Sequence[Any], params: Mapping[str, Any], model: str) -> Any:
    return {"model": model, "input": list(inputs), "encoding_format": "float"}


def _infinity_body(task: str, inputs: Sequence[Any], params: Mapping[str, Any], model: str) -> Any:
    """Infinity: there is a `raw_scores`, which it ignores."""
    return {"model": model, "input": list(inputs)}


def _infinity_answer(found: Any) -> Any:
    """Logarithms of probabilities."""
    (scored,) = found["data"]
    if abs(sum(item["score"] for item in scored) - 1) > 1e-3:
        raise ValueError("scores of several labels at a time")
    return [{"label": item["label"], "score": math.log(item["score"])} for item in scored]


FORMATS: dict[str, Format] = {
    "hf": Format(dict.fromkeys((CLASSIFY, EMBED, "token-classification", "question-answering", "fill-mask"), "/"),
                 _hf_body, lambda found: found),
    "openai": Format({EMBED: "/v1/embeddings"}, _openai_body, lambda found: found["data"][0]["embedding"]),
    "infinity": Format({CLASSIFY: "/classify"}, _infinity_body, _infinity_answer, softmax=True),
}  # fmt: skip

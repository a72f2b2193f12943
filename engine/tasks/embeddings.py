"""feature-extraction and sentence-similarity: the vectors of tokens and texts, and the angles between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from distilrt.config import DistilBertConfig
from distilrt.errors import InvalidInput
from distilrt.tasks.base import (
    ALL,
    CUT,
    FIRST,
    Param,
    Params,
    Prepared,
    Rows,
    Selection,
    Task,
    Text,
    as_fields,
    as_text,
    count,
    one_of,
)
from distilrt.tasks.size import Size, characters
from distilrt.tasks.token_ids import TextOrIds
from distilrt.tokenizer import DistilBertTokenizer

_POOLING: dict[str, Callable[[Rows], Rows]] = {
    "mean": lambda rows: rows.mean(axis=0),
    "cls": lambda rows: rows[0],
}
# The last part of the type of each module of a sentence-transformers folder that changes nothing here.
_NEUTRAL_MODULES = ("Transformer", "Normalize")
_PROMPT = Param("", "a string", lambda value: isinstance(value, str))


class _Embedding(Task):
    architecture = "DistilBertModel"

    def select(self, tokenizer: DistilBertTokenizer, params: Params, ids: list[int]) -> Selection:
        """All rows, or the first for its own sake."""
        return FIRST if params["pooling"] == "cls" else ALL


class FeatureExtraction(TextOrIds, _Embedding):
    """A string, or a list of token ids, to the tokens' vectors `[1, tokens, hidden_size]`, or with `pooling` to one
    vector `[hidden_size]`.

    `pooling`: "mean" of all tokens or "cls", the first. `dimensions`: keep so many numbers of each vector, the first
    (Matryoshka embeddings); None: all. `normalize`: scale each vector to length 1. `prompt`: put it before a text.
    `truncation`, `max_length`, `truncation_side`: as in the tokenizer.
    """

    name = "feature-extraction"
    params: ClassVar[Mapping[str, Param]] = {
        "pooling": one_of(None, *_POOLING),
        "dimensions": count(None),
        "normalize": one_of(False, True),
        "prompt": _PROMPT,
        **CUT,
    }

    def check(self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, params: Params) -> None:
        """There must be as many dimensions."""
        if (params["dimensions"] or 0) > config.hidden_size:
            raise ValueError(f"dimensions must be at most {config.hidden_size}, those of this model, "
                             f"found {params['dimensions']}")  # fmt: skip

    def size_of(self, item: Any, params: Mapping[str, Any]) -> Size:
        """That of the text behind the prompt."""
        return Size(1, characters(params.get("prompt") or "") + characters(item))

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text."""
        return [params["prompt"] + as_text(item)]

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[Any]:
        """Vectors as nested lists."""
        pooling = prepared.params["pooling"]
        vectors = _POOLING[pooling](outputs[0]) if pooling else outputs[0][None]
        vectors = vectors[..., : prepared.params["dimensions"]]
        return list((_unit(vectors) if prepared.params["normalize"] else vectors).tolist())


class SentenceSimilarity(_Embedding):
    """`{"source_sentence", "sentences"}` to a list of the cosines between the first and each of the others.

    `pooling`: as the checkpoint's sentence-transformers files say, or else "mean". `prompt`: put it before each text.
    `truncation`, `max_length`, `truncation_side`: as in the tokenizer.
    """

    name = "sentence-similarity"
    params: ClassVar[Mapping[str, Param]] = {
        "pooling": one_of("mean", *_POOLING),
        "prompt": _PROMPT,
        **CUT,
    }

    def from_checkpoint(self, params: Mapping[str, Any], resolve: Callable[[str], Path | None]) -> Mapping[str, Any]:
        """`pooling` by modules.json and its pooling module's config.json, if there are such."""
        modules = _read(resolve("modules.json")) or []
        pooling = "mean"
        for module in modules if params.get("pooling") is None else []:
            kind = module["type"].rpartition(".")[2]
            if kind == "Pooling":
                pooling = _pooling(_read(resolve(f"{module['path']}/config.json")) or {})
            elif kind not in _NEUTRAL_MODULES:
                raise ValueError(f"modules.json names a {kind} module, which is not supported; give the parameter "
                                 f"pooling, one of {', '.join(_POOLING)}, to do without it")  # fmt: skip
        return {"pooling": pooling} | dict(params)

    def size_of(self, item: Any, params: Mapping[str, Any]) -> Size:
        """That of all sentences, each behind the prompt."""
        sentences = item.get("sentences") if isinstance(item, Mapping) else ()
        texts = 1 + (len(sentences) if isinstance(sentences, list | tuple) else 0)
        return Size(texts, texts * characters(params.get("prompt") or "") + characters(item))

    def texts(self, item: Any, params: Params) -> list[Text]:
        """All sentences, the source first."""
        source, sentences = as_fields(item, "source_sentence", "sentences")
        if not isinstance(sentences, list | tuple) or not sentences:
            raise InvalidInput(f"'sentences' must be a list of at least one string, found {sentences!r:.80}")
        named = [as_text(sentence, f"sentences[{i}]") for i, sentence in enumerate(sentences)]
        return [params["prompt"] + text for text in (as_text(source, "source_sentence"), *named)]

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[float]:
        """Cosines in the order of the sentences."""
        pooled = _unit(np.stack([_POOLING[prepared.params["pooling"]](rows) for rows in outputs]))
        return [float(pooled[0] @ vector) for vector in pooled[1:]]


def prompts(resolve: Callable[[str], Path | None]) -> dict[str, str]:
    """The texts that a sentence encoder wants before others, by their names; the one for callers that name none is "".

    They are in config_sentence_transformers.json; `resolve` finds a file by name.
    """
    config = _read(resolve("config_sentence_transformers.json")) or {}
    named = {name: text for name, text in (config.get("prompts") or {}).items() if name}
    return {**named, "": named.get(config.get("default_prompt_name") or "", "")}


def _unit(vectors: Rows) -> Rows:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def _read(path: Path | None) -> Any:
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def _pooling(config: Mapping[str, Any]) -> str:
    """The pooling that a sentence-transformers config names, in one key or, before version 6, in a flag for each."""
    modes = config.get("pooling_mode") or []
    modes = [modes] if isinstance(modes, str) else list(modes)
    flags = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes += [flag.removeprefix("pooling_mode_").partition("_token")[0] for flag in flags]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise ValueError(f"the pooling module's config.json says {' and '.join(modes) or 'nothing of pooling'}, which "
                         f"is not supported; give the parameter pooling, one of {', '.join(_POOLING)}")  # fmt: skip
    return str(modes[0])

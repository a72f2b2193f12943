"""text-embeddings-inference's routes: `/predict /embed /embed_all /embed_sparse /rerank /similarity /tokenize /decode`
and `/info`.

Bodies, answers and errors have the forms of its router. None of these routes names a model: each asks the first one
whose head it is for. Scores follow the config's `problem_type`, where text-embeddings-inference takes a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import distilrt
from distilrt import tasks
from distilrt.errors import InvalidInput
from distilrt.runtime.engine import Engine
from distilrt.runtime.reading import Limits
from distilrt.server import embedding_inputs
from distilrt.server.answer_limits import MOST_ENTRIES, check_answer, check_entries, most_tokens
from distilrt.server.call import Call
from distilrt.server.embedding_inputs import prompt
from distilrt.server.operation import Operation
from distilrt.server.statuses import Empty, Failure, Unprocessable
from distilrt.server.tei_types import (
    Decode,
    Embed,
    EmbedAll,
    Predict,
    Rank,
    Rerank,
    Score,
    Similarity,
    SimilarityParameters,
    TeiError,
    Token,
    Tokenize,
    Weight,
)


def shape(failure: Failure) -> TeiError:
    """An error in text-embeddings-inference's words."""
    by_status = {429: "Overloaded", 504: "Overloaded", 503: "Unhealthy", 424: "Backend", 500: "Backend"}
    kind = "Empty" if failure.kind == "Empty" else by_status.get(failure.status, "Validation")
    return TeiError(failure.message, kind)  # type: ignore[arg-type]


async def _predict(call: Call, body: Predict) -> Any:
    engine = call.serving.having("text-classification")
    inputs = body.inputs
    single = isinstance(inputs, str) or any(isinstance(item, str) for item in inputs)
    items = [_sequence(item) for item in ([inputs] if single else inputs)]
    if not items:
        raise Empty("there must be at least one input, the list is empty")
    check_entries(len(items) * engine.model.config.num_labels)
    params = {**body.params(), "top_k": None, "function_to_apply": "none" if body.raw_scores else None}
    found = await call.answer(engine, "text-classification", items, params)
    found = [[{"score": label["score"], "label": label["label"]} for label in labels] for labels in found]
    return found[0] if single else found


def _sequence(item: Any) -> Any:
    """A text or a pair, as the task takes it."""
    if isinstance(item, str):
        return item
    if not all(isinstance(text, str) for text in item) or not 1 <= len(item) <= 2:
        raise Unprocessable(
            "an input must be a text, [text] or the pair [text, text]; several are a list of lists: "
            '[["one"], ["another"]]'
        )
    return item[0] if len(item) == 1 else {"text": item[0], "text_pair": item[1]}


async def _embed(call: Call, body: Embed) -> Any:
    engine = call.serving.having("feature-extraction")
    items = embedding_inputs.items(body.inputs)
    params = {
        **body.params(),
        "pooling": tasks.SENTENCE,
        "normalize": body.normalize,
        "dimensions": body.dimensions,
        "prompt": prompt(engine, body.prompt_name, items),
    }
    return await call.answer(engine, "feature-extraction", items, params)


async def _embed_all(call: Call, body: EmbedAll) -> Any:
    engine = call.serving.having("feature-extraction")
    items = embedding_inputs.items(body.inputs)
    before = prompt(engine, body.prompt_name, items)
    check_answer(sum(most_tokens(engine, item, before) for item in items), engine.model.config.hidden_size)
    params = {**body.params(), "prompt": before}
    return [vectors for [vectors] in await call.answer(engine, "feature-extraction", items, params)]


async def _embed_sparse(call: Call, body: EmbedAll) -> Any:
    engine = call.serving.having("sparse-embedding")
    items = embedding_inputs.items(body.inputs)
    params = {**body.params(), "prompt": prompt(engine, body.prompt_name, items)}
    call.limits.check(texts=len(items))
    weights: list[Any] = []
    # A text may have a weight for each token of the vocabulary, though few models give it so many.
    at_once = max(1, MOST_ENTRIES // engine.model.config.vocab_size)
    for start in range(0, len(items), at_once):
        try:
            weights += await call.answer(engine, "sparse-embedding", items[start : start + at_once], params)
        except InvalidInput as error:  # which counts from the part's first text
            raise error if error.index is None else error.at(start + error.index) from None
        check_entries(sum(map(len, weights)))
    return weights


async def _rerank(call: Call, body: Rerank) -> Any:
    engine = call.serving.having("text-classification", lambda engine: engine.model.config.num_labels == 1)
    if not body.texts:
        raise Empty("texts must have at least one, the list is empty")
    function = "none" if body.raw_scores else "sigmoid"
    pairs = [{"text": body.query, "text_pair": text} for text in body.texts]
    params = {**body.params(), "top_k": 1, "function_to_apply": function}
    found = await call.answer(engine, "text-classification", pairs, params)
    ranks = [{"index": index, "score": label["score"]} for index, [label] in enumerate(found)]
    if body.return_text:
        ranks = [rank | {"text": text} for rank, text in zip(ranks, body.texts, strict=True)]
    return sorted(ranks, key=lambda rank: -rank["score"])


async def _similarity(call: Call, body: Similarity) -> Any:
    engine = call.serving.having("sentence-similarity")
    if not body.inputs.sentences:
        raise Empty("sentences must have at least one, the list is empty")
    parameters = body.parameters or SimilarityParameters()
    params = {**parameters.params(), "prompt": prompt(engine, parameters.prompt_name, [])}
    item = {"source_sentence": body.inputs.source_sentence, "sentences": body.inputs.sentences}
    return await call.answer(engine, "sentence-similarity", item, params)


async def _tokenize(call: Call, body: Tokenize) -> Any:
    engine = call.serving.engine()
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    before = prompt(engine, body.prompt_name, [])
    tokenize = partial(_tokens, engine, add_special_tokens=body.add_special_tokens, limits=call.limits)
    return await call.tokenized(engine, [before + text for text in texts], tokenize)


def _tokens(
    engine: Engine, texts: Sequence[str], *, add_special_tokens: bool, limits: Limits
) -> list[list[dict[str, Any]]]:
    encoded = engine.tokenizer(texts, add_special_tokens=add_special_tokens)
    limits.check(tokens=sum(map(len, encoded["input_ids"])))  # before there is an object of each
    return [
        [_token(engine, text, index, span) for index, span in zip(encoding.ids, encoding.offsets, strict=True)]
        for text, encoding in zip(texts, encoded.encodings or [], strict=True)
    ]


def _token(engine: Engine, text: str, index: int, span: tuple[int, int]) -> dict[str, Any]:
    special, (start, stop) = index in engine.tokenizer.all_special_ids, span
    known = engine.tokenizer.convert_ids_to_tokens(index)
    nowhere = special and start == stop  # one that the text doesn't have
    return {
        "id": index,
        "text": known if special else text[start:stop],
        "special": special,
        "start": None if nowhere else start,
        "stop": None if nowhere else stop,
    }


async def _decode(call: Call, body: Decode) -> Any:
    engine = call.serving.engine()
    if body.ids and not any(isinstance(item, list) for item in body.ids):
        rows: list[Any] = [body.ids]
    elif all(isinstance(item, list) for item in body.ids):
        rows = body.ids
    else:
        raise Unprocessable("ids must be the token ids of a text, or a list of such lists; this is a list of both")
    call.limits.check(tokens=sum(map(len, rows)))

    def decode(some: Sequence[list[int]]) -> list[list[str]]:
        return [[text] for text in engine.tokenizer.batch_decode(some, body.skip_special_tokens)]

    return [text for [text] in await call.tokenized(engine, rows, decode)]


async def _info(call: Call) -> Any:
    engine, settings = call.serving.engine(), call.serving.settings
    facts = engine.describe()
    return {
        "model_id": engine.name,
        "model_sha": None,
        "model_dtype": facts["dtype"],
        "served_model_name": engine.name,
        "model_type": _kind(engine),
        "max_concurrent_requests": None,  # the queue is bounded in tokens
        "max_input_length": facts["max_input_tokens"],
        "max_batch_tokens": engine.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_inputs,
        "auto_truncate": settings.truncate,
        "tokenization_workers": 1,
        "version": distilrt.__version__,
        "sha": None,
        "docker_label": None,
        "tasks": list(engine.tasks),
        "models": list(call.serving.engines),
    }


def _kind(engine: Engine) -> dict[str, Any]:
    """`model_type`, with the task's own name for what text-embeddings-inference doesn't know."""
    if engine.task == "feature-extraction":
        return {"embedding": {"pooling": engine.pooling or "mean"}}
    if engine.task != "text-classification":
        return {engine.task: {}}
    labels = engine.model.config.label_names()
    known = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    return {"reranker" if len(labels) == 1 else "classifier": known}


OPERATIONS = [
    Operation(method=method, path=path, handler=handler, summary=summary, body=body, answer=answer, shape=shape)
    for method, path, handler, summary, body, answer in (
        ("POST", "/predict", _predict, "The labels of texts or pairs", Predict, list[Score | list[Score]]),
        ("POST", "/embed", _embed, "One vector of each text", Embed, list[list[float]]),
        ("POST", "/embed_all", _embed_all, "A vector of each token", EmbedAll, list[list[list[float]]]),
        (
            "POST",
            "/embed_sparse",
            _embed_sparse,
            "Weights of the vocabulary's tokens (SPLADE)",
            EmbedAll,
            list[list[Weight]],
        ),
        ("POST", "/rerank", _rerank, "Texts by how well they answer a query", Rerank, list[Rank]),
        ("POST", "/similarity", _similarity, "Cosines of a sentence with others", Similarity, list[float]),
        ("POST", "/tokenize", _tokenize, "The tokens of texts", Tokenize, list[list[Token]]),
        ("POST", "/decode", _decode, "The texts of token ids", Decode, list[str]),
        ("GET", "/info", _info, "What is served", None, dict[str, Any]),
    )
]

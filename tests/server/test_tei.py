"""text-embeddings-inference's routes: its bodies, answers and errors, with the tasks' values in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distilrt
from distilrt.runtime.engine import Engine
from distilrt.server import answer_limits, tei
from distilrt.server.tei_types import TeiError

Engines = Callable[..., Engine]
CLASSIFIER, MASKS = "DistilBertForSequenceClassification", "DistilBertForMaskedLM"
TEXTS = ["Ada Lovelace wrote programs.", "ok"]
LONG = "a b c " * 300


def ask(client: Any, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: Any, path: str, **body: Any) -> tuple[int, str, str]:
    """Status, error type and message."""
    response = client.post(path, json=body)
    assert list(response.json()) == ["error", "error_type"]
    return response.status_code, response.json()["error_type"], response.json()["error"]


def test_predict(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of(CLASSIFIER)
    client = client_of(engine)
    one, other = engine("text-classification", TEXTS, top_k=None)
    assert ask(client, "/predict", inputs=TEXTS[0]) == ask(client, "/predict", inputs=[TEXTS[0]]) == one
    assert [label["score"] for label in one] == sorted((label["score"] for label in one), reverse=True)
    pair = engine("text-classification", {"text": TEXTS[0], "text_pair": TEXTS[1]}, top_k=None)
    assert ask(client, "/predict", inputs=TEXTS) == pair  # two strings are a pair, not two texts
    assert ask(client, "/predict", inputs=[TEXTS[:1], TEXTS[1:], TEXTS]) == [one, other, pair]
    raw = engine("text-classification", TEXTS[0], top_k=None, function_to_apply="none")
    assert ask(client, "/predict", inputs=TEXTS[0], raw_scores=True) == raw
    bad: list[list[Any]] = [[], [[]], [["a", "b", "c"]], ["a", "b", "c"], ["a", ["b"]]]
    for inputs in bad:
        status, kind, message = refused(client, "/predict", inputs=inputs)
        assert (status, kind) == ((422, "Validation") if inputs else (400, "Empty")), message


@pytest.fixture
def reranker(folder_of: Callable[..., Path]) -> Iterator[Engine]:
    with Engine(folder_of(CLASSIFIER, num_labels=1), name="reranker") as engine:
        yield engine


def test_rerank(engine_of: Engines, reranker: Engine, client_of: Any) -> None:
    client = client_of(engine_of(CLASSIFIER), reranker)  # the first has three labels, so it isn't asked
    texts = ["a", "Paris is far.", "b c d", "zebra"]
    pairs = [{"text": "where?", "text_pair": text} for text in texts]
    wanted = [label["score"] for label in reranker("text-classification", pairs, function_to_apply="sigmoid")]
    order = sorted(range(4), key=lambda index: -wanted[index])
    found = ask(client, "/rerank", query="where?", texts=texts)
    assert found == [{"index": index, "score": wanted[index]} for index in order]
    found = ask(client, "/rerank", query="where?", texts=texts, raw_scores=True, return_text=True)
    assert [rank["text"] for rank in found] == [texts[index] for index in order]
    np.testing.assert_allclose([1 / (1 + np.exp(-rank["score"])) for rank in found], sorted(wanted)[::-1], atol=1e-6)
    assert refused(client, "/rerank", query="a", texts=[])[:2] == (400, "Empty")
    assert refused(client_of(engine_of(CLASSIFIER)), "/rerank", query="a", texts=["b"])[:2] == (424, "Backend")


def test_rerank_by_a_bert(bert_of: Callable[..., Path], client_of: Any) -> None:
    folder = bert_of("BertForSequenceClassification", num_labels=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    query, texts = "where is it?", ["It is in London.", "No.", "The snowman is well-known."]
    with torch.no_grad():
        loaded: Any = transformers.BertForSequenceClassification
        theirs = loaded.from_pretrained(folder).eval()
        given = tokenizer([query] * 3, texts, return_tensors="pt", padding=True)
        scores = theirs(**given).logits[:, 0]
    with Engine(folder, name="reranker") as engine:
        client = client_of(engine)
        found = client.post("/rerank", json={"query": query, "texts": texts, "raw_scores": True}).json()
        np.testing.assert_allclose([each["score"] for each in found], sorted(scores.tolist(), reverse=True), atol=1e-4)
        found = client.post("/rerank", json={"query": query, "texts": texts}).json()
        order = scores.sigmoid().argsort(descending=True).tolist()
        assert [each["index"] for each in found] == order
        names = ("input_ids", "attention_mask", "token_type_ids")
        tensors = [
            {"name": name, "shape": list(given[name].shape), "datatype": "INT64", "data": given[name].tolist()}
            for name in names
        ]
        answer = client.post("/v2/models/reranker/infer", json={"inputs": tensors}).json()
        np.testing.assert_allclose(np.ravel(answer["outputs"][0]["data"]), scores, atol=1e-4)
        described = client.get("/v2/models/reranker").json()["inputs"]
        assert set(names) < {each["name"] for each in described}


def test_embed(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of("sentence_encoder")
    client = client_of(engine)
    wanted = engine("feature-extraction", TEXTS, pooling="mean", normalize=True)
    ids = engine.tokenizer(TEXTS)["input_ids"]
    assert ask(client, "/embed", inputs=TEXTS) == wanted
    for inputs in (TEXTS[0], TEXTS[:1], ids[0], ids[:1]):
        np.testing.assert_allclose(ask(client, "/embed", inputs=inputs), wanted[:1], atol=1e-6)
    np.testing.assert_allclose(ask(client, "/embed", inputs=[TEXTS[0], ids[1]]), wanted, atol=1e-6)
    raw = ask(client, "/embed", inputs=TEXTS, normalize=False)
    assert raw == wanted  # the folder has a Normalize module
    [short] = ask(client, "/embed", inputs=TEXTS[0], dimensions=7)
    np.testing.assert_allclose(short, np.array(raw[0][:7]) / np.linalg.norm(raw[0][:7]), atol=1e-6)
    assert refused(client, "/embed", inputs="a", dimensions=385)[:2] == (422, "Validation")
    assert refused(client, "/embed", inputs=[])[:2] == (400, "Empty")
    assert refused(client, "/embed", inputs=[1, "a"])[:2] == (422, "Validation")
    status, kind, message = refused(client, "/embed", inputs=[[1, 30522]])
    assert (status, kind) == (422, "Validation")
    assert "token 30522, this model knows 0 to 30521" in message


@pytest.mark.parametrize("path", ["/embed", "/embed_all"])
@pytest.mark.parametrize("as_ids", [False, True])
def test_truncation(engine_of: Engines, client_of: Any, path: str, as_ids: bool) -> None:
    engine = engine_of("DistilBertModel")  # it reads 64 tokens
    inputs: Any = engine.tokenizer(LONG)["input_ids"] if as_ids else LONG
    client = client_of(engine)
    assert refused(client, path, inputs=inputs)[:2] == (422, "Validation")
    assert refused(client, path, inputs=inputs, truncate=False)[0] == 422
    right = ask(client, path, inputs=inputs, truncate=True)
    assert right == ask(client, path, inputs=inputs, truncate=True, truncation_direction="right")
    assert right == ask(client_of(engine, truncate=True), path, inputs=inputs)
    left = ask(client, path, inputs=inputs, truncate=True, truncation_direction="Left")
    tail = engine.tokenizer(LONG, truncation=True, truncation_side="left")["input_ids"]
    kept = inputs[-64:] if as_ids else tail
    np.testing.assert_allclose(left, ask(client, path, inputs=[kept]), atol=1e-5)
    assert refused(client, path, inputs="a", truncation_direction="up")[0] == 422


def test_embed_all(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of("sentence_encoder")
    found = ask(client_of(engine), "/embed_all", inputs=TEXTS)
    assert found == [vectors[0] for vectors in engine("feature-extraction", TEXTS)]


def test_answers_are_bounded(engine_of: Engines, client_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(MASKS)
    vocabulary = engine.model.config.vocab_size
    whole = ask(client_of(engine), "/embed_sparse", inputs=TEXTS * 3)
    monkeypatch.setattr(tei, "MOST_ENTRIES", 2 * vocabulary)  # two texts at once
    monkeypatch.setattr(answer_limits, "MOST_ENTRIES", sum(map(len, whole)))
    client = client_of(engine)
    found = ask(client, "/embed_sparse", inputs=TEXTS * 3)
    assert [[weight["index"] for weight in weights] for weights in found] == [
        [weight["index"] for weight in weights] for weights in whole
    ]
    status, _, message = refused(client, "/embed_sparse", inputs=[*TEXTS * 2, "a b", LONG], truncate=False)
    assert (status, message[:30]) == (422, "input 5: the text has at least")
    assert refused(client, "/embed_sparse", inputs=TEXTS * 4)[0] == 413
    small = client_of(engine, max_tokens=20)
    assert len(ask(small, "/tokenize", inputs=["a b c"] * 4)) == 4
    assert refused(small, "/tokenize", inputs=["a b c"] * 5)[0] == 413
    assert refused(small, "/decode", ids=[[5] * 21])[0] == 413


def test_embed_sparse(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of(MASKS)
    found = ask(client_of(engine), "/embed_sparse", inputs=TEXTS)
    for text, weights in zip(TEXTS, found, strict=True):
        logits = engine.model(engine.tokenizer([text], return_tensors="np")["input_ids"]).logits[0]
        wanted = np.log1p(np.maximum(logits, 0)).max(axis=0)
        assert [weight["index"] for weight in weights] == np.nonzero(wanted)[0].tolist()
        np.testing.assert_allclose([weight["value"] for weight in weights], wanted[wanted > 0], atol=1e-5)


def test_similarity(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of("sentence_encoder")
    item = {"source_sentence": TEXTS[0], "sentences": ["ok", LONG]}
    client = client_of(engine)
    assert ask(client, "/similarity", inputs=item, parameters={"truncate": True}) == engine(
        "sentence-similarity", item, truncation=True
    )
    assert refused(client, "/similarity", inputs=item)[0] == 422
    assert refused(client, "/similarity", inputs={"source_sentence": "a", "sentences": []})[:2] == (400, "Empty")


def test_prompts(prompted: Engine, client_of: Any) -> None:
    client = client_of(prompted)
    asked = {"pooling": "cls", "normalize": True}
    assert ask(client, "/embed", inputs="cats") == prompted("feature-extraction", ["text: cats"], **asked)
    assert ask(client, "/embed", inputs="cats", prompt_name="query") == prompted(
        "feature-extraction", ["find: cats"], **asked
    )
    [vectors] = ask(client, "/embed_all", inputs="cats", prompt_name="query")
    assert [vectors] == prompted("feature-extraction", "find: cats")
    similar = ask(client, "/similarity", inputs={"source_sentence": "a", "sentences": ["b"]},
                  parameters={"prompt_name": "query"})  # fmt: skip
    item = {"source_sentence": "find: a", "sentences": ["find: b"]}
    assert similar == prompted("sentence-similarity", item, prompt="")
    tokens = ask(client, "/tokenize", inputs="cats", prompt_name="query", add_special_tokens=False)
    assert [token["text"] for token in tokens[0]] == ["find", ":", "cats"]
    vectors = client.post("/v1/embeddings", json={"input": "cats"}).json()["data"][0]["embedding"]
    assert [vectors] == ask(client, "/embed", inputs="cats")
    ids = prompted.tokenizer("text: cats")["input_ids"]  # which get none
    np.testing.assert_allclose(ask(client, "/embed", inputs=ids), ask(client, "/embed", inputs="cats"), atol=1e-6)
    assert "prompts, which are: query, passage" in refused(client, "/embed", inputs="a", prompt_name="no")[2]
    assert "before a text, not before token ids" in refused(client, "/embed", inputs=[5], prompt_name="query")[2]


def test_decode_has_a_deadline(engine_of: Engines, client_of: Any) -> None:
    """It waits its turn as tokenizing does."""
    body = {"ids": [[1996] * 100] * 2000}
    response = client_of(engine_of("DistilBertModel")).post("/decode", json=body, headers={"x-deadline-ms": "1"})
    assert response.status_code == 504


def test_tokenize_and_decode(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(MASKS))
    text = "The Schrödinger [MASK]"
    [tokens] = ask(client, "/tokenize", inputs=text)
    assert tokens[0] == {"id": 101, "text": "[CLS]", "special": True, "start": None, "stop": None}
    assert tokens[1] == {"id": 1996, "text": "The", "special": False, "start": 0, "stop": 3}
    assert tokens[-2] == {"id": 103, "text": "[MASK]", "special": True, "start": 16, "stop": 22}
    assert "".join(token["text"] for token in tokens[2:-2]) == "Schrödinger"
    [bare] = ask(client, "/tokenize", inputs=[text], add_special_tokens=False)
    assert bare == tokens[1:-1]
    assert len(ask(client, "/tokenize", inputs=LONG)[0]) == 902  # whatever the model reads
    assert ask(client, "/tokenize", inputs=[]) == []
    ids = [token["id"] for token in tokens]
    assert ask(client, "/decode", ids=ids) == ["the schrodinger"]
    assert ask(client, "/decode", ids=[ids, [1996]], skip_special_tokens=False) == [
        "[CLS] the schrodinger [MASK] [SEP]", "the"
    ]  # fmt: skip
    assert ask(client, "/decode", ids=[]) == []
    for bad in ([1, [2]], [-1], [2**31], ["a"]):
        assert refused(client, "/decode", ids=bad)[:2] == (422, "Validation")
    small = client_of(engine_of(MASKS), max_inputs=1)
    assert refused(small, "/tokenize", inputs=["a", "b"])[:2] == (413, "Validation")
    assert refused(small, "/decode", ids=[[1], [2]])[0] == 413


def test_info(engine_of: Engines, reranker: Engine, client_of: Any) -> None:
    labels = ["entailment", "neutral", "contradiction"]
    kinds = {
        CLASSIFIER: {"classifier": {"id2label": dict(zip("012", labels, strict=True)),
                                    "label2id": {label: i for i, label in enumerate(labels)}}},
        "sentence_encoder": {"embedding": {"pooling": "mean"}},
        MASKS: {"fill-mask": {}},
    }  # fmt: skip
    for architecture, kind in kinds.items():
        info = client_of(engine_of(architecture), max_inputs=9).get("/info").json()
        assert info["model_type"] == kind
        assert (info["model_id"], info["model_dtype"], info["max_client_batch_size"]) == (architecture, "float32", 9)
        assert info["version"] == distilrt.__version__
        assert {"max_input_length", "max_batch_tokens", "auto_truncate", "tokenization_workers"} <= set(info)
    assert list(client_of(reranker).get("/info").json()["model_type"]) == ["reranker"]


ROUTES = {"/predict": CLASSIFIER, "/embed": "DistilBertModel", "/embed_all": "DistilBertModel", "/embed_sparse": MASKS}


@pytest.mark.parametrize("path", ROUTES)
def test_a_route_asks_the_first_model_with_its_head(engine_of: Engines, client_of: Any, path: str) -> None:
    heads = ["DistilBertForQuestionAnswering", MASKS, CLASSIFIER, "DistilBertModel"]
    assert ask(client_of(*map(engine_of, heads)), path, inputs="a") == ask(client_of(engine_of(ROUTES[path])), path,
                                                                           inputs="a")  # fmt: skip
    status, kind, message = refused(client_of(engine_of(heads[0])), path, inputs="a")
    assert (status, kind) == (424, "Backend")
    assert "there is DistilBertForQuestionAnswering (question-answering)" in message


def test_limits(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of("sentence_encoder"), max_inputs=2, api_key="secret")
    client.headers["authorization"] = "Bearer secret"
    assert refused(client, "/embed", inputs=["a"] * 3)[:2] == (413, "Validation")
    client.headers["authorization"] = ""
    assert refused(client, "/embed", inputs="a")[:2] == (401, "Validation")
    large = client_of(engine_of("sentence_encoder"))
    status, _, message = refused(large, "/embed_all", inputs=["word " * 100] * 600, truncate=True)
    assert status == 413
    assert "384 for each of up to 153600 tokens" in message


def test_every_status_has_one_of_its_words() -> None:
    from distilrt.server.statuses import Failure

    words = {429: "Overloaded", 504: "Overloaded", 503: "Unhealthy", 500: "Backend", 424: "Backend", 422: "Validation"}
    for status, word in words.items():
        assert tei.shape(Failure(status, "Some", "why", {})) == TeiError("why", word)  # type: ignore[arg-type]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["inputs", "query", "texts", "ids", "truncate", "truncation_direction", "raw_scores", "dimensions", "input"]


@pytest.mark.parametrize("path", ["/predict", "/embed", "/embed_all", "/embed_sparse", "/rerank", "/similarity",
                                  "/tokenize", "/decode", "/v1/embeddings", "/vertex", "/invocations"])  # fmt: skip
def test_nothing_that_is_sent_breaks_the_server(
    engine_of: Engines, reranker: Engine, client_of: Any, path: str
) -> None:
    client = client_of(engine_of("DistilBertModel"), engine_of(MASKS), reranker)

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4) | JSON | st.binary(max_size=20))
    def attempt(body: Any) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = client.post(path, content=content)
        assert response.status_code in (200, 400, 413, 422), response.text
        response.json()

    attempt()

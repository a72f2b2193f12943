"""OpenAI's embeddings on the wire; tests/server/test_clients.py has its own package ask."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distilrt.runtime.engine import Engine

Engines = Callable[..., Engine]
TEXTS = ["Ada Lovelace wrote programs.", "ok"]


def test_floats_and_base64_are_the_same_numbers(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of("sentence_encoder")
    client = client_of(engine)
    wanted = engine("feature-extraction", TEXTS, pooling="mean", normalize=True)
    tokens = sum(map(len, engine.tokenizer(TEXTS)["input_ids"]))
    found = client.post("/v1/embeddings", json={"input": TEXTS, "user": "me"}).json()
    assert found == {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(wanted)],
        "model": "sentence_encoder",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    found = client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
    packed = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in found["data"]]
    np.testing.assert_array_equal(packed, np.array(wanted, np.float32))


def test_models(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of("DistilBertForMaskedLM"), engine_of("sentence_encoder"))
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["DistilBertForMaskedLM", "sentence_encoder"]
    assert all(0 <= time.time() - model["created"] < 600 for model in listed["data"])
    assert client.get("/v1/models/sentence_encoder").json() == listed["data"][1]
    # The first encoder answers where none is named.
    assert client.post("/v1/embeddings", json={"input": "a"}).json()["model"] == "sentence_encoder"


REFUSED: list[tuple[Any, int, str, str]] = [
    ({"input": "a", "model": "x"}, 404, "not_found_error", "model_not_found"),
    ({"input": "a", "model": "DistilBertForMaskedLM"}, 424, "invalid_request_error", "NoSuchTask"),
    ({"input": []}, 400, "invalid_request_error", "Empty"),
    ({"input": [[]]}, 422, "invalid_request_error", "InvalidInput"),
    ({"input": ["a", 1]}, 422, "invalid_request_error", "Unprocessable"),
    ({"input": [-1]}, 422, "invalid_request_error", "Unprocessable"),
    ({"input": [99999]}, 422, "invalid_request_error", "InvalidInput"),
    ({"input": "a " * 600}, 422, "invalid_request_error", "TooLong"),
    ({"input": "a", "encoding_format": "int8"}, 422, "invalid_request_error", "Unprocessable"),
    ({"input": "a", "dimensions": 0}, 422, "invalid_request_error", "Unprocessable"),
    ({"input": "a", "dimensions": 999}, 422, "invalid_request_error", "InvalidParameter"),
    ({"input": "a", "truncate": True}, 422, "invalid_request_error", "Unprocessable"),
    ({"input": ["a"] * 9}, 413, "invalid_request_error", "TooLarge"),
]


@pytest.mark.parametrize(("body", "status", "kind", "code"), REFUSED, ids=[str(case[0])[:40] for case in REFUSED])
def test_refusals(engine_of: Engines, client_of: Any, body: Any, status: int, kind: str, code: str) -> None:
    client = client_of(engine_of("sentence_encoder"), engine_of("DistilBertForMaskedLM"), max_inputs=8)
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, None, code)
    assert error["message"]


def test_the_key(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of("sentence_encoder"), api_key="secret")
    response = client.post("/v1/embeddings", json={"input": "a"})
    assert (response.status_code, response.json()["error"]["type"]) == (401, "authentication_error")
    headers = {"authorization": "Bearer secret"}
    assert client.post("/v1/embeddings", json={"input": "a"}, headers=headers).status_code == 200

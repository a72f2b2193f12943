"""Every request of docs/endpoints.md is answered, and the page has every route of its formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distilrt.runtime.engine import Engine

PAGE = (Path(__file__).parents[2] / "docs" / "endpoints.md").read_text()
REQUESTS = re.findall(r"^\$ curl -s localhost:8080(\S+)(?: -d '(.*)')?$", PAGE, re.M)
NAMES = re.findall(r"^  --model (\w+)=", PAGE, re.M)
ARCHITECTURES = {
    "encoder": ("sentence_encoder", {}),
    "classifier": ("DistilBertForSequenceClassification", {}),
    "masks": ("DistilBertForMaskedLM", {}),
    "reranker": ("DistilBertForSequenceClassification", {"num_labels": 1}),
    "choices": ("DistilBertForMultipleChoice", {}),
}


@pytest.fixture(scope="module")
def engines(folder_of: Callable[..., Path], sentence_encoder: Path) -> Iterator[list[Engine]]:
    made = []
    for name in NAMES:
        architecture, changes = ARCHITECTURES[name]
        real = architecture == "sentence_encoder"
        made.append(Engine(sentence_encoder if real else folder_of(architecture, **changes), name=name))
    yield made
    for engine in made:
        engine.close()


def test_every_request_is_answered(engines: list[Engine], client_of: Any) -> None:
    client = client_of(*engines)
    assert len(REQUESTS) == PAGE.count("$ curl")
    for path, body in REQUESTS:
        response = client.post(path, content=body.encode()) if body else client.get(path)
        assert response.status_code == 200, (path, response.text)
        assert response.content


def test_every_route_is_shown(engines: list[Engine], client_of: Any) -> None:
    """But for those that docs/serving.md shows."""
    asked = {(path, "POST" if body else "GET") for path, body in REQUESTS}
    elsewhere = {"/livez", "/readyz", "/health", "/metrics", "/stats", "/static/{name}"}
    paths = client_of(*engines).get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        if path in elsewhere or "{version}/" in path:
            continue
        pattern = re.sub(r"\{\w+\}", r"\\w+", path)
        for method in methods if path != "/" else ["post"]:
            assert any(re.fullmatch(pattern, shown) and method.upper() == by for shown, by in asked), (path, method)

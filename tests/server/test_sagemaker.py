"""SageMaker's container contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distilrt.runtime.engine import Engine

Engines = Callable[..., Engine]


def test_ping_is_the_health(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of("DistilBertForMaskedLM"), api_key="secret")
    assert client.get("/ping").status_code == 200
    client.app.state.serving.draining = True
    assert client.get("/ping").status_code == 503


def test_invocations_are_task_payloads(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of("DistilBertForMaskedLM"))
    body = {"inputs": "[MASK] is.", "parameters": {"top_k": 2}}
    assert client.post("/invocations", json=body).json() == client.post("/", json=body).json()
    assert client.post("/invocations", json={"inputs": "none"}).status_code == 422

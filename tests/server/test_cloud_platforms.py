"""SageMaker's container contract and Vertex AI's prediction contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distilrt.runtime.engine import Engine

Engines = Callable[..., Engine]


def test_instances_and_predictions(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of("DistilBertForMaskedLM")
    client = client_of(engine)
    body = {"instances": [{"inputs": "[MASK] is."}, "a [MASK]"], "parameters": {"top_k": 2}}
    wanted = engine("fill-mask", ["[MASK] is.", "a [MASK]"], top_k=2)
    assert client.post("/vertex", json=body).json() == {"predictions": wanted}
    one = client.post("/vertex", json={"instances": ["a [MASK]"], "parameters": {"top_k": 2}})
    assert one.json() == {"predictions": wanted[1:]}


def test_instances_that_are_objects_themselves(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of("DistilBertForQuestionAnswering")
    question = {"question": "Who?", "context": "Ada wrote."}
    found = client_of(engine).post("/vertex", json={"instances": [question, {"inputs": question}]}).json()
    assert found == {"predictions": [engine("question-answering", question)] * 2}


def test_instances_that_are_refused(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of("DistilBertForMaskedLM"))
    lists: list[Any] = [[], "a", [{"inputs": ["[MASK]"]}], [{"inputs": "[MASK]", "parameters": {}}], [1]]
    for body in ({}, *({"instances": instances} for instances in lists)):
        assert client.post("/vertex", json=body).status_code == 422


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

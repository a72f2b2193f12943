"""Seeded fuzzing: whatever is sent, the server answers with an error of its own or not at all, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benches.serving import fuzz
from benches.serving.hostile import exchange
from distilrt.runtime.engine import Engine


@pytest.mark.parametrize(("seed", "number"), [(1, 400), pytest.param(2, 10_000, marks=pytest.mark.whole)])
def test_mutated_bodies(engine_of: Callable[..., Engine], client_of: Any, seed: int, number: int) -> None:
    names = ("DistilBertForSequenceClassification", "DistilBertModel", "DistilBertForMaskedLM")
    client = client_of(*map(engine_of, names))
    for path, body in fuzz.bodies(seed, number, names[0]):
        response = client.post(path, content=body)
        assert response.status_code < 500 or response.status_code == 504, (path, body, response.text)
        assert response.status_code == 200 or "error" in response.json()


@pytest.mark.parametrize(("seed", "number"), [(1, 40), pytest.param(2, 1_500, marks=pytest.mark.whole)])
def test_mutated_streams(address: str, seed: int, number: int) -> None:
    port = int(address.rpartition(":")[2])
    for data in fuzz.streams(seed, number):
        status = exchange(port, data, 0.05)
        assert status < 500 or status in (503, 504), data
    assert exchange(port, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", 5.0) == 200

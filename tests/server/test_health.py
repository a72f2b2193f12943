"""Probes in each state of a server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distilrt.backends.cpu import CpuBackend
from distilrt.errors import BackendError
from distilrt.runtime.engine import Engine
from distilrt.server.app import create_app

CLASSIFIER = "DistilBertForSequenceClassification"


@pytest.fixture
def engine(folder_of: Callable[..., Path]) -> Any:
    with Engine(folder_of(CLASSIFIER), name="one") as engine:
        yield engine


def states(client: Any) -> list[tuple[int, str]]:
    return [(response.status_code, response.json()["status"])
            for response in map(client.get, ("/livez", "/readyz", "/health"))]  # fmt: skip


def test_states(client_of: Any, engine: Engine) -> None:
    client = client_of(engine)
    serving = client.app.state.serving
    assert states(client) == [(200, "alive"), (200, "ready"), (200, "ready")]
    serving.draining = True
    assert states(client) == [(200, "alive"), (503, "draining"), (503, "draining")]
    assert client.post("/", json={"inputs": "a"}).status_code == 200  # still
    serving.draining = serving.warm = False
    assert states(client)[1] == (503, "warming up")
    serving.warm = True
    engine.close()
    assert states(client)[1] == (503, "failing: one")


def test_after_a_failure_it_finds_out_by_itself_that_it_works_again(
    client_of: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(engine)

    def broken(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(CpuBackend, "forward", broken)
        response = client.post("/", json={"inputs": "a"})
        assert (response.status_code, response.json()["error_type"]) == (500, "BackendError")
        assert states(client)[1] == (503, "failing: one")
        assert isinstance(engine.probe().exception(60), BackendError)
    while states(client)[1] != (200, "ready"):
        pass
    assert client.post("/", json={"inputs": "a"}).status_code == 200


def test_an_engine_that_does_not_warm_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.testclient import TestClient

    def broken(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(CpuBackend, "forward", broken)
    with TestClient(create_app({"one": engine})) as client:
        while not client.app.state.serving.trouble:
            pass
        status, words = states(client)[1]
        assert status == 503
        assert "no room" in words
        response = client.post("/", json={"inputs": "a"})
        assert response.status_code == 503
        assert "no room" in response.json()["error"]


def test_a_file_that_is_changed_in_place(folder_of: Callable[..., Path], client_of: Any, tmp_path: Path) -> None:
    """A replaced one is not the one that is mapped."""
    shutil.copytree(folder_of("DistilBertForSequenceClassification"), tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    with Engine(tmp_path / "a", name="a") as engine:
        client = client_of(engine)
        assert client.get("/readyz").status_code == 200
        shutil.copy(weights, tmp_path / "new")
        weights.rename(tmp_path / "old")
        (tmp_path / "new").rename(weights)
        assert client.get("/readyz").status_code == 200
        (tmp_path / "old").rename(weights)
        os.utime(weights)
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "changed in place" in response.json()["status"]

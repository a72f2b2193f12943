"""A replica without Ray: its models, settings, health and end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from distilrt.backends.cpu import CpuBackend
from distilrt.errors import BackendError
from distilrt.scale.replica import Replica, Resident

OPTIONS = {"backend": "cpu", "num_threads": 1}


class Keeping(Replica):
    """Keeps every model."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.kept: dict[str, Resident] = {}

    async def resident(self, name: str) -> Resident:
        if name not in self.kept:
            self.kept[name] = await asyncio.to_thread(self.load, name)
        return self.kept[name]


@pytest.fixture
def replica(folder_of: Callable[..., Path]) -> Iterator[Keeping]:
    """A classifier, the first, and a model of words."""
    sources = {
        "": str(folder_of("DistilBertForSequenceClassification")),
        "words": str(folder_of("DistilBertForMaskedLM")),
    }
    replica = Keeping(sources, OPTIONS)
    yield replica
    asyncio.run(replica.close())
    assert not replica._first.engine.open


@pytest.fixture
def client(replica: Keeping) -> Iterator[TestClient]:
    with TestClient(replica.__serve_build_asgi_app__()) as client:
        yield client


MASKED = {"inputs": "A [MASK] day."}


def test_the_model_that_is_asked(client: TestClient, replica: Keeping) -> None:
    name = replica._first.engine.name  # the folder's
    for path in ("/", f"/models/{name}"):
        assert "label" in client.post(path, json={"inputs": "a"}).json()[0][0]
    assert not replica.kept
    by_path = client.post("/models/words", json=MASKED)
    assert "token_str" in by_path.json()[0]
    for header in ("serve_multiplexed_model_id", "serve-multiplexed-model-id"):
        assert client.post("/", json=MASKED, headers={header: "words"}).json() == by_path.json()
    assert client.get("/health", headers={"serve_multiplexed_model_id": "words"}).json()["models"] == ["words"]
    for found in (client.post("/models/other", json=MASKED),
                  client.post("/", json=MASKED, headers={"serve_multiplexed_model_id": "other"})):  # fmt: skip
        assert found.status_code == 404
        assert f"there is {name}, words" in found.json()["error"]


def test_below_a_prefix(replica: Keeping) -> None:
    client = TestClient(replica.__serve_build_asgi_app__(), root_path="/bert")
    assert "token_str" in client.post("/bert/models/words", json=MASKED).json()[0]


def test_settings_change(client: TestClient, replica: Keeping) -> None:
    assert client.post("/models/words", json={"inputs": ["a [MASK]"] * 2}).status_code == 200
    replica.reconfigure({"max_inputs": 1})
    assert client.post("/models/words", json={"inputs": ["a [MASK]"] * 2}).status_code == 413
    assert client.post("/", json={"inputs": ["a", "b"]}).status_code == 413
    with pytest.raises(ValueError, match="max_inputs"):
        replica.reconfigure({"max_inputs": 0})


def test_nothing_loads_without_the_key(client: TestClient, replica: Keeping) -> None:
    replica.reconfigure({"api_key": "secret"})
    for path in ("/models/words", "/models/other", "/"):
        assert client.post(path, json=MASKED).status_code == 401
    assert not replica.kept
    assert client.get("/health").status_code == 200
    assert client.post("/models/words", json=MASKED, headers={"authorization": "Bearer secret"}).status_code == 200


def test_health(client: TestClient, replica: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(replica.check_health())
    client.post("/models/words", json=MASKED)

    def broken(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(CpuBackend, "forward", broken)
        assert client.post("/models/words", json=MASKED).status_code == 500
        with pytest.raises(BackendError, match="no room"):
            asyncio.run(replica.check_health())
    asyncio.run(replica.check_health())
    assert replica.kept["words"].engine.ready


def test_a_model_closes_after_its_last_request(replica: Keeping) -> None:
    words = asyncio.run(replica.resident("words"))
    arrived, go_on = threading.Event(), threading.Event()
    sent: list[Any] = []

    async def receive() -> Any:
        arrived.set()
        await asyncio.to_thread(go_on.wait)
        return {"type": "http.request", "body": b'{"inputs": "A [MASK] day."}'}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    request = threading.Thread(target=lambda: asyncio.run(words(scope, receive, send)))
    request.start()
    arrived.wait()
    closing = threading.Thread(target=words.close)
    closing.start()
    go_on.set()
    for thread in (request, closing):
        thread.join()
    assert sent[0]["status"] == 200
    assert not words.engine.open


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing"):
        Keeping({"a": str(tmp_path / "nothing")}, OPTIONS)


def test_a_replica_says_how_many_models_stay() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Replica({}, OPTIONS)  # type: ignore[abstract]

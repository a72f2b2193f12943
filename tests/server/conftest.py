"""Fixtures of the server's tests: applications of tiny engines, asked in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from distilrt.runtime.engine import Engine
from distilrt.server.app import create_app
from distilrt.server.settings import Settings
from tests.serving import serving

NLI = {"0": "entailment", "1": "neutral", "2": "contradiction"}
PROMPTS = {"prompts": {"query": "find: ", "passage": "text: "}, "default_prompt_name": "passage"}


@pytest.fixture(scope="session")
def engine_of(folder_of: Callable[..., Path], sentence_encoder: Path) -> Iterator[Callable[..., Engine]]:
    """An engine of an architecture, or of the real "sentence_encoder"; the same one in every test."""
    engines: dict[str, Engine] = {}

    def get(architecture: str) -> Engine:
        if architecture not in engines:
            changes = {"id2label": NLI} if architecture == "DistilBertForSequenceClassification" else {}
            folder = sentence_encoder if architecture == "sentence_encoder" else folder_of(architecture, **changes)
            engines[architecture] = Engine(folder, name=architecture, max_queue_tokens=10**6)
        return engines[architecture]

    yield get
    for engine in engines.values():
        engine.close()


@pytest.fixture
def prompted(folder_of: Callable[..., Path], tmp_path: Path) -> Iterator[Engine]:
    """A sentence encoder with prompts, one of which goes before every text."""
    for file in folder_of("DistilBertModel").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(PROMPTS))
    pooling = {"pooling_mode_cls_token": True, "word_embedding_dimension": 48}
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    kinds = {"": "sentence_transformers.models.Transformer", "1_Pooling": "sentence_transformers.models.Pooling"}
    modules = [{"idx": i, "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with Engine(tmp_path, name="prompted") as engine:
        yield engine


@pytest.fixture
def client_of() -> Iterator[Callable[..., TestClient]]:
    """A client of a warm application of engines; keywords are settings."""
    clients = []

    def make(*engines: Engine, **settings: Any) -> TestClient:
        app = create_app({engine.name: engine for engine in engines}, Settings(**settings))
        client = TestClient(app, raise_server_exceptions=True)
        client.__enter__()
        clients.append(client)
        while not app.state.serving.warm:
            assert not app.state.serving.trouble
            time.sleep(0.001)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def folders(folder_of: Callable[..., Path], sentence_encoder: Path) -> dict[str, Path]:
    """The checkpoints of `address` by name; the first one answers where a request names none."""
    tiny = {
        "classifier": folder_of("DistilBertForSequenceClassification", id2label=NLI),
        "masks": folder_of("DistilBertForMaskedLM"),
        "answers": folder_of("DistilBertForQuestionAnswering"),
        "tokens": folder_of("DistilBertForTokenClassification"),
        "choices": folder_of("DistilBertForMultipleChoice"),
    }
    return {"org/encoder": sentence_encoder, **tiny}


@pytest.fixture(scope="session")
def address(folders: dict[str, Path]) -> Iterator[str]:
    """`host:port` of one `distilrt serve` over all of them, a process that stays until the end."""
    with serving(folders, "--threads", "1") as (_, found):
        yield found

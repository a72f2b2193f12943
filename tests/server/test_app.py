"""The application: whose errors a path gets that no route takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from distilrt.runtime.engine import Engine
from distilrt.server import open_inference, openai, statuses, tei
from distilrt.server.app import create_app
from distilrt.server.statuses import Failure


@pytest.mark.parametrize(
    ("method", "path", "shape"),
    [
        ("POST", "/v1/chat/completions", openai.shape),
        ("GET", "/v1/embeddings", openai.shape),
        ("GET", "/v1/models/a%0Ab", openai.shape),
        ("GET", "/v2/repository/index", open_inference.shape),
        ("GET", "/v2/models/x/infer/", open_inference.shape),
        ("GET", "/embed", tei.shape),
        ("POST", "/nowhere", statuses.plain),
        ("PUT", "/", statuses.plain),
    ],
)
def test_errors_have_the_form_of_the_path(
    engine_of: Callable[..., Engine], client_of: Any, method: str, path: str, shape: statuses.Shape
) -> None:
    response = client_of(engine_of("DistilBertForMaskedLM")).request(method, path)
    assert response.status_code in (404, 405)
    fields = list(response.json())
    assert fields == list(type(shape(Failure(404, "NotFound", "", {}))).__struct_fields__)
    assert isinstance(response.json()["error"], dict) == (shape is openai.shape)


@pytest.mark.parametrize("path", ["*", "", "//", "/embed/x"])
def test_any_path_gets_an_error_of_ours(path: str, engine_of: Callable[..., Engine]) -> None:
    """A client may send `OPTIONS *`, or the URL of a host alone, whose paths have no slash."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "OPTIONS", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http",
             "root_path": "", "http_version": "1.1"}  # fmt: skip
    asyncio.run(create_app({"model": engine_of("DistilBertForMaskedLM")})(scope, receive, send))
    assert sent[0]["status"] in (404, 405)

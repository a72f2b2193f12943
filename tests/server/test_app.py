"""The application: whose errors a path gets that no route takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distilrt.runtime.engine import Engine
from distilrt.server import open_inference, openai, statuses, tei
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

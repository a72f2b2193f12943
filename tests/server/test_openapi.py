"""The OpenAPI document: it describes every route, and the server does what it says, as schemathesis finds out."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from schemathesis.core.result import Ok

from distilrt.runtime.engine import Engine

Engines = Callable[..., Engine]


CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_server_does_what_the_document_says(address: str, mode: schemathesis.GenerationMode) -> None:
    """No status, body or type that isn't declared, and no failure, whatever is sent; one process takes it all."""
    document = schemathesis.openapi.from_url(f"http://{address}/openapi.json")
    tried = 0
    for found in document.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if mode.is_negative and not operation.body:
            continue  # there is nothing to get wrong

        @settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
        @given(operation.as_strategy(generation_mode=mode))
        def attempt(case: Any) -> None:
            nonlocal tried
            tried += 1
            response = case.call(timeout=60)
            assert response.status_code in (*range(200, 500), 504), response.text  # a deadline is easily passed
            case.validate_response(response, checks=CHECKS)

        attempt()
    assert tried > 100


def test_every_route_is_described(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of("DistilBertForMaskedLM"))
    paths = client.get("/openapi.json").json()["paths"]
    described = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    there = {
        (re.sub(r":path\}", "}", route.path), method)
        for route in client.app.routes
        for method in route.methods - {"HEAD"}
    }
    assert described == there


def test_the_key_is_described_where_there_is_one(engine_of: Engines, client_of: Any) -> None:
    engine = engine_of("DistilBertForMaskedLM")
    assert "securitySchemes" not in client_of(engine).get("/openapi.json").json()["components"]
    document = client_of(engine, api_key="secret").get("/openapi.json").json()  # and reading it needs none
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert document["paths"]["/embed"]["post"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/livez"]["get"]


class _Page(HTMLParser):
    """Where its links lead and what it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.names: set[str] = set()
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a":
            self.links.add(given["href"] or "")
        if "id" in given:
            self.names.add(given["id"] or "")
        if tag in ("script", "link", "img", "iframe"):
            self.loaded.append(tag)


def test_the_page_has_every_route_and_needs_nothing_else(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of("DistilBertForMaskedLM"))
    response = client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    page = _Page(response.text)
    assert not page.loaded
    assert "http" not in response.text.replace("https", "http").partition("<h2>Routes")[0]
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= page.names
    assert [link for link in page.links if not link.startswith("#")] == ["openapi.json"]
    for path in client.get("/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in response.text

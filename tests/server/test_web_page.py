"""The page's routes: files as they are, under a strict policy, and numbers that add up. A browser reads them in
browser/."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distilrt.runtime.engine import Engine
from distilrt.server import web_page

Engines = Callable[..., Engine]
STATIC = Path(web_page.__file__).resolve().parent / "static"
FILES = sorted(file.name for file in STATIC.iterdir())


@pytest.fixture
def client(engine_of: Engines, client_of: Any) -> Any:
    return client_of(engine_of("DistilBertForMaskedLM"), api_key="secret")


def test_the_page_needs_no_key_and_post_stays_hugging_faces(client: Any) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.text == (STATIC / "index.html").read_text()
    assert client.head("/").status_code == 200
    assert client.post("/", json={"inputs": "[MASK]"}).status_code == 401
    key = {"authorization": "Bearer secret"}
    assert client.post("/", json={"inputs": "[MASK]"}, headers=key).status_code == 200
    assert client.put("/").status_code == 405


@pytest.mark.parametrize("name", FILES)
def test_files(client: Any, name: str) -> None:
    response = client.get(f"/static/{name}")
    assert response.content == (STATIC / name).read_bytes()
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
    assert response.headers["content-type"].partition(";")[0] == kinds[Path(name).suffix]
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/static/", "/static/nothing.js", "/static/../web_page.py", "/static/%2e%2e%2fweb_page.py"]
)
def test_there_are_no_other_files(client: Any, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error_type"] == "NotFound"


@pytest.mark.parametrize("name", FILES)
def test_files_ask_for_nothing_from_elsewhere_and_make_no_markup(name: str) -> None:
    """Addresses that are relative also work behind a proxy that serves the page below a path."""
    text = (STATIC / name).read_text().replace('"http://www.w3.org/2000/svg"', "")
    assert "//" not in re.sub(r"^ *//.*| // .*", "", text, flags=re.M)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    assert not re.search(r"<script(?! type=\"module\" src=)|\son[a-z]+=|\sstyle=|<style", text)
    assert not re.search(r'(src|href)="/', text)


def test_stats(folder_of: Callable[..., Path], client_of: Any) -> None:
    folder = folder_of("DistilBertForSequenceClassification")
    with Engine(folder, name="a") as one, Engine(folder, name="b/c") as other:
        client = client_of(one, other)
        first = client.get("/stats")
        assert first.headers["cache-control"] == "no-store"
        for inputs in ("a", ["a", "b c d e"], "a " * 600):
            client.post("/models/b/c", json={"inputs": inputs})
        before, stats = first.json(), client.get("/stats").json()
    assert (stats["status"], stats["needs_key"]) == ("ready", False)
    assert stats["seconds"] > before["seconds"]
    assert [model["name"] for model in stats["models"]] == ["a", "b/c"]
    assert stats["models"][0]["computed_tokens"] == before["models"][0]["computed_tokens"]
    old, new = before["models"][1], stats["models"][1]
    assert new["computed_tokens"] - old["computed_tokens"] == 3 + 9
    assert (old["requests"], new["requests"]) == ({}, {"answered": 2, "invalid": 1})
    assert new["queue"] == {"requests": 0, "sequences": 0, "tokens": 0}
    assert (sum(old["request_seconds"]["counts"]), sum(new["request_seconds"]["counts"])) == (0, 2)
    assert len(new["request_seconds"]["counts"]) == len(new["request_seconds"]["bounds"]) + 1
    assert (new["architecture"], new["backend"], new["dtype"]) == (
        "DistilBertForSequenceClassification", "cpu", "float32"
    )  # fmt: skip
    assert new["tasks"] == ["text-classification", "zero-shot-classification"]
    assert new["labels"] == ["LABEL_0", "LABEL_1"]
    assert (new["mask_token"], new["pooling"], new["max_input_tokens"]) == ("[MASK]", None, 64)


def test_stats_of_a_sentence_encoder(engine_of: Engines, client_of: Any) -> None:
    [model] = client_of(engine_of("sentence_encoder")).get("/stats").json()["models"]
    assert model["pooling"] == "mean"


def test_stats_while_it_cannot_serve(client: Any) -> None:
    client.app.state.serving.draining = True
    response = client.get("/stats")
    assert (response.status_code, response.json()["status"], response.json()["needs_key"]) == (200, "draining", True)

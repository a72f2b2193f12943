"""The page for Prometheus: parsed as Prometheus does, and equal to what happened."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from distilrt.runtime.engine import Engine

PAGES = Path(__file__).parents[2] / "docs"


def samples(client: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for each in families
        for sample in each.samples
    }


def test_metrics(folder_of: Callable[..., Path], client_of: Any) -> None:
    folder = folder_of("DistilBertForSequenceClassification")
    with Engine(folder, name="a") as one, Engine(folder, name="b") as other:
        client = client_of(one, other)
        for inputs in ("a", ["a", "b c d e"], "a " * 600):
            client.post("/models/b", json={"inputs": inputs})
        client.get("/nowhere")
        found = samples(client)

        def value(name: str, **labels: str) -> float:
            return found[f"distilrt_{name}", tuple(sorted(labels.items()))]

        route = "/models/{model:path}"
        assert value("http_responses_total", route=route, code="200") == 2
        assert value("http_responses_total", route=route, code="422") == 1
        assert value("http_responses_total", route="none", code="404") == 1
        task = "text-classification"
        assert value("requests_total", model="b", task=task, outcome="answered") == 2
        assert value("requests_total", model="b", task=task, outcome="invalid") == 1
        assert value("padding_avoided_tokens_total", model="b") == 3
        assert value("padding_avoided_tokens_total", model="a") == 0
        assert value("batch_tokens_sum", model="b") == 3 + 9
        assert value("batch_tokens_bucket", model="b", le="8.0") == 1
        assert value("batch_sequences_count", model="b") == value("batch_tokens_bucket", model="b", le="+Inf") == 2
        for name in ("tokenize", "queue", "compute"):
            assert value(f"request_{name}_seconds_count", model="b") == 2
            assert value(f"request_{name}_seconds_sum", model="b") > 0
        assert value("ready", model="a") == 1
        assert value("queue_tokens", model="a") == value("failed_batches_total", model="a") == 0
        assert value("tokens_per_second", model="a") > 0
        facts = {"architecture": "DistilBertForSequenceClassification", "backend": "cpu", "dtype": "float32"}
        assert value("model_info", model="a", task=task, **facts) == 1
        assert found["process_resident_memory_bytes", ()] > 0


def test_every_metric_that_the_pages_name(engine_of: Callable[..., Engine], client_of: Any) -> None:
    text = client_of(engine_of("DistilBertModel")).get("/metrics").text
    there = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    pages = [*PAGES.glob("*.md"), *(page for page in PAGES.glob("deploy/*") if page.is_file())]
    named = {name for page in pages for name in re.findall(r"\b(?:distilrt|process)_\w+", page.read_text())}
    metrics = {re.sub("_(bucket|sum|count)$", "", name) for name in named}
    assert metrics
    assert metrics <= there

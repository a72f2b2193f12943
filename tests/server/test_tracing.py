"""Traces: the spans of a request, and that they get to a collector."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from distilrt.runtime.engine import Engine
from distilrt.server import tracing

Engines = Callable[..., Engine]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


def test_spans_of_a_request(engine_of: Engines, client_of: Any, spans: InMemorySpanExporter) -> None:
    client = client_of(engine_of("DistilBertForMaskedLM"))
    client.get("/readyz")  # probes leave none
    client.post("/", json={"inputs": "[MASK] is."}, headers={"traceparent": PARENT})
    client.post("/embed", content=b"{")
    *steps, request, refused = spans.get_finished_spans()
    assert request.name == "POST /"
    assert request.parent is not None
    assert f"{request.parent.trace_id:032x}-{request.parent.span_id:016x}" == PARENT[3:-3]
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert [step.name for step in steps] == ["compute", "queue", "tokenize"]
    for step in steps:
        assert step.parent is not None
        assert request.context is not None
        assert step.parent.span_id == request.context.span_id
        assert step.attributes is not None
        assert step.attributes["distilrt.tokens"] == 5
    ends = [time for step in steps[::-1] for time in (step.start_time, step.end_time)]
    assert ends == sorted(ends, key=lambda time: time or 0)
    assert refused.parent is None
    assert refused.attributes is not None
    assert refused.attributes["http.response.status_code"] == 400


def test_nothing_is_done_where_nothing_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    assert tracing.observers() == []
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    tracing.configure()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ImportError, match=r"pip install 'distilrt\[otel\]'"):
        tracing.configure()


def test_spans_get_to_a_collector(folder_of: Callable[..., Path]) -> None:
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        folder = folder_of("DistilBertForMaskedLM")
        command = [sys.executable, "-m", "distilrt", "serve", "--port", "0", "--threads", "1", "--drain-delay", "0",
                   "--model", f"masks={folder}"]  # fmt: skip
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        with subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                address = process.stderr.readline().split()[-1]
                while httpx2.get(f"{address}/readyz").status_code != 200:
                    pass
                assert httpx2.post(f"{address}/", json={"inputs": "[MASK] is."}).status_code == 200
            finally:
                process.terminate()  # which sends what was not sent yet
        assert process.returncode == 0
        collector.shutdown()
    [sent] = [ExportTraceServiceRequest.FromString(body) for body in received]
    [resource] = sent.resource_spans
    [scope] = resource.scope_spans
    assert {span.name for span in scope.spans} == {"tokenize", "queue", "compute", "POST /"}
    assert any(item.key == "service.name" and item.value.string_value == "distilrt"
               for item in resource.resource.attributes)  # fmt: skip

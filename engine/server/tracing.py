"""Traces for OpenTelemetry: a span for each request, and in it one for each step of what was answered.

Tracing needs the extra `otel`; without it, or where no tracer is set up, it costs nothing. Spans are made when the
response has been sent, from times that were measured anyway. A request's header `traceparent` makes its span a child.
"""

from __future__ import annotations

import os
import time
from importlib.metadata import PackageNotFoundError, version

from distilrt.server.call import Call
from distilrt.server.serving import Observer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROBES = ("/livez", "/readyz", "/health", "/ping", "/metrics", "/v2/health/live", "/v2/health/ready")


def configure() -> None:
    """Send spans where OpenTelemetry's own variables say, if they name an endpoint.

    Raises:
        ImportError: they do, and the extra is not installed.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{' or '.join(_ENDPOINTS)} is set, and tracing needs {error.name}: pip install 'distilrt[otel]'"
        ) from None
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "distilrt"}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def observers() -> list[Observer]:
    """What makes spans of requests; nothing where no tracer has been set up."""
    try:
        version("opentelemetry-api")
    except PackageNotFoundError:
        return []
    from opentelemetry import propagate, trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return []
    tracer = trace.get_tracer("distilrt")

    def observe(call: Call, route: str, status: int) -> None:
        if route in _PROBES:
            return
        end = time.time_ns()
        start = end - int(call.age() * 1e9)
        span = tracer.start_span(
            f"{call.method} {route}",
            context=propagate.extract(dict(call.headers)),
            kind=trace.SpanKind.SERVER,
            attributes={"http.request.method": call.method, "http.route": route, "http.response.status_code": status},
            start_time=start,
        )
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        inside = trace.set_span_in_context(span)
        for taken, timing in call.steps:
            now = start + int(taken * 1e9)
            for step, seconds in (("compute", timing.compute), ("queue", timing.queue), ("tokenize", timing.tokenize)):
                before = now - int(seconds * 1e9)
                part = tracer.start_span(step, context=inside, start_time=before)
                part.set_attribute("distilrt.tokens", timing.tokens)
                part.end(now)
                now = before
        span.end(end)

    return [observe]

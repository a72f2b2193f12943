"""`/metrics` for Prometheus: the engines' counters as they are, read when asked. It needs no key."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

from distilrt.runtime.counters import Histogram
from distilrt.runtime.engine import Engine
from distilrt.server.call import Call
from distilrt.server.operation import Operation
from distilrt.server.serving import Serving

# A counter's attribute, the metric's name after `distilrt_`, and what it counts.
_HISTOGRAMS = (
    ("tokenize_seconds", "request_tokenize_seconds", "Seconds of tokenizing of an answered request."),
    ("queue_seconds", "request_queue_seconds", "Seconds from there to the start of its first batch."),
    ("compute_seconds", "request_compute_seconds", "Seconds from there to the end of its last batch."),
    ("batch_seconds", "batch_seconds", "Seconds of computing a batch."),
    ("batch_tokens", "batch_tokens", "Tokens of a batch."),
    ("batch_sequences", "batch_sequences", "Sequences of a batch."),
)


_PROCESS = CollectorRegistry()
ProcessCollector(registry=_PROCESS)
PlatformCollector(registry=_PROCESS)


async def _metrics(call: Call) -> Response:
    registry = CollectorRegistry()
    registry.register(_Collector(call.serving))
    return Response(generate_latest(_PROCESS) + generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


OPERATIONS = [Operation("GET", "/metrics", _metrics, "Counters, for Prometheus", public=True)]


class _Collector(Collector):
    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def describe(self) -> list[Metric]:
        """Nothing: names need no check against other collectors' at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, now."""
        serving = self._serving
        responses = CounterMetricFamily(
            "distilrt_http_responses",
            "Responses by route and status; route none: refused before a route was found; 499: the client hung up.",
            labels=["route", "code"],
        )
        for (route, code), number in list(serving.responses.items()):
            responses.add_metric([route, str(code)], number)
        yield responses
        yield from self._of_engines(serving.engines)

    def _of_engines(self, engines: dict[str, Engine]) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "distilrt_requests", "Requests that ended, by task and how.", labels=["model", "task", "outcome"]
        )
        padding = CounterMetricFamily(
            "distilrt_padding_avoided_tokens",
            "Tokens that padded batches would have had in addition.",
            labels=["model"],
        )
        failed = CounterMetricFamily("distilrt_failed_batches", "Batches that raised an error.", labels=["model"])
        gauges = {
            name: GaugeMetricFamily(f"distilrt_{name}", text, labels=["model"])
            for name, text in (
                ("queue_requests", "Requests in the queue now."),
                ("queue_sequences", "Sequences in the queue now."),
                ("queue_tokens", "Tokens in the queue now."),
                ("queue_characters", "Characters of long requests that wait to be tokenized."),
                ("ready", "Whether the engine takes requests and its last batch was computed."),
                ("tokens_per_second", "Tokens a second of full batches, as last measured."),
            )
        }
        info = InfoMetricFamily("distilrt_model", "What is served.", labels=["model"])
        for model, engine in engines.items():
            counters, facts = engine.counters, engine.describe()
            for (task, outcome), number in list(counters.requests.items()):
                requests.add_metric([model, task, outcome], number)
            padding.add_metric([model], counters.padding_avoided)
            failed.add_metric([model], counters.failed_batches)
            values = (*engine.waiting, engine.unread[1], engine.ready, facts["tokens_per_second"] or 0)
            for gauge, value in zip(gauges.values(), values, strict=True):
                gauge.add_metric([model], float(value))
            names = ("architecture", "task", "backend", "dtype")
            info.add_metric([model], {name: str(facts[name]) for name in names})
        yield from (requests, padding, failed, *gauges.values(), info)
        for attribute, name, text in _HISTOGRAMS:
            family = HistogramMetricFamily(f"distilrt_{name}", text, labels=["model"])
            for model, engine in engines.items():
                with engine.counters.lock:
                    buckets, total = _buckets(getattr(engine.counters, attribute))
                family.add_metric([model], buckets, total)
            yield family


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Counts up to each bound, as Prometheus has them, and the sum."""
    below, buckets = 0, []
    for bound, number in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += number
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(below)))
    return buckets, histogram.total

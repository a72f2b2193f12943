"""engine/bench/{report,plots,page}.py: everything measured is shown, marked where it must be, and nothing else is
needed to read it."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from distilrt.bench import findings, page, plots, report
from distilrt.bench.findings import Findings, Row
from distilrt.bench.scenarios import Plan


def row(target: str, scenario: str = "single", workload: str = "mixed", **changes: Any) -> Row:
    return {"target": target, "dtype": "int8", "version": "1.0", "scenario": scenario, "workload": workload,
            "mean_tokens": 80.0, "padding": 0.5, "batch": 1, "rate": None, "valid": True, "steady": True,
            "failures": {}, "samples_per_s": 123.4, "tokens_per_s": 9872.0, "p50_ms": 8.25, "p90_ms": 10.0,
            "p99_ms": 12.5, "lag_p99_ms": 0.2, "peak_share": 0.41, "start_s": 0.25, "peak_mb": 150.0,
            "max_difference": 2e-3, "cosine": 0.9991, "agreement": 0.98, **changes}  # fmt: skip


WORKLOAD = {"workload": "mixed", "task": "text-classification", "texts": 256, "batch": 8, "mean_tokens": 80.7,
            "p5_tokens": 14, "p50_tokens": 54, "p95_tokens": 232, "padding": 0.63}  # fmt: skip


@pytest.fixture
def found(classifier: str) -> Findings:
    return Findings(findings.facts(2, classifier), Plan("single").describe(), [dict(WORKLOAD)],
                    [row("distilrt"), row("onnxruntime", p50_ms=16.0)], complete=True)  # fmt: skip


def printed(found: Findings) -> str:
    text = io.StringIO()
    report.show(found, Console(file=text, width=80, markup=False, highlight=False))
    return text.getvalue()


def test_terminal(found: Findings) -> None:
    text = printed(found)
    for words in ("distilrt int8", "onnxruntime int8", "8.25", "123", "9,872", "2e-03", "98%", "0.9991", "41%", "0.25",
                  "150", "63% padding", found.facts["cpu"], "commit"):  # fmt: skip
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    found.rows[1] |= {"ratio": 0.516, "ratio_low": 0.5, "ratio_high": 0.532}
    assert "0.52±.02" in printed(found)
    assert "how many times as fast as the first" in page.page(found)
    assert "rate/s" not in text


def test_what_a_reader_must_know(found: Findings) -> None:
    found.rows = [
        row("a", "server", rate=20.0, valid=False, lag_p99_ms=3.5),
        row("b", "server", rate=20.0, steady=False, failures={"HTTP 429": 7}),
    ]
    found.left_out, found.complete = ["c int8: <it> is not there"], False
    for text in (printed(found), page.page(found)):
        for words in ("INVALID", "3.5 ms", "not steady", "7 x HTTP 429", "is not there", "roken off"):
            assert words in text
    assert "<it>" not in page.page(found)
    assert report.remarks(row("a", lag_p99_ms=1.5)) == "1 % of the queries were sent 1.5 ms late or more"
    assert report.remarks(row("a", lag_p99_ms=0.9)) == ""
    peak = row("d", "peak", rate=0.0, steady=False, slo="p99=20ms")
    assert report.remarks(peak) == "no rate met p99=20ms"


def test_page_is_whole_and_alone(found: Findings) -> None:
    figures = plots.draw(found)
    assert set(figures) == {"latency", "throughput", "peak-share", "start", "memory"}
    html = page.page(found)
    whole = re.sub(r"<!doctype html>|<meta[^>]*>", "", html)
    ElementTree.fromstring(whole)  # every element is closed
    assert all(link.startswith("#") for link in re.findall(r'(?:src|href)="([^"]*)', html))
    assert "<script" not in html
    assert html.count("<figure>") == len(figures)
    assert not re.search(r"url\((?!#)|@import", html)
    for words in (Path(found.facts["model"]).name, "onnxruntime int8", "98%", "numpy", found.facts["cpu"]):
        assert words in html


def values(chart: plots.Chart) -> list[dict[str, Any]]:
    return list(chart["data"]["values"])


def rates(found: Findings, *, dashed: bool) -> dict[float, float]:
    drawn = values(plots.draw(found)["rate-mixed"])
    assert {point["name"] for point in drawn} == {"a int8"}
    return {point["x"]: point["y"] for point in drawn if point["dashed"] == dashed}


def test_rates_are_drawn_from_rows_and_from_probes(found: Findings) -> None:
    found.rows = [row("a", "server", rate=rate, p99_ms=rate) for rate in (10.0, 20.0, 30.0)]
    found.rows.append(row("b", "server", rate=10.0, valid=False))
    assert rates(found, dashed=False) == {10: 10, 20: 20, 30: 30}
    assert rates(found, dashed=True) == dict.fromkeys((10, 20, 30), 8.25)
    found.plan["slo"] = "p99=20ms"
    probes = [{"rate": rate, "p99_ms": rate, "p50_ms": 1.0, "valid": rate < 50} for rate in (40.0, 10.0, 50.0)]
    found.rows = [row("a", "peak", rate=40.0, slo="p99=20ms", probes=probes)]
    assert set(rates(found, dashed=False)) == {10, 40}
    assert "p99=20ms" in plots.svg(plots.draw(found)["rate-mixed"])


@pytest.mark.parametrize(("rows", "key", "bars", "drawn"), [
    ([row(name, "offline", workload) for workload in ("1x16", "8x128") for name in "ab"], "throughput",
     [(workload, f"{name} int8", 9872) for workload in ("1x16", "8x128") for name in "ab"],
     {"throughput", "peak-share"}),
    ([row("a", "peak", rate=40.0, probes=[]), row("b", "peak", rate=50.0, probes=[])], "peak-rate",
     [("mixed", "a int8", 40), ("mixed", "b int8", 50)], {"peak-rate", "peak-share"}),
    ([row("a", "multi", "1x16", busy=count) for count in (0, 1)], "latency",
     [("1x16", "a int8", 8.25), ("1x16 beside 1", "a int8", 8.25)], {"latency", "throughput", "peak-share"}),
])  # fmt: skip
def test_bars(
    found: Findings, tmp_path: Path, rows: list[Row], key: str, bars: list[tuple[str, str, float]], drawn: set[str]
) -> None:
    found.rows = rows
    figures = plots.draw(found)
    assert set(figures) == drawn | {"start", "memory"}
    assert [(bar["group"], bar["name"], bar["number"]) for bar in values(figures[key])] == bars
    paths = plots.save(found, tmp_path / "plots")
    assert len(paths) == len(figures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_nothing_measured(found: Findings) -> None:
    found.rows, found.workloads = [], []
    assert plots.draw(found) == {}
    assert "Machine and method" in page.page(found)
    assert "distilrt" in printed(found)


def test_without_vl_convert(found: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    html = page.page(found)
    assert "<svg" not in html
    assert "Charts need vl-convert" in html

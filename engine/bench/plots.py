"""The charts of findings: latency against rate, and bars of latency, throughput, share of the peak, start and memory,
each only where there is something to see.

They are Vega-Lite documents, which vl-convert draws as SVG or PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distilrt.bench.findings import Findings, Row, named

Chart = dict[str, Any]
# Distinguishable by people who see colours differently (Okabe and Ito), and in grey by their order.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#555555")
WIDTH, HEIGHT = 520, 200  # pixels of a plot; bars are as high as they are many
INK, BOUND = "#3b4048", "#b3261e"
_BARS = (
    ("latency", ("p50_ms", "p99_ms"), "Latency of a query, ms: median, and 99th percentile in outline"),
    ("peak-rate", ("rate",), "Highest rate that keeps the promise, queries per second"),
    ("throughput", ("tokens_per_s",), "Throughput, real tokens per second"),
    ("peak-share", ("peak_share",), "Share of the machine's measured peak in the same dtype"),
    ("start", ("start_s",), "Start to first answer, s"),
    ("memory", ("peak_mb",), "Most memory, MB"),
)
_ONCE = ("start", "memory")  # one number of an engine, not of a workload


def draw(findings: Findings) -> dict[str, Chart]:
    """Charts by name."""
    rows = [row for row in findings.rows if row.get("valid", True) or row.get("probes")]
    names = list(dict.fromkeys(map(named, findings.rows)))
    figures: dict[str, Chart] = {}
    for workload in dict.fromkeys(row["workload"] for row in rows):
        if points := _rates(rows, workload):
            title = f"Latency against rate, {workload}: p99, and median dashed; ms from the intended time"
            figures[f"rate-{workload}"] = _curves(title, points, names, findings.plan["slo"])
    once = {named(row): row for row in reversed(findings.rows)}
    for key, columns, title in _BARS:
        shown = ([("", once[name]) for name in names] if key in _ONCE
                 else [(_group(row), row) for row in rows if _tells(row, key, figures)])  # fmt: skip
        bars = [_bar(group, named(row), [row.get(column) or 0 for column in columns])
                for group, row in shown if row.get(columns[0])]  # fmt: skip
        if bars:
            figures[key] = _bars(title, bars, names)
    return figures


def available() -> bool:
    """Whether what draws is installed."""
    return find_spec("vl_convert") is not None


def svg(chart: Chart) -> str:
    """An `<svg>` element for a page."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart))


def save(findings: Findings, folder: Path) -> list[Path]:
    """Write each chart as a PNG."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, chart in draw(findings).items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(bytes(vl_convert.vegalite_to_png(chart, scale=2)))
    return paths


def _tells(row: Row, key: str, figures: Mapping[str, Chart]) -> bool:
    """Whether a row belongs into the figure `key` of all workloads."""
    scenario: str = row["scenario"]
    if key == "peak-rate" or scenario == "peak":
        return key in ("peak-rate", "peak-share") and scenario == "peak"
    if key == "latency":
        return scenario != "offline" and f"rate-{row['workload']}" not in figures
    return scenario != "server"  # there the schedule, not the engine, says how much is done


def _rates(rows: Sequence[Row], workload: str) -> list[Row]:
    """p99, and dashed the median, of each target by rate: its measurements, or the probes of its peak search."""
    found: dict[str, dict[float, Row]] = {}
    for row in rows:
        if row["workload"] == workload:
            for probe in row.get("probes") or ([row] if row["rate"] else []):
                if probe["valid"] and probe.get("p99_ms"):
                    found.setdefault(named(row), {})[probe["rate"]] = probe
    return [
        {"name": name, "x": rate, "y": probe[key], "dashed": key == "p50_ms"}
        for name, probes in found.items() if len(probes) > 1
        for key in ("p99_ms", "p50_ms")
        for rate, probe in probes.items()
    ]  # fmt: skip


def _group(row: Row) -> str:
    rate = f" {row['rate']:g}/s" if row["scenario"] == "server" else ""
    busy = f" beside {row['busy']}" if row.get("busy") else ""
    return f"{row['workload']}{rate}{busy}"


def _bar(group: str, name: str, numbers: Sequence[float]) -> Row:
    """One bar of a group; a second, larger number is the outline of a longer bar."""
    return {"group": group, "name": name, "number": numbers[0], "most": max(numbers),
            "words": "  ".join(f"{each:,.0f}" if each >= 100 else f"{each:.3g}" for each in numbers)}  # fmt: skip


def _bars(title: str, bars: Sequence[Row], names: Sequence[str]) -> Chart:
    """Horizontal bars in groups, both in the order in which they come; `names` are all engines of the report."""
    x = {"type": "quantitative", "stack": None, "title": None}
    most = {"x": x | {"field": "most"}}
    return _chart(title, bars) | {
        "width": WIDTH,
        "encoding": {
            "y": {"field": "group", "type": "nominal", "sort": None, "title": None},
            "yOffset": {"field": "name", "type": "nominal", "sort": list(names)},
            "color": _colour(names),
        },
        "layer": [
            {"mark": "bar", "encoding": {"x": x | {"field": "number"}}},
            {"mark": {"type": "bar", "filled": False}, "encoding": most},
            {"mark": {"type": "text", "align": "left", "dx": 4, "color": INK},
             "encoding": most | {"text": {"field": "words"}, "color": {"value": INK}}},
        ],
    }  # fmt: skip


def _curves(title: str, points: Sequence[Row], names: Sequence[str], slo: str | None) -> Chart:
    """A line for each engine and dash; an SLO is a horizontal line."""
    axis = {"values": sorted({point["x"] for point in points}), "format": "~g"}
    layer: list[Chart] = [{
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "scale": {"type": "log", "nice": False},
                  "title": "queries per second", "axis": axis},
            "y": {"field": "y", "type": "quantitative", "scale": {"type": "log"}, "title": None},
            "color": _colour(names),
            "strokeDash": {"field": "dashed", "type": "nominal", "legend": None,
                           "scale": {"domain": [False, True], "range": [[1, 0], [5, 3]]}},
        },
    }]  # fmt: skip
    if slo is not None:
        y = {"datum": float(slo.partition("=")[2].removesuffix("ms"))}
        layer += [
            {"mark": {"type": "rule", "color": BOUND}, "encoding": {"y": y}},
            {"mark": {"type": "text", "align": "left", "dy": -6, "color": BOUND, "text": slo},
             "encoding": {"y": y, "x": {"value": 4}}},
        ]  # fmt: skip
    return _chart(title, points) | {"width": WIDTH, "height": HEIGHT, "layer": layer}


def _chart(title: str, values: Sequence[Row]) -> Chart:
    return {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "data": {"values": list(values)},
            "title": {"text": title, "anchor": "start"}, "config": {"view": {"stroke": None}}}  # fmt: skip


def _colour(names: Sequence[str]) -> Chart:
    """A colour for each engine, the same in all charts of a report."""
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    return {"field": "name", "type": "nominal", "title": None,
            "scale": {"domain": list(names), "range": colours},
            "legend": {"orient": "bottom", "columns": 2, "labelLimit": 300}}  # fmt: skip

"""Which figures findings become: latency against rate, throughput and share of the peak against batch and length or by
workload, latency, memory, start. Each is drawn only where there is something to see; `charts` draws.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distilrt.bench import charts
from distilrt.bench.findings import Findings, Row

POINTS = 3  # that make a curve
_BY_WORKLOAD = (
    ("latency", ("p50_ms", "p99_ms"), "Latency of a query, ms: median, and 99th percentile in outline"),
    ("peak-rate", ("rate",), "Highest rate that keeps the promise, queries per second"),
    ("throughput", ("tokens_per_s",), "Throughput, real tokens per second"),
    ("peak-share", ("peak_share",), "Share of the machine's measured peak in the same dtype, %"),
)
Figures = dict[str, Any]


def require() -> None:
    """Nothing, where figures can be drawn.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'distilrt[bench]'")


def draw(findings: Findings) -> Figures:
    """matplotlib figures by name."""
    import matplotlib

    rows = [row for row in findings.rows if row.get("valid", True) or row.get("probes")]
    names = list(dict.fromkeys(map(engine, findings.rows)))
    colours = {name: charts.COLOURS[i % len(charts.COLOURS)] for i, name in enumerate(names)}
    figures: Figures = {}
    with matplotlib.rc_context(charts.STYLE):
        for workload in dict.fromkeys(row["workload"] for row in rows):
            curves = {engine(row): _curve(rows, workload, engine(row)) for row in rows if row["workload"] == workload}
            curves = {name: points for name, points in curves.items() if len(points) > 1}
            if curves:
                figures[f"rate-{workload}"] = charts.rates(curves, colours, workload, findings.plan["slo"])
        for key, values, title in _BY_WORKLOAD:
            shown = [row for row in rows if row.get(values[0]) and _tells(row, key, figures)]
            scale = 100.0 if key == "peak-share" else 1.0
            if key in ("throughput", "peak-share"):
                for along in ("length", "batch"):
                    panels = _panels(shown, values[0], scale, along)
                    if panels:
                        figures[f"{key}-{along}"] = charts.curves(panels, colours, f"{title}, by {along}", along)
                drawn = {name for name in figures if name.startswith(f"{key}-")}
                shown = [] if drawn and all(_shape(row) for row in shown) else shown
            if shown:
                figures[key] = charts.bars([
                    charts.Bar(_group(row), engine(row), [scale * (row.get(value) or 0) for value in values])
                    for row in shown
                ], title, colours)  # fmt: skip
        # One number of an engine, not of a workload.
        once = list({engine(row): row for row in reversed(findings.rows) if row["start_s"]}.values())[::-1]
        if once:
            figures["start-and-memory"] = charts.start({engine(row): (row["start_s"] or 0, row["peak_mb"] or 0)
                                                        for row in once}, colours)  # fmt: skip
    return figures


def _tells(row: Row, key: str, figures: Figures) -> bool:
    """Whether a row belongs into the figure `key` of all workloads."""
    scenario: str = row["scenario"]
    if key == "peak-rate" or scenario == "peak":
        return key in ("peak-rate", "peak-share") and scenario == "peak"
    if key == "latency":
        return scenario != "offline" and f"rate-{row['workload']}" not in figures
    return scenario != "server"  # there the schedule, not the engine, says how much is done


def _shape(row: Row) -> tuple[int, int] | None:
    """Batch and length of a workload of one shape."""
    match = re.fullmatch(r"(\d+)x(\d+)", row["workload"])
    return (int(match[1]), int(match[2])) if match else None


def _panels(rows: Sequence[Row], value: str, scale: float, along: str) -> charts.Panels:
    """A panel for each batch (or length) of which an engine has at least `POINTS` lengths (or batches)."""
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if shape := _shape(row):
            at, fixed = (shape[1], f"batches of {shape[0]}") if along == "length" else (shape[0], f"{shape[1]} tokens")
            panels.setdefault(fixed, {}).setdefault(engine(row), {})[at] = scale * row[value]
    found = {
        title: {name: sorted(points.items()) for name, points in curves.items() if len(points) >= POINTS}
        for title, curves in panels.items()
    }
    return {title: curves for title, curves in found.items() if curves}


def svg(figure: Any) -> str:
    """A figure as an `<svg>` element for a page."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(charts.STYLE):  # text stays text
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()[text.getvalue().index("<svg") :]


def save(figures: Figures, folder: Path) -> list[Path]:
    """Write each figure as a PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=160, facecolor="white")
    return paths


def engine(row: Row) -> str:
    """What was measured, in a legend."""
    return f"{row['target']} {row['dtype']}".removesuffix(" unknown")


def _curve(rows: Sequence[Row], workload: str, name: str) -> list[Row]:
    """Points of one target by rate: its measurements, or the probes of its peak search."""
    points: dict[float, Row] = {}
    for row in rows:
        if row["workload"] == workload and engine(row) == name:
            for point in row.get("probes") or ([row] if row["rate"] else []):
                if point["valid"] and point.get("p99_ms"):
                    points[point["rate"]] = point
    return [points[rate] for rate in sorted(points)]


def _group(row: Row) -> str:
    rate = f" {row['rate']:g}/s" if row["scenario"] == "server" else ""
    return f"{row['workload']}{rate}"

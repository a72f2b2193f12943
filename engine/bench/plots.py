"""Which charts findings become: latency against rate, throughput and share of the peak against batch and length or by
workload, latency, start, memory. Each is drawn only where there is something to see; `charts` draws.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from distilrt.bench import charts
from distilrt.bench.charts import Bars, ChartBar, Curve, Curves
from distilrt.bench.findings import Findings, Row, named

POINTS = 3  # that make a curve
_BY_WORKLOAD = (
    ("latency", ("p50_ms", "p99_ms"), "Latency of a query, ms: median, and 99th percentile in outline"),
    ("peak-rate", ("rate",), "Highest rate that keeps the promise, queries per second"),
    ("throughput", ("tokens_per_s",), "Throughput, real tokens per second"),
    ("peak-share", ("peak_share",), "Share of the machine's measured peak in the same dtype, %"),
)
_ONCE = (("start", "start_s", "Start to first answer, s"), ("memory", "peak_mb", "Most memory, MB"))
Figures = dict[str, charts.Chart]


def draw(findings: Findings) -> Figures:
    """Charts by name."""
    rows = [row for row in findings.rows if row.get("valid", True) or row.get("probes")]
    figures: Figures = {}
    for workload in dict.fromkeys(row["workload"] for row in rows):
        if curves := _rates(rows, workload):
            slo = findings.plan["slo"]
            bound = (float(slo.partition("=")[2].removesuffix("ms")), slo) if slo else None
            title = f"Latency against rate, {workload}: p99, and median dashed; ms from the intended time"
            figures[f"rate-{workload}"] = Curves(title, "queries per second", {"": curves}, log=True, bound=bound)
    for key, values, title in _BY_WORKLOAD:
        shown = [row for row in rows if row.get(values[0]) and _tells(row, key, figures)]
        scale = 100.0 if key == "peak-share" else 1.0
        if key in ("throughput", "peak-share"):
            for along, x in (("length", "tokens of a text"), ("batch", "texts of a batch")):
                if panels := _panels(shown, values[0], scale, along):
                    figures[f"{key}-{along}"] = Curves(f"{title}, by {along}", x, panels)
            drawn = {name for name in figures if name.startswith(f"{key}-")}
            shown = [] if drawn and all(_shape(row) for row in shown) else shown
        if shown:
            figures[key] = Bars(title, [
                ChartBar(_group(row), named(row), [scale * (row.get(value) or 0) for value in values]) for row in shown
            ])  # fmt: skip
    for key, value, title in _ONCE:  # one number of an engine, not of a workload
        once = {named(row): row[value] for row in reversed(findings.rows) if row.get(value)}
        if once:
            figures[key] = Bars(title, [ChartBar("", name, [number]) for name, number in reversed(once.items())])
    return figures


def colours(findings: Findings) -> dict[str, str]:
    """The colour of every engine."""
    return charts.colours(dict.fromkeys(map(named, findings.rows)))


def save(findings: Findings, folder: Path) -> list[Path]:
    """Write each chart as a PNG.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    require()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, chart in draw(findings).items():
        paths.append(folder / f"{name}.png")
        charts.png(chart, colours(findings), paths[-1])
    return paths


def require() -> None:
    """Nothing, where PNG files can be made.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("--png needs matplotlib: pip install 'distilrt[bench]'; --html does without")


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


def _panels(rows: Sequence[Row], value: str, scale: float, along: str) -> dict[str, list[Curve]]:
    """A panel for each batch (or length) of which an engine has at least `POINTS` lengths (or batches)."""
    panels: dict[str, dict[str, dict[float, float]]] = {}
    for row in rows:
        if shape := _shape(row):
            at, fixed = (shape[1], f"batches of {shape[0]}") if along == "length" else (shape[0], f"{shape[1]} tokens")
            panels.setdefault(fixed, {}).setdefault(named(row), {})[at] = scale * row[value]
    found = {
        title: [Curve(name, sorted(points.items())) for name, points in curves.items() if len(points) >= POINTS]
        for title, curves in panels.items()
    }
    return {title: curves for title, curves in found.items() if curves}


def _rates(rows: Sequence[Row], workload: str) -> list[Curve]:
    """p99, and dashed the median, of each target by rate: its measurements, or the probes of its peak search."""
    found: dict[str, dict[float, Row]] = {}
    for row in rows:
        if row["workload"] == workload:
            for point in row.get("probes") or ([row] if row["rate"] else []):
                if point["valid"] and point.get("p99_ms"):
                    found.setdefault(named(row), {})[point["rate"]] = point
    return [
        Curve(name, [(rate, points[rate][key]) for rate in sorted(points)], dashed=key == "p50_ms")
        for name, points in found.items() if len(points) > 1
        for key in ("p99_ms", "p50_ms")
    ]  # fmt: skip


def _group(row: Row) -> str:
    rate = f" {row['rate']:g}/s" if row["scenario"] == "server" else ""
    return f"{row['workload']}{rate}"

"""Which charts findings become: latency against rate, throughput and share of the peak against batch and length or by
workload, latency, start, memory. Each is drawn only where there is something to see; `charts` draws.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from distilrt.bench import charts
from distilrt.bench.charts import Bar, Point
from distilrt.bench.findings import Findings, Row, named

POINTS = 3  # that make a curve
_BY_WORKLOAD = (
    ("latency", ("p50_ms", "p99_ms"), "Latency of a query, ms: median, and 99th percentile in outline"),
    ("peak-rate", ("rate",), "Highest rate that keeps the promise, queries per second"),
    ("throughput", ("tokens_per_s",), "Throughput, real tokens per second"),
    ("peak-share", ("peak_share",), "Share of the machine's measured peak in the same dtype, %"),
)
_ONCE = (("start", "start_s", "Start to first answer, s"), ("memory", "peak_mb", "Most memory, MB"))


def draw(findings: Findings) -> dict[str, charts.Chart]:
    """Charts by name."""
    rows = [row for row in findings.rows if row.get("valid", True) or row.get("probes")]
    names = list(dict.fromkeys(map(named, findings.rows)))
    figures: dict[str, charts.Chart] = {}
    for workload in dict.fromkeys(row["workload"] for row in rows):
        if points := _rates(rows, workload):
            slo = findings.plan["slo"]
            bound = (float(slo.partition("=")[2].removesuffix("ms")), slo) if slo else None
            title = f"Latency against rate, {workload}: p99, and median dashed; ms from the intended time"
            figures[f"rate-{workload}"] = charts.curves(
                title, "queries per second", points, names, log=True, bound=bound
            )
    for key, values, title in _BY_WORKLOAD:
        shown = [row for row in rows if row.get(values[0]) and _tells(row, key, figures)]
        scale = 100.0 if key == "peak-share" else 1.0
        if key in ("throughput", "peak-share"):
            for along, x in (("length", "tokens of a text"), ("batch", "texts of a batch")):
                if points := _along(shown, values[0], scale, along):
                    figures[f"{key}-{along}"] = charts.curves(f"{title}, by {along}", x, points, names)
            drawn = {name for name in figures if name.startswith(f"{key}-")}
            shown = [] if drawn and all(_shape(row) for row in shown) else shown
        if shown:
            found = [Bar(_group(row), named(row), [scale * (row.get(value) or 0) for value in values]) for row in shown]
            figures[key] = charts.bars(title, found, names)
    for key, value, title in _ONCE:  # one number of an engine, not of a workload
        once = {named(row): row[value] for row in reversed(findings.rows) if row.get(value)}
        if once:
            figures[key] = charts.bars(title, [Bar("", name, [once[name]]) for name in names if name in once], names)
    return figures


def save(findings: Findings, folder: Path) -> list[Path]:
    """Write each chart as a PNG.

    Raises:
        ModuleNotFoundError: vl-convert is not installed.
    """
    require()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, chart in draw(findings).items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(charts.png(chart))
    return paths


def require() -> None:
    """Nothing, where charts can be drawn.

    Raises:
        ModuleNotFoundError: vl-convert is not installed.
    """
    if not charts.available():
        raise ModuleNotFoundError("--png needs vl-convert: pip install 'distilrt[bench]'; --html has no charts without")


def _tells(row: Row, key: str, figures: Mapping[str, charts.Chart]) -> bool:
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


def _along(rows: Sequence[Row], value: str, scale: float, along: str) -> list[Point]:
    """A panel for each batch (or length) of which an engine has at least `POINTS` lengths (or batches)."""
    found: dict[tuple[str, str], list[Point]] = {}
    for row in rows:
        if shape := _shape(row):
            at, panel = (shape[1], f"batches of {shape[0]}") if along == "length" else (shape[0], f"{shape[1]} tokens")
            found.setdefault((panel, named(row)), []).append(Point(panel, named(row), at, scale * row[value]))
    return [point for points in found.values() if len(points) >= POINTS for point in points]


def _rates(rows: Sequence[Row], workload: str) -> list[Point]:
    """p99, and dashed the median, of each target by rate: its measurements, or the probes of its peak search."""
    found: dict[str, dict[float, Row]] = {}
    for row in rows:
        if row["workload"] == workload:
            for probe in row.get("probes") or ([row] if row["rate"] else []):
                if probe["valid"] and probe.get("p99_ms"):
                    found.setdefault(named(row), {})[probe["rate"]] = probe
    return [
        Point("", name, rate, probe[key], dashed=key == "p50_ms")
        for name, probes in found.items() if len(probes) > 1
        for key in ("p99_ms", "p50_ms")
        for rate, probe in probes.items()
    ]  # fmt: skip


def _group(row: Row) -> str:
    rate = f" {row['rate']:g}/s" if row["scenario"] == "server" else ""
    busy = f" beside {row['busy']}" if row.get("busy") else ""
    return f"{row['workload']}{rate}{busy}"

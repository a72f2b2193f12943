"""Findings as figures: latency against rate, latency and throughput by workload, share of the peak, memory, start.

Each is drawn only where there is something to see.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distilrt.bench.findings import Findings, Row

# Distinguishable by people who see colours differently (Okabe and Ito), and in grey by their order.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#555555")
_STYLE: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 9.5, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3b4048", "xtick.color": "#3b4048", "ytick.color": "#3b4048", "axes.grid": True,
    "grid.color": "#e4e6ea", "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False,
    "svg.fonttype": "none", "figure.dpi": 110, "svg.hashsalt": "distilrt",
}  # fmt: skip
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
    from matplotlib.figure import Figure

    rows = [row for row in findings.rows if row.get("valid", True) or row.get("probes")]
    names = list(dict.fromkeys(map(engine, findings.rows)))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    figures: Figures = {}
    with matplotlib.rc_context(_STYLE):
        for workload in dict.fromkeys(row["workload"] for row in rows):
            curves = {engine(row): _curve(rows, workload, engine(row)) for row in rows if row["workload"] == workload}
            curves = {name: points for name, points in curves.items() if len(points) > 1}
            if curves:
                figures[f"rate-{workload}"] = figure = Figure(figsize=(7.4, 3.9), layout="constrained")
                _rates(figure.subplots(), curves, colours, f"Latency against rate, {workload}", findings.plan["slo"])
        for key, values, title in (
            ("latency", ("p50_ms", "p99_ms"), "Latency of a query, ms: median, and 99th percentile in outline"),
            ("throughput", ("tokens_per_s",), "Throughput, real tokens per second"),
            ("peak-share", ("peak_share",), "Share of the machine's measured peak in the same dtype, %"),
        ):
            shown = [row for row in rows if row.get(values[0])]
            if key != "latency":  # there the schedule, not the engine, says how much is done
                shown = [row for row in shown if row["scenario"] != "server"]
            if shown and not (key == "latency" and shown[0]["scenario"] == "offline"):
                scale = 100.0 if key == "peak-share" else 1.0
                figures[key] = _bars(Figure, shown, values, title, colours, scale)
        # One number of an engine, not of a workload.
        once = list({engine(row): row for row in reversed(findings.rows) if row["start_s"]}.values())[::-1]
        if once:
            figures["start-and-memory"] = _start(Figure, once, colours)
    return figures


def svg(figure: Any) -> str:
    """A figure as an `<svg>` element for a page."""
    text = io.StringIO()
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


def _rates(axes: Any, curves: dict[str, list[Row]], colours: dict[str, str], title: str, slo: str | None) -> None:
    for name, points in curves.items():
        rates = [point["rate"] for point in points]
        axes.plot(rates, [p["p99_ms"] for p in points], "-o", color=colours[name], ms=4.5, lw=1.8, label=f"{name}, p99")
        axes.plot(rates, [p["p50_ms"] for p in points], "--", color=colours[name], lw=1.3, label=f"{name}, p50")
    if slo:
        bound = float(slo.partition("=")[2].removesuffix("ms"))
        axes.axhline(bound, color="#b3261e", lw=1.2)
        axes.annotate(slo, (1, bound), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="#b3261e")
    axes.set(title=title, xlabel="queries per second", ylabel="ms from the intended time", yscale="log")
    axes.set_xlim(left=0)
    _plain(axes.yaxis)
    axes.figure.legend(ncols=3, fontsize=8.5, loc="outside lower left")


def _bars(figure_class: Any, rows: Sequence[Row], values: Sequence[str], title: str, colours: dict[str, str],
          scale: float) -> Any:  # fmt: skip
    """Horizontal bars in groups of a workload; a second value is drawn as the outline of a longer bar."""
    groups = list(dict.fromkeys(_group(row) for row in rows))
    names = list(dict.fromkeys(map(engine, rows)))
    found = {(_group(row), engine(row)): row for row in rows}
    height = 0.5 + 0.26 * len(found) + 0.22 * len(groups) + 0.45
    figure = figure_class(figsize=(7.4, max(1.9, height)), layout="constrained")
    axes = figure.subplots()
    place, ticks = 0.0, []
    longest = max(scale * (row.get(values[-1]) or 0) for row in rows)
    for group in groups:
        first = place
        for name in names:
            row = found.get((group, name))
            if row is None:
                continue
            numbers = [scale * (row.get(value) or 0) for value in values]
            axes.barh(place, numbers[0], 0.8, color=colours[name], label=name)
            if len(numbers) > 1:
                axes.barh(place, numbers[1], 0.8, fill=False, edgecolor=colours[name], lw=1.2)
            words = "  ".join(_short(number) for number in numbers)
            axes.annotate(words, (max(numbers), place), xytext=(5, 0), textcoords="offset points", va="center",
                          fontsize=8.5, color="#3b4048")  # fmt: skip
            place += 1
        ticks.append((first + place - 1) / 2)
        place += 0.7
    axes.set_yticks(ticks, groups)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.18 * longest)
    axes.set_title(title)
    _legend(axes)
    return figure


def _start(figure_class: Any, rows: Sequence[Row], colours: dict[str, str]) -> Any:
    figure = figure_class(figsize=(7.4, max(1.9, 0.9 + 0.3 * len(rows))), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for axes, value, title in zip(both, ("start_s", "peak_mb"), ("Start to first answer, s", "Most memory, MB"),
                                  strict=True):  # fmt: skip
        names, numbers = [engine(row) for row in rows], [row[value] or 0 for row in rows]
        axes.barh(names, numbers, 0.7, color=[colours[name] for name in names])
        for place, number in enumerate(numbers):
            axes.annotate(_short(number), (number, place), xytext=(5, 0), textcoords="offset points", va="center",
                          fontsize=8.5, color="#3b4048")  # fmt: skip
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.25 * max(numbers, default=1) or 1)
    both[0].invert_yaxis()
    return figure


def _group(row: Row) -> str:
    rate = f" {row['rate']:g}/s" if row["rate"] else ""
    return f"{row['workload']}{rate}"


def _legend(axes: Any) -> None:
    """Each name once, below the bars."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.figure.legend(once.values(), once.keys(), ncols=3, fontsize=8.5, loc="outside lower left")


def _plain(axis: Any) -> None:
    """Numbers without exponents on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _short(number: float) -> str:
    """Three digits."""
    if not number:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:,.{digits}f}"

"""The kinds of charts in a report: curves by rate, curves by length or batch, bars, start. Names and numbers in, a
matplotlib figure out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distilrt.bench.findings import Row

# Distinguishable by people who see colours differently (Okabe and Ito), and in grey by their order.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#555555")
STYLE: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 9.5, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3b4048", "xtick.color": "#3b4048", "ytick.color": "#3b4048", "axes.grid": True,
    "grid.color": "#e4e6ea", "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False,
    "svg.fonttype": "none", "figure.dpi": 110, "svg.hashsalt": "distilrt",
}  # fmt: skip
WIDTH = 7.4  # inches
_INK = "#3b4048"

Panels = Mapping[str, Mapping[str, Sequence["tuple[int, float]"]]]  # title to engine to points


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a group; a second number is drawn as the outline of a longer bar."""

    group: str
    name: str
    numbers: Sequence[float]


def rates(curves: Mapping[str, Sequence[Row]], colours: Mapping[str, str], workload: str, slo: str | None) -> Any:
    """Latency against rate, with the bound of an SLO."""
    figure = _figure(3.9)
    axes = figure.subplots()
    for name, points in curves.items():
        at = [point["rate"] for point in points]
        axes.plot(at, [p["p99_ms"] for p in points], "-o", color=colours[name], ms=4.5, lw=1.8, label=name)
        axes.plot(at, [p["p50_ms"] for p in points], "--", color=colours[name], lw=1.3)
    if slo:
        bound = float(slo.partition("=")[2].removesuffix("ms"))
        axes.axhline(bound, color="#b3261e", lw=1.2)
        axes.annotate(slo, (0, bound), xytext=(4, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                      va="bottom", color="#b3261e")  # fmt: skip
    axes.set(title=f"Latency against rate, {workload}: p99, and median dashed", xlabel="queries per second",
             ylabel="ms from the intended time", yscale="log")  # fmt: skip
    axes.set_xlim(left=0)
    _plain(axes.yaxis, (1.0, 2.0, 5.0))
    _legend(figure)
    return figure


def curves(panels: Panels, colours: Mapping[str, str], title: str, along: str) -> Any:
    """Small charts of one scale beside each other, a curve for each engine; `along` is `length` or `batch`."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = _figure(1.1 + 2.3 * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, (name, found) in zip(grid.flat, panels.items(), strict=False):
        for engine, points in found.items():
            axes.plot(*zip(*points, strict=True), "-o", color=colours[engine], ms=4, lw=1.8, label=engine)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({at for points in found.values() for at, _ in points}))
        _plain(axes.xaxis)
        axes.set_title(name, fontsize=9.5, fontweight="normal", pad=4)
        axes.set_xlabel("tokens of a text" if along == "length" else "texts of a batch")
    grid.flat[0].set_ylim(bottom=0)  # of all, and only once they have their points
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    _legend(figure)
    return figure


def bars(found: Sequence[Bar], title: str, colours: Mapping[str, str]) -> Any:
    """Horizontal bars in groups, in the order in which they come."""
    groups = list(dict.fromkeys(bar.group for bar in found))
    figure = _figure(max(1.9, 0.95 + 0.26 * len(found) + 0.22 * len(groups)))
    axes = figure.subplots()
    place, ticks = 0.0, []
    for group in groups:
        first = place
        for bar in (bar for bar in found if bar.group == group):
            axes.barh(place, bar.numbers[0], 0.8, color=colours[bar.name], label=bar.name)
            for number in bar.numbers[1:]:
                axes.barh(place, number, 0.8, fill=False, edgecolor=colours[bar.name], lw=1.2)
            _value(axes, max(bar.numbers), place, "  ".join(map(_short, bar.numbers)))
            place += 1
        ticks.append((first + place - 1) / 2)
        place += 0.7
    axes.set_yticks(ticks, groups)
    axes.invert_yaxis()
    _sideways(axes, 1.18 * max(max(bar.numbers) for bar in found), title)
    _legend(figure)
    return figure


def start(found: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> Any:
    """Seconds to the first answer and megabytes of each engine."""
    figure = _figure(max(1.9, 0.9 + 0.3 * len(found)))
    both = figure.subplots(1, 2, sharey=True)
    for part, (axes, title) in enumerate(zip(both, ("Start to first answer, s", "Most memory, MB"), strict=True)):
        numbers = [each[part] for each in found.values()]
        axes.barh(list(found), numbers, 0.7, color=[colours[name] for name in found])
        for place, number in enumerate(numbers):
            _value(axes, number, place, _short(number))
        _sideways(axes, 1.25 * max(numbers), title)
    both[0].invert_yaxis()
    return figure


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _value(axes: Any, at: float, place: float, words: str) -> None:
    axes.annotate(words, (at, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5, color=_INK)


def _sideways(axes: Any, longest: float, title: str) -> None:
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, longest or 1)
    axes.set_title(title)


def _legend(figure: Any) -> None:
    """Each name once, below."""
    once: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            once.setdefault(label, handle)
    figure.legend(once.values(), once.keys(), ncols=4, fontsize=8.5, loc="outside lower left")


def _plain(axis: Any, steps: Sequence[float] = ()) -> None:
    """Numbers without exponents on a logarithmic axis; ticks at `steps` of each decade where they are not set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    if steps:
        axis.set_major_locator(LogLocator(subs=steps))
    else:
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _short(number: float) -> str:
    """Three digits."""
    if not number:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:,.{digits}f}"

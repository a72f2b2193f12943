"""The two kinds of charts in a report, bars and curves, drawn as SVG without any library, or as PNG by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

# Distinguishable by people who see colours differently (Okabe and Ito), and in grey by their order.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#555555")
WIDTH, LEFT, BAR, LEGEND = 760, 120, 20, 18  # pixels; the left margin holds the names of groups
PANEL, BOTTOM = 240, 46  # pixels of the height of a panel, and below its axis
_INK, _LINE, _BOUND = "#3b4048", "#e4e6ea", "#b3261e"


@dataclass(frozen=True, slots=True)
class ChartBar:
    """One bar of a group; a second number is drawn as the outline of a longer bar."""

    group: str
    name: str
    numbers: Sequence[float]


@dataclass(frozen=True, slots=True)
class Bars:
    """Horizontal bars in groups, in the order in which they come."""

    title: str
    bars: Sequence[ChartBar]

    @property
    def names(self) -> list[str]:
        """The names of what is measured, each once."""
        return list(dict.fromkeys(bar.name for bar in self.bars))


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one engine by their `x`."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Curves:
    """Panels of one scale beside each other, by title; `bound` is a horizontal line with its name."""

    title: str
    x: str
    panels: Mapping[str, Sequence[Curve]]
    log: bool = False
    bound: tuple[float, str] | None = None

    @property
    def names(self) -> list[str]:
        """The names of what is measured, each once."""
        return list(dict.fromkeys(curve.name for curves in self.panels.values() for curve in curves))


Chart = Bars | Curves


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, the same in all charts of a report."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def short(number: float) -> str:
    """Three digits."""
    if not number:
        return "0"
    return f"{number:,.{max(0, 2 - math.floor(math.log10(abs(number))))}f}"


def svg(chart: Chart, colour: Mapping[str, str]) -> str:
    """An `<svg>` element for a page."""
    body, height = _bars(chart, colour) if isinstance(chart, Bars) else _curves(chart, colour)
    parts = [_text(0, 16, chart.title, bold=True), *body]
    for i, name in enumerate(chart.names):
        x, y = WIDTH * (i % 3) / 3, height + 8 + LEGEND * (i // 3)
        parts += [_rect(x, y, 10, 10, colour[name]), _text(x + 15, y + 9, name)]
    height += 8 + LEGEND * -(-len(chart.names) // 3)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
            f'font-size="12" fill="{_INK}">{"".join(parts)}</svg>')  # fmt: skip


def _bars(chart: Bars, colour: Mapping[str, str]) -> tuple[list[str], float]:
    parts, y, group = list[str](), 30.0, None
    scale = (WIDTH - LEFT - 110) / (max(max(bar.numbers) for bar in chart.bars) or 1)
    for bar in chart.bars:
        if bar.group != group:
            y += 8 * (group is not None)
            group = bar.group
            parts.append(_text(LEFT - 8, y + 13, group, anchor="end"))
        parts.append(_rect(LEFT, y, scale * bar.numbers[0], BAR - 4, colour[bar.name]))
        parts += [f'<rect x="{LEFT}" y="{y:.1f}" width="{scale * number:.1f}" height="{BAR - 4}" fill="none" '
                  f'stroke="{colour[bar.name]}"/>' for number in bar.numbers[1:]]  # fmt: skip
        parts.append(_text(LEFT + scale * max(bar.numbers) + 6, y + 13, "  ".join(map(short, bar.numbers))))
        y += BAR
    return parts, y


def _curves(chart: Curves, colour: Mapping[str, str]) -> tuple[list[str], float]:
    parts = list[str]()
    columns = min(3, len(chart.panels)) if len(chart.panels) != 4 else 2
    values = [y for curves in chart.panels.values() for curve in curves for _, y in curve.points]
    values += [chart.bound[0]] if chart.bound else []
    low, high = (min(values) / 1.3, max(values) * 1.3) if chart.log else (0.0, 1.08 * max(values))
    for i, (title, curves) in enumerate(chart.panels.items()):
        left, top = WIDTH * (i % columns) / columns + 52, 44 + PANEL * (i // columns)
        width, height = WIDTH / columns - 62, PANEL - BOTTOM - 20
        ticks = sorted({x for curve in curves for x, _ in curve.points})

        def across(x: float, left: float = left, width: float = width, ticks: list[float] = ticks) -> float:
            return left + width * (_share(x, ticks[0], ticks[-1], True) if len(ticks) > 1 else 0.5)

        def down(y: float, top: float = top, height: float = height) -> float:
            return top + height * (1 - _share(y, low, high, chart.log))

        parts += [_text(left, top - 6, title), _text(left, top + height + 34, chart.x)]
        for tick in _ticks(low, high, chart.log):
            parts += [_line([(left, down(tick)), (left + width, down(tick))], _LINE),
                      _text(left - 5, down(tick) + 4, short(tick), anchor="end")]  # fmt: skip
        parts += [_text(across(tick), top + height + 17, f"{tick:g}", anchor="middle") for tick in ticks]
        for curve in curves:
            points = [(across(x), down(y)) for x, y in curve.points]
            parts.append(_line(points, colour[curve.name], 2, dashed=curve.dashed))
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour[curve.name]}"/>'
                      for x, y in points if not curve.dashed]  # fmt: skip
        if chart.bound:
            at = down(chart.bound[0])
            parts += [_line([(left, at), (left + width, at)], _BOUND), _text(left + 4, at - 4, chart.bound[1])]
    return parts, 44.0 + PANEL * -(-len(chart.panels) // columns)


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log and low > 0:
        value, low, high = (math.log(each) for each in (value, low, high))
    return (value - low) / ((high - low) or 1)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    rough = (high or 1) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(each * unit for each in (1, 2, 5, 10) if each * unit >= rough)
    return [step * i for i in range(int(high / step) + 1)]


def _text(x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _line(points: Sequence[tuple[float, float]], colour: str, width: int = 1, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 3"' if dashed else ""
    at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def png(chart: Chart, colour: Mapping[str, str], path: Path) -> None:
    """Write a chart with matplotlib."""
    from matplotlib.figure import Figure

    if isinstance(chart, Bars):
        figure: Any = Figure(figsize=(7.4, max(1.9, 1 + 0.3 * len(chart.bars))), layout="constrained")
        axes = figure.subplots()
        for place, bar in enumerate(chart.bars):
            axes.barh(place, bar.numbers[0], color=colour[bar.name], label=bar.name)
            for number in bar.numbers[1:]:
                axes.barh(place, number, fill=False, edgecolor=colour[bar.name])
            axes.annotate("  ".join(map(short, bar.numbers)), (max(bar.numbers), place), va="center")
        axes.set_yticks(range(len(chart.bars)), [bar.group for bar in chart.bars])
        axes.invert_yaxis()
    else:
        figure = Figure(figsize=(7.4, 3.9), layout="constrained")
        grid = figure.subplots(1, len(chart.panels), sharey=True, squeeze=False)[0]
        for axes, (title, curves) in zip(grid, chart.panels.items(), strict=True):
            for curve in curves:
                axes.plot(*zip(*curve.points, strict=True), "--" if curve.dashed else "-o", color=colour[curve.name],
                          label=None if curve.dashed else curve.name)  # fmt: skip
            axes.set(title=title, xlabel=chart.x, xscale="log", yscale="log" if chart.log else "linear")
            if chart.bound:
                axes.axhline(chart.bound[0], color=_BOUND)
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(),
                                                                              strict=True)}  # fmt: skip
    figure.suptitle(chart.title, x=0.01, ha="left", fontweight="bold")
    figure.legend(handles.values(), handles.keys(), ncols=3, frameon=False, loc="outside lower left")
    figure.savefig(path, dpi=160, facecolor="white")

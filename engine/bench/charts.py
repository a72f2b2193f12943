"""The two kinds of charts in a report, bars and curves: Vega-Lite documents, which vl-convert draws as SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

# Distinguishable by people who see colours differently (Okabe and Ito), and in grey by their order.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#555555")
WIDTH, PANEL = 520, 200  # pixels of the plot of bars, and of each side of a panel of curves
INK, BOUND = "#3b4048", "#b3261e"
Chart = dict[str, Any]


class Bar(NamedTuple):
    """One bar of a group; a second, larger number is drawn as the outline of a longer bar."""

    group: str
    name: str
    numbers: Sequence[float]


class Point(NamedTuple):
    """A point of an engine's curve in a panel."""

    panel: str
    name: str
    x: float
    y: float
    dashed: bool = False


def short(number: float) -> str:
    """Three digits."""
    if not number:
        return "0"
    return f"{number:,.{max(0, 2 - math.floor(math.log10(abs(number))))}f}"


def bars(title: str, found: Sequence[Bar], names: Sequence[str]) -> Chart:
    """Horizontal bars in groups, both in the order in which they come; `names` are all engines of the report."""
    values = [{"group": bar.group, "name": bar.name, "number": bar.numbers[0], "most": max(bar.numbers),
               "words": "  ".join(map(short, bar.numbers))} for bar in found]  # fmt: skip
    most = {"x": {"field": "most", "type": "quantitative", "stack": None, "title": None}}
    return _chart(title, values) | {
        "width": WIDTH,
        "encoding": {
            "y": {"field": "group", "type": "nominal", "sort": None, "title": None},
            "yOffset": {"field": "name", "type": "nominal", "sort": list(names)},
            "color": _colour(names),
        },
        "layer": [
            {"mark": "bar", "encoding": {"x": most["x"] | {"field": "number"}}},
            {"mark": {"type": "bar", "filled": False}, "encoding": most},
            {"mark": {"type": "text", "align": "left", "dx": 4, "color": INK},
             "encoding": most | {"text": {"field": "words"}, "color": {"value": INK}}},
        ],
    }  # fmt: skip


def curves(
    title: str, x: str, found: Sequence[Point], names: Sequence[str], *,
    log: bool = False, bound: tuple[float, str] | None = None,
) -> Chart:  # fmt: skip
    """Panels of one scale beside each other; `bound` is a horizontal line with its name."""
    values = [point._asdict() for point in found]
    layer: list[Chart] = [{
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "scale": {"type": "log", "nice": False}, "title": x,
                  "axis": {"values": sorted({point.x for point in found}), "format": "~g"}},
            "y": {"field": "y", "type": "quantitative", "scale": {"type": "log" if log else "linear"}, "title": None},
            "color": _colour(names),
            "strokeDash": {"field": "dashed", "type": "nominal", "legend": None,
                           "scale": {"domain": [False, True], "range": [[1, 0], [5, 3]]}},
        },
    }]  # fmt: skip
    if bound is not None:
        layer += [
            {"mark": {"type": "rule", "color": BOUND}, "encoding": {"y": {"datum": bound[0]}}},
            {"mark": {"type": "text", "align": "left", "dy": -6, "color": BOUND, "text": bound[1]},
             "encoding": {"y": {"datum": bound[0]}, "x": {"value": 4}}},
        ]  # fmt: skip
    panels = {"field": "panel", "type": "nominal", "sort": None, "title": None}
    spec = {"layer": layer, "width": PANEL if len({point.panel for point in found}) > 1 else WIDTH, "height": PANEL}
    return _chart(title, values) | {"facet": panels, "columns": 3, "spec": spec}


def svg(chart: Chart) -> str:
    """An `<svg>` element for a page."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart))


def png(chart: Chart) -> bytes:
    """The content of a PNG file."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(chart, scale=2))


def available() -> bool:
    """Whether what draws is installed."""
    return find_spec("vl_convert") is not None


def _chart(title: str, values: Sequence[Chart]) -> Chart:
    return {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "data": {"values": list(values)},
            "title": {"text": title, "anchor": "start"}, "config": {"view": {"stroke": None}}}  # fmt: skip


def _colour(names: Sequence[str]) -> Chart:
    """A colour for each engine, the same in all charts of a report."""
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    return {"field": "name", "type": "nominal", "title": None,
            "scale": {"domain": list(names), "range": colours},
            "legend": {"orient": "bottom", "columns": 2, "labelLimit": 300}}  # fmt: skip

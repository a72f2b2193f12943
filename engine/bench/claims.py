"""The tables of speed in README and docs, made of committed rows: nobody types a figure.

A table stands between two comments, `<!-- claims: NAME -->` and `<!-- end of claims -->`; what is between them is this
module's. Only the last run of each file of rows is shown, or of each machine or model in it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill

from distilrt.bench.peers import OURS
from distilrt.errors import InvalidParameter
from distilrt.model.architecture import expected_shapes
from distilrt.model.config import DistilBertConfig

_Row = dict[str, str]
_Table = tuple[Sequence[str], list[Sequence[str]]]  # heads, and a line's cells
PAGES = (Path("README.md"), Path("docs/benchmarks.md"))
_BLOCK = re.compile(r"(<!-- claims: ([a-z]+) -->\n).*?(<!-- end of claims -->)", re.S)
_RUN = ("date", "commit", "cpu", "threads", "load")  # the same for all rows of a run
WORKLOADS = ("1x16", "1x128", "8x128", "mixed")
DTYPES = ("float32", "bfloat16", "int8")
BERT_LAYERS = 12
# Shares of the machine's measured peak arithmetic or memory read that the engine aims at with every row computed.
AIMS = {
    ("8x128", "peak_share"): {"float32": 0.93, "bfloat16": 0.90, "int8": 0.85},
    ("1x128", "peak_share"): {"int8": 0.82},
    ("1x16", "read_share"): dict.fromkeys(DTYPES, 0.80),
}
MIXED_WITHIN = 0.05  # of 8x128's real tokens a second, for mixed lengths
ENGINE = " engine"  # after a server's name: its engine alone


def render(page: str, results: Path) -> str:
    """`page` with every table made anew from the files in `results`.

    Raises:
        InvalidParameter: a table of an unknown name, or a page without tables.
    """
    if not _BLOCK.search(page):
        raise InvalidParameter("the page has no <!-- claims: NAME --> … <!-- end of claims -->")

    def made(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise InvalidParameter(f"tables of claims are {', '.join(TABLES)}; found {match[2]!r}")
        file, table, apart = TABLES[match[2]]
        shown = [_shown(*table(rows), rows[-1]) for rows in _last_runs(results / file, apart)]
        whole = "\n\n".join(filter(None, shown)) or f"Not measured yet: `benches/results/{file}` has no such rows."
        return f"{match[1]}{whole}\n{match[3]}"

    return _BLOCK.sub(made, page)


def _shown(heads: Sequence[str], lines: list[Sequence[str]], row: _Row) -> str:
    """A table in Markdown, and where it was measured; nothing of a table without lines."""
    model, isa = f"{row['model']}, " if row.get("model") else "", f" ({row['isa']})" if row.get("isa") else ""
    where = f"{model}{row['cpu']}{isa}, {row['threads']} threads, {row['date']}, commit {row['commit']}."
    table = [f"| {' | '.join(cells)} |" for cells in (heads, *lines)]
    table.insert(1, f"|{'---|' * len(heads)}")
    return "\n".join([*table, "", fill(where, 120)]) if lines else ""


def _last_runs(file: Path, apart: Sequence[str]) -> list[list[_Row]]:
    """Rows of the last run, or where `apart` names columns, of the last run of each machine or model."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        found = _by(list(csv.DictReader(lines)), *apart)
    return [
        [row for row in rows if all(row.get(name) == rows[-1].get(name) for name in _RUN)] for rows in found.values()
    ]


def _by(rows: Sequence[_Row], *names: str) -> dict[tuple[str, ...], list[_Row]]:
    """Rows by some of their columns, in the order in which they come."""
    found: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) or "" for name in names), []).append(row)
    return found


def _cpu(rows: Sequence[_Row]) -> _Table:
    """Times of one shape and rates of mixed lengths, each beside the best form of the best peer."""
    lines: list[Sequence[str]] = []
    for dtype in DTYPES:
        for workload in WORKLOADS:
            found = [row for row in rows if (row["workload"], row["dtype"]) == (workload, dtype) and _figure(row)]
            ours = {row["form"]: row for row in found if row["target"] == OURS}
            others = [row for row in found if row["target"] != OURS]
            if not {"all-rows", "first-rows"} <= set(ours) or not others:
                continue
            best = max(others, key=_speed)
            ratios = [_speed(ours[form]) / _speed(best) for form in ("all-rows", "first-rows")]
            lines.append((workload, dtype, _figure(ours["all-rows"]), _figure(ours["first-rows"]),
                          f"{best['target']} {best['form']} {_figure(best)}",
                          f"{ratios[0]:.2f} / {ratios[1]:.2f}"))  # fmt: skip
    return ("tokens", "dtype", "distilrt, all rows", "distilrt as it runs", "best peer and its form",
            "all rows / as it runs, times faster"), lines  # fmt: skip


def _speed(row: _Row) -> float:
    """Real tokens a second of mixed lengths, batches a second of one shape."""
    return float(row["tokens_per_s"]) if row["scenario"] == "offline" else 1e3 / float(row["p50_ms"])


def _figure(row: _Row) -> str:
    """As a table shows it; empty: no claim is made of such a row."""
    if row["scenario"] == "offline":
        return f"{_speed(row):,.0f} tok/s"
    return f"{_ms(row)} ms" if row["scenario"] == "multi" else ""


def _aims(rows: Sequence[_Row]) -> _Table:
    """Shares of what the machine can do, each beside its aim, and the best peer's; a missed aim is in italics."""
    lines: list[Sequence[str]] = []
    for (dtype,), of_it in _by(rows, "dtype").items():
        ours = {row["workload"]: row for row in of_it if (row["target"], row["form"]) == (OURS, "all-rows")}
        if not {"mixed", *(workload for workload, _ in AIMS)} <= set(ours):
            continue
        peak = ours["8x128"]["peak_gflops"]
        others = [float(row["peak_share"]) for row in of_it
                  if row["workload"] == "8x128" and row["target"] != OURS and row["peak_share"]]  # fmt: skip
        mixed = float(ours["mixed"]["tokens_per_s"]) / float(ours["8x128"]["tokens_per_s"]) - 1
        lines.append((dtype, f"{peak} GFLOP/s" if peak else "not measured",
                      *(_beside_aim(ours[workload][share], aims.get(dtype))
                        for (workload, share), aims in AIMS.items()),
                      _beside_aim(mixed, -MIXED_WITHIN, "+.0%"), f"{max(others):.0%}" if others else ""))  # fmt: skip
    words = {"peak_share": "of the peak", "read_share": "of memory read"}
    return ("dtype", "peak", *(f"{workload}, {words[share]}" for workload, share in AIMS),
            "mixed, tokens a second beside 8x128", "best peer at 8x128, of the peak"), lines  # fmt: skip


def _beside_aim(value: float | str, aim: float | None, form: str = ".0%") -> str:
    if value == "":
        return "not measured"
    shown = f"{float(value):{form}}" + (f" (aim {aim:{form}})" if aim is not None else "")
    return f"*{shown}*" if aim is not None and float(value) < aim else shown


def _trained(rows: Sequence[_Row]) -> _Table:
    """Errors of an engine's dtypes on trained weights beside the rates of its best form, a line for each."""
    lines: list[Sequence[str]] = []
    for (dtype, target), of_it in _by(rows, "dtype", "target").items():
        row = max((row for row in of_it if row["form"] != "all-rows"), key=_speed)
        lines.append((f"{target} {row['form']}", dtype, f"{_speed(row):,.0f}", f"{float(row['mean_difference']):.1e}",
                      f"{float(row['max_difference']):.1e}", f"{float(row['cosine']):.5f}"))  # fmt: skip
    return ("engine and its form", "dtype", "tok/s", "mean error", "largest error", "cosine"), lines


def _contended(rows: Sequence[_Row]) -> _Table:
    """Median and 99th percentile alone and beside busy processes, of each engine's form that is best alone."""
    counts = sorted({int(row["busy"]) for row in rows})
    lines: list[Sequence[str]] = []
    for (workload, dtype, target), of_it in _by(rows, "workload", "dtype", "target").items():
        best = min((row for row in of_it if row["busy"] == "0"), key=lambda row: float(row["p50_ms"]))
        found = [row for row in of_it if row["form"] == best["form"]]
        times = [f"{_ms(row)} / {_short(float(row['p99_ms']))}" for row in found]
        ratios = [f"{float(row['p50_ms']) / float(best['p50_ms']):.2f}" for row in found[1:]]
        lines.append((workload, dtype, f"{target} {best['form']}", *times, ", ".join(ratios)))
    beside = [f"p50 / p99 ms beside {count or 'none'}" for count in counts]
    return ("tokens", "dtype", "engine and its form", *beside, "p50, times that alone"), lines


def _distillation(rows: Sequence[_Row]) -> _Table:
    """Times of both models on this engine, and their sizes."""
    lines: list[Sequence[str]] = []
    for (workload, dtype), both in _by(rows, "workload", "dtype").items():
        by_title = {row["target"]: float(row["p50_ms"]) for row in both}
        ours, theirs = by_title["DistilBERT"], by_title["BERT-base"]
        lines.append((workload, dtype, f"{_short(ours)} ms", f"{_short(theirs)} ms", f"{theirs / ours - 1:+.0%}"))
    sizes = parameters(DistilBertConfig())
    lines.append(("parameters", "", *(f"{size / 1e6:.1f} M" for size in sizes), f"{sizes[0] / sizes[1] - 1:+.0%}"))
    return ("tokens", "dtype", "DistilBERT", "BERT-base", "faster"), lines


def parameters(config: DistilBertConfig) -> tuple[int, int]:
    """Parameters of DistilBERT and of BERT with twice the layers, without heads.

    BERT's segment embeddings and pooler, which this engine folds in or leaves out, count: they are in its checkpoint.
    """
    sizes = []
    for layers in (config.num_layers, BERT_LAYERS):
        shapes = expected_shapes(config.replace(n_layers=layers), "DistilBertModel").values()
        sizes.append(sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes))
    hidden = config.hidden_size
    return sizes[0], sizes[1] + 2 * hidden + hidden * hidden + hidden


def _serving(rows: Sequence[_Row]) -> _Table:
    """What a client of each server sees; of distilrt's also beside its engine alone, where that was measured."""
    measured = {
        name: {(row["scenario"], row["workload"]): row for row in found}
        for (name,), found in _by(rows, "target").items()
    }
    lines: list[Sequence[str]] = []
    for name, found in measured.items():
        peak = found.get(("peak", "mixed"))
        if peak is None:
            continue
        alone = [float(found["single", f"1x{size}"]["p50_ms"]) for size in (16, 128)]
        rate, tokens = float(peak["rate"]), float(peak["saturated_tokens_per_s"])
        engine, over, share = measured.get(name + ENGINE), "–", "–"
        if engine is not None:
            over = " / ".join(f"{ms - float(engine['single', f'1x{size}']['p50_ms']):.2f}"
                              for size, ms in zip((16, 128), alone, strict=True))  # fmt: skip
            share = f"{tokens / float(engine['offline', 'mixed']['tokens_per_s']):.0%}"
        lines.append((f"{name} {peak['dtype']}", " / ".join(map(_short, alone)), f"{rate:.0f}" if rate else "none held",
                      f"{float(peak['saturated_per_s']):.0f}, {tokens:,.0f}", f"{float(peak['start_s']):.1f}",
                      f"{float(peak['peak_mb']):.0f}", over, share))  # fmt: skip
    return ("server", "16 / 128 tokens alone, p50 ms", "highest rate with p99 ≤ 250 ms, req/s",
            "saturated, req/s, real tok/s", "start s", "RSS MB", "over its engine alone, ms",
            "saturated, of offline"), lines  # fmt: skip


def _startup(rows: Sequence[_Row]) -> _Table:
    """Seconds and memory of a fresh process, an engine a line."""
    lines: list[Sequence[str]] = []
    for (target,), of_it in _by(rows, "target").items():
        found = {row["dtype"]: f"{float(row['start_s']):.2f} / {float(row['peak_mb']):.0f}" for row in of_it}
        lines.append((target, *(found.get(dtype, "") for dtype in DTYPES)))
    return ("engine", *(f"{dtype}, s / MB" for dtype in DTYPES)), lines


def _ms(row: _Row) -> str:
    return _short(float(row["p50_ms"]))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


# Of each table its file, what makes it, and the columns that tell apart the machines or models of which each has one.
TABLES: dict[str, tuple[str, Callable[[Sequence[_Row]], _Table], tuple[str, ...]]] = {
    "cpu": ("cpu.csv", _cpu, ("isa",)),
    "aims": ("cpu.csv", _aims, ("isa",)),
    "contended": ("contended.csv", _contended, ()),
    "distillation": ("distillation.csv", _distillation, ()),
    "replicas": ("replicas.csv", _serving, ()),
    "serving": ("serving.csv", _serving, ("isa",)),
    "startup": ("startup.csv", _startup, ()),
    "trained": ("trained.csv", _trained, ("model",)),
}

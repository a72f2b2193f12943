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
        found = [table(rows) for rows in _last_runs(results / file, apart)]
        shown = "\n\n".join(filter(None, found)) or f"Not measured yet: `benches/results/{file}` has no such rows."
        return f"{match[1]}{shown}\n{match[3]}"

    return _BLOCK.sub(made, page)


def _last_runs(file: Path, apart: Sequence[str]) -> list[list[_Row]]:
    """Rows of the last run, or where `apart` names columns, of the last run of each machine or model."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        found = _by(list(csv.DictReader(lines)), *apart)
    return [
        [row for row in rows if all(row.get(name) == rows[-1].get(name) for name in _RUN)] for rows in found.values()
    ]


def _cpu(rows: Sequence[_Row]) -> str:
    """Times of one shape and rates of mixed lengths, each beside the best form of the best peer."""
    names = ("tokens", "dtype", "distilrt, all rows", "distilrt as it runs", "best peer and its form",
             "all rows / as it runs, times faster")  # fmt: skip
    lines = _heads(names)
    for dtype in DTYPES:
        for workload in WORKLOADS:
            found = [row for row in rows if (row["workload"], row["dtype"]) == (workload, dtype) and _figure(row)]
            ours = {row["form"]: row for row in found if row["target"] == OURS}
            others = [row for row in found if row["target"] != OURS]
            if not {"all-rows", "first-rows"} <= set(ours) or not others:
                continue
            best = max(others, key=_speed)
            ratios = [_speed(ours[form]) / _speed(best) for form in ("all-rows", "first-rows")]
            times = f"{_figure(ours['all-rows'])} | {_figure(ours['first-rows'])}"
            lines.append(f"| {workload} | {dtype} | {times} | {best['target']} {best['form']} {_figure(best)} "
                         f"| {ratios[0]:.2f} / {ratios[1]:.2f} |")  # fmt: skip
    return "\n".join([*lines, "", fill(f"{_where(rows)}{_shares(rows)}", 120)])


def _speed(row: _Row) -> float:
    """Real tokens a second of mixed lengths, batches a second of one shape."""
    return float(row["tokens_per_s"]) if row["scenario"] == "offline" else 1e3 / float(row["p50_ms"])


def _figure(row: _Row) -> str:
    """As a table shows it; empty: no claim is made of such a row."""
    if row["scenario"] == "offline":
        return f"{_speed(row):,.0f} tok/s"
    return f"{_ms(row)} ms" if row["scenario"] == "multi" else ""


def _shares(rows: Sequence[_Row]) -> str:
    """Shares of the peak of the largest fixed shape."""
    ours, peers, peaks = [], [], []
    for dtype in DTYPES:
        found = [row for row in rows if (row["workload"], row["dtype"]) == ("8x128", dtype) and row["peak_share"]]
        mine = [row for row in found if (row["target"], row["form"]) == (OURS, "all-rows")]
        others = [float(row["peak_share"]) for row in found if row["target"] != OURS]
        if not mine or not others:
            return ""
        ours.append(f"{float(mine[0]['peak_share']):.0%}")
        peers.append(f"{max(others):.0%}")
        peaks.append(mine[0]["peak_gflops"])
    return (f" Peaks measured in the run: {_and(peaks)} GFLOP/s ({_and(list(DTYPES))}); with all rows distilrt reaches "
            f"{_and(ours)} of them at 8x128, the best peer {_and(peers)}.")  # fmt: skip


def _aims(rows: Sequence[_Row]) -> str:
    """Shares of what the machine can do, each beside its aim; a missed one is in italics."""
    heads = ["of the peak" if share == "peak_share" else "of memory read" for _, share in AIMS]
    lines = _heads(("dtype", *(f"{workload}, {head}" for (workload, _), head in zip(AIMS, heads, strict=True)),
                    "mixed, tokens a second beside 8x128"))  # fmt: skip
    for dtype in DTYPES:
        ours = {row["workload"]: row for row in rows
                if (row["target"], row["form"], row["dtype"]) == (OURS, "all-rows", dtype)}  # fmt: skip
        if not {"mixed", *(workload for workload, _ in AIMS)} <= set(ours):
            continue
        cells = [_beside_aim(float(ours[workload][share] or "nan"), aims.get(dtype))
                 for (workload, share), aims in AIMS.items()]  # fmt: skip
        mixed = float(ours["mixed"]["tokens_per_s"]) / float(ours["8x128"]["tokens_per_s"]) - 1
        cells.append(_beside_aim(mixed, -MIXED_WITHIN, "+.0%"))
        lines.append(f"| {dtype} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _where(rows)]) if len(lines) > 2 else ""


def _beside_aim(value: float, aim: float | None, form: str = ".0%") -> str:
    if value != value:
        return "not measured"
    shown = f"{value:{form}}" + (f" (aim {aim:{form}})" if aim is not None else "")
    return f"*{shown}*" if aim is not None and value < aim else shown


def _trained(rows: Sequence[_Row]) -> str:
    """Errors of an engine's dtypes on trained weights beside the rates of its best form, a line for each."""
    lines = _heads(("engine and its form", "dtype", "tok/s", "mean error", "largest error", "cosine"))
    for (dtype, target), of_it in _by(rows, "dtype", "target").items():
        row = max((row for row in of_it if row["form"] != "all-rows"), key=_speed)
        lines.append(f"| {target} {row['form']} | {dtype} | {_speed(row):,.0f} | {float(row['mean_difference']):.1e} "
                     f"| {float(row['max_difference']):.1e} | {float(row['cosine']):.5f} |")  # fmt: skip
    return "\n".join([*lines, "", _where(rows)])


def _contended(rows: Sequence[_Row]) -> str:
    """Median and 99th percentile alone and beside busy processes, of each engine's form that is best alone."""
    counts = sorted({int(row["busy"]) for row in rows})
    beside = [f"p50 / p99 ms beside {count or 'none'}" for count in counts]
    lines = _heads(("tokens", "dtype", "engine and its form", *beside, "p50, times that alone"))
    for (workload, dtype, target), of_it in _by(rows, "workload", "dtype", "target").items():
        best = min((row for row in of_it if row["busy"] == "0"), key=lambda row: float(row["p50_ms"]))
        found = [row for row in of_it if row["form"] == best["form"]]
        times = [f"{_ms(row)} / {_short(float(row['p99_ms']))}" for row in found]
        ratios = [f"{float(row['p50_ms']) / float(best['p50_ms']):.2f}" for row in found[1:]]
        lines.append(f"| {workload} | {dtype} | {target} {best['form']} | {' | '.join(times)} | {', '.join(ratios)} |")
    return "\n".join([*lines, "", _where(rows)])


def _distillation(rows: Sequence[_Row]) -> str:
    """Both models on this engine."""
    ours, theirs = parameters(DistilBertConfig())
    lines = _heads(("tokens", "dtype", "DistilBERT ms", "BERT-base ms", "faster"))
    for (workload, dtype), both in _by(rows, "workload", "dtype").items():
        times = [float(row["p50_ms"]) for title in ("DistilBERT", "BERT-base") for row in both
                 if row["target"] == title]  # fmt: skip
        lines.append(f"| {workload} | {dtype} | {_short(times[0])} | {_short(times[1])} "
                     f"| {times[1] / times[0] - 1:+.0%} |")  # fmt: skip
    sizes = f"{ours / 1e6:.1f} M parameters instead of {theirs / 1e6:.1f} M: {ours / theirs - 1:+.0%}."
    return "\n".join([*lines, "", fill(f"{_where(rows)} {sizes}", 120)])


def _serving(rows: Sequence[_Row]) -> str:
    """What a client of each server sees; of distilrt's also beside its engine alone, where that was measured."""
    names = ["server", "16 / 128 tokens alone, p50 ms", "highest rate with p99 ≤ 250 ms, req/s",
             "saturated, req/s, real tok/s", "start s", "RSS MB"]  # fmt: skip
    measured = {
        name: {(row["scenario"], row["workload"]): row for row in found}
        for (name,), found in _by(rows, "target").items()
    }
    beside = any(name.endswith(ENGINE) for name in measured)
    lines = _heads([*names, "over its engine alone, ms", "saturated, of offline"] if beside else names)
    for name, found in measured.items():
        peak = found.get(("peak", "mixed"))
        if peak is None:
            continue
        alone = [float(found["single", f"1x{size}"]["p50_ms"]) for size in (16, 128)]
        rate, tokens = float(peak["rate"]), float(peak["saturated_tokens_per_s"])
        line = (f"| {name} {peak['dtype']} | {_short(alone[0])} / {_short(alone[1])} "
                f"| {f'{rate:.0f}' if rate else 'none held'} | {float(peak['saturated_per_s']):.0f}, {tokens:,.0f} "
                f"| {float(peak['start_s']):.1f} | {float(peak['peak_mb']):.0f} |")  # fmt: skip
        engine = measured.get(name + ENGINE)
        if engine is not None:
            over = [ms - float(engine["single", f"1x{size}"]["p50_ms"])
                    for size, ms in zip((16, 128), alone, strict=True)]  # fmt: skip
            share = tokens / float(engine["offline", "mixed"]["tokens_per_s"])
            line += f" {over[0]:.2f} / {over[1]:.2f} | {share:.0%} |"
        elif beside:
            line += " – | – |"
        lines.append(line)
    return "\n".join([*lines, "", _where(rows)])


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


def _by(rows: Sequence[_Row], *names: str) -> dict[tuple[str, ...], list[_Row]]:
    """Rows by some of their columns, in the order in which they come."""
    found: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) or "" for name in names), []).append(row)
    return found


def _startup(rows: Sequence[_Row]) -> str:
    """Seconds and memory of a fresh process, an engine a line."""
    lines = _heads(("engine", *(f"{dtype}, s / MB" for dtype in DTYPES)))
    for (target,), of_it in _by(rows, "target").items():
        found = {row["dtype"]: f"{float(row['start_s']):.2f} / {float(row['peak_mb']):.0f}" for row in of_it}
        lines.append(f"| {target} | {' | '.join(found.get(dtype, '') for dtype in DTYPES)} |")
    return "\n".join([*lines, "", _where(rows)])


def _heads(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]


def _where(rows: Sequence[_Row]) -> str:
    row = rows[-1]
    named = f"{row['cpu']} ({row['isa']})" if row.get("isa") else row["cpu"]
    model = f"{row['model']}, " if row.get("model") else ""
    return f"{model}{named}, {row['threads']} threads, {row['date']}, commit {row['commit']}."


def _ms(row: _Row) -> str:
    return _short(float(row["p50_ms"]))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


# Of each table its file, its text, and the columns that tell apart the machines or models of which each has one.
TABLES: dict[str, tuple[str, Callable[[Sequence[_Row]], str], tuple[str, ...]]] = {
    "cpu": ("cpu.csv", _cpu, ("isa",)),
    "aims": ("cpu.csv", _aims, ("isa",)),
    "contended": ("contended.csv", _contended, ()),
    "distillation": ("distillation.csv", _distillation, ()),
    "serving": ("serving.csv", _serving, ()),
    "startup": ("startup.csv", _startup, ()),
    "trained": ("trained.csv", _trained, ("model",)),
}

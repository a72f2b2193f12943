"""The tables of speed in README, made of committed rows: nobody types a figure.

A table stands between two comments, `<!-- claims: NAME -->` and `<!-- end of claims -->`; what is between them is this
module's. Only the last run of each file of rows is shown.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill

_Row = dict[str, str]
_BLOCK = re.compile(r"(<!-- claims: ([a-z]+) -->\n).*?(<!-- end of claims -->)", re.S)
_RUN = ("date", "commit", "cpu", "threads", "load")  # the same for all rows of a run
CPU_WORKLOADS = ("1x16", "1x128", "8x128", "mixed", "mixed-sorted")
DTYPES = ("float32", "bfloat16", "int8")


def render(page: str, results: Path) -> str:
    """`page` with every table made anew from the files in `results`.

    Raises:
        ValueError: a table of an unknown name, or a page without tables.
    """
    if not _BLOCK.search(page):
        raise ValueError("the page has no <!-- claims: NAME --> … <!-- end of claims -->")

    def made(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"tables of claims are {', '.join(TABLES)}; found {match[2]!r}")
        file, table = TABLES[match[2]]
        rows = _last_run(results / file)
        return f"{match[1]}{table(rows) if rows else _unmeasured(file)}\n{match[3]}"

    return _BLOCK.sub(made, page)


def _unmeasured(file: str) -> str:
    return f"Not measured yet: there is no `benches/results/{file}`."


def _last_run(path: Path) -> list[_Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row.get(name) == rows[-1].get(name) for name in _RUN)]


def _cpu(rows: Sequence[_Row]) -> str:
    """Medians of every engine, and how much faster distilrt is than the best peer."""
    names = ("tokens", "dtype", "distilrt, all rows", "distilrt as it runs", "best peer",
             "all rows / as it runs, times faster")  # fmt: skip
    lines = _heads(names)
    for dtype in DTYPES:
        for workload in CPU_WORKLOADS:
            found = {row["engine"]: row for row in rows if (row["workload"], row["dtype"]) == (workload, dtype)}
            ours, whole = found.pop("distilrt", None), found.pop("distilrt-all-rows", None)
            if not ours or not whole or not found:
                continue
            best = min(found.values(), key=lambda row: float(row["median_ms"]))
            rival = float(best["median_ms"])
            ratios = " / ".join(f"{rival / float(each['median_ms']):.2f}" for each in (whole, ours))
            times = f"{_ms(whole)} | {_ms(ours)} | {best['engine']} {_ms(best)}"
            lines.append(f"| {workload} | {dtype} | {times} | {ratios} |")
    shares = _shares(rows)
    return "\n".join([*lines, "", fill(f"{_where(rows)}{shares}", 120)])


def _shares(rows: Sequence[_Row]) -> str:
    """Shares of the peak of the largest fixed shape."""
    ours, peers, peaks = [], [], []
    for dtype in DTYPES:
        found = [row for row in rows if (row["workload"], row["dtype"]) == ("8x128", dtype) and row["peak_share"]]
        mine = [row for row in found if row["engine"] == "distilrt-all-rows"]
        others = [float(row["peak_share"]) for row in found if not row["engine"].startswith("distilrt")]
        if not mine or not others:
            return ""
        ours.append(f"{float(mine[0]['peak_share']):.0%}")
        peers.append(f"{max(others):.0%}")
        peaks.append(mine[0]["peak_gflops"])
    return (f" Peaks measured in the run: {_and(peaks)} GFLOP/s ({_and(list(DTYPES))}); with all rows distilrt reaches "
            f"{_and(ours)} of them at 8x128, the best peer {_and(peers)}.")  # fmt: skip


def _distillation(rows: Sequence[_Row]) -> str:
    """Both models on this engine."""
    ours, theirs = (int(rows[0][f"{name}_parameters"]) for name in ("distilbert", "bert"))
    lines = _heads(("tokens", "dtype", "DistilBERT ms", "BERT-base ms", "faster"))
    for row in rows:
        times = [float(row["distilbert_ms"]), float(row["bert_ms"])]
        lines.append(f"| {row['workload']} | {row['dtype']} | {_short(times[0])} | {_short(times[1])} "
                     f"| {times[1] / times[0] - 1:+.0%} |")  # fmt: skip
    sizes = f"{ours / 1e6:.1f} M parameters instead of {theirs / 1e6:.1f} M: {ours / theirs - 1:+.0%}."
    return "\n".join([*lines, "", f"{_where(rows)} {sizes}"])


def _serving(rows: Sequence[_Row]) -> str:
    """What a client of each server sees; of distilrt's also beside its engine alone, where that was measured."""
    names = ["server", "16 / 128 tokens alone, p50 ms", "highest rate with p99 ≤ 250 ms, req/s",
             "saturated, req/s, real tok/s", "start s", "RSS MB"]  # fmt: skip
    beside = any(row.get("saturated_share") for row in rows)
    if beside:
        names += ["over its engine alone, ms", "saturated, of offline"]
    lines = _heads(names)
    for row in rows:
        alone = f"{_short(float(row['p50_16_ms']))} / {_short(float(row['p50_128_ms']))}"
        line = (f"| {row['server']} {row['dtype']} | {alone} | {_rate(row)} "
                f"| {float(row['saturated_per_s']):.0f}, {float(row['saturated_tokens_per_s']):,.0f} "
                f"| {float(row['start_s']):.1f} | {float(row['rss_mb']):.0f} |")  # fmt: skip
        lines.append(f"{line} {_over_engine(row)} |" if beside else line)
    return "\n".join([*lines, "", _where(rows)])


def _rate(row: _Row) -> str:
    rate = float(row["peak_per_s"])
    return f"{rate:.0f}" if rate else "none held"


def _over_engine(row: _Row) -> str:
    if not row.get("saturated_share"):
        return "– | –"
    over = [float(row[f"p50_{size}_ms"]) - float(row[f"engine_{size}_ms"]) for size in (16, 128)]
    return f"{over[0]:.2f} / {over[1]:.2f} | {float(row['saturated_share']):.0%}"


def _startup(rows: Sequence[_Row]) -> str:
    """Seconds and memory of a fresh process, an engine a line."""
    lines = _heads(("engine", *(f"{dtype}, s / MB" for dtype in DTYPES)))
    for engine in dict.fromkeys(row["engine"] for row in rows):
        found = {row["dtype"]: f"{float(row['seconds']):.2f} / {float(row['peak_mb']):.0f}"
                 for row in rows if row["engine"] == engine}  # fmt: skip
        lines.append(f"| {engine} | {' | '.join(found.get(dtype, '') for dtype in DTYPES)} |")
    return "\n".join([*lines, "", _where(rows)])


def _heads(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]


def _where(rows: Sequence[_Row]) -> str:
    row = rows[-1]
    return f"{row['cpu']}, {row['threads']} threads, {row['date']}, commit {row['commit']}."


def _ms(row: _Row) -> str:
    return _short(float(row["median_ms"]))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


TABLES: dict[str, tuple[str, Callable[[Sequence[_Row]], str]]] = {
    "cpu": ("cpu.csv", _cpu),
    "distillation": ("distillation.csv", _distillation),
    "serving": ("serving.csv", _serving),
    "startup": ("startup.csv", _startup),
}

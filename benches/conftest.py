"""What every bench needs: where it ran, a table of ratios at the end, and rows kept on request (`--record`)."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilrt import _C
from distilrt.bench.findings import facts
from distilrt.cpu_count import usable_cores

RESULTS = Path(__file__).parent / "results"
_rows: list[dict[str, Any]] = []
_results: list[dict[str, Any]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="append the rows to benches/results/*.csv")


def _where() -> dict[str, str]:
    about = facts(usable_cores())
    return {
        **{name: about[name] for name in ("date", "commit", "cpu")},
        "isa": _C.available_isas()[0],
        **{name: about["versions"][name] for name in ("numpy", "torch", "transformers")},
    }


@pytest.fixture
def add_result(request: pytest.FixtureRequest) -> Any:
    """Keeps one row of a bench that compares no times."""

    def add(**row: Any) -> None:
        _results.append({"bench": request.node.path.stem.removeprefix("bench_"), **row, **_where()})

    return add


@pytest.fixture
def add_row(request: pytest.FixtureRequest) -> Any:
    """Keeps one comparison: medians of our and a peer's times in one interleaved run, in seconds."""

    def add(workload: str, peer: str, ours: list[float], theirs: list[float], **more: Any) -> float:
        ratio = float(np.median(theirs) / np.median(ours))
        _rows.append(
            {
                "bench": request.node.path.stem.removeprefix("bench_"),
                "workload": workload,
                "distilrt_ms": round(1e3 * float(np.median(ours)), 3),
                "distilrt_iqr_ms": round(1e3 * float(np.subtract(*np.percentile(ours, [75, 25]))), 3),
                "peer": peer,
                "peer_ms": round(1e3 * float(np.median(theirs)), 3),
                "peer_iqr_ms": round(1e3 * float(np.subtract(*np.percentile(theirs, [75, 25]))), 3),
                "ratio": round(ratio, 2),
                **more,
                **_where(),
            }
        )
        return ratio

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _rows:
        terminalreporter.section("peer time / distilrt time, medians of one interleaved run")
    for row in _rows:
        terminalreporter.write_line(
            f"{row['workload']:>10}  distilrt {row['distilrt_ms']:9.2f} ms   {row['peer']} {row['peer_ms']:9.2f} ms   "
            f"{row['ratio']:5.2f}x"
        )
    for row in _results:
        terminalreporter.write_line("  ".join(f"{key} {value}" for key, value in row.items() if key not in _where()))
    if config.getoption("--record"):
        for bench in {row["bench"] for row in _rows + _results}:
            _append(RESULTS / f"{bench}.csv", [row for row in _rows + _results if row["bench"] == bench])


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of several kinds share a file; what a kind does not have stays empty."""
    fresh = not path.exists()
    if fresh:
        fields = list(dict.fromkeys(name for row in rows for name in row))
    else:
        with path.open(newline="") as file:
            fields = next(csv.reader(file))
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)

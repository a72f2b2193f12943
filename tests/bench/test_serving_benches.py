"""benches/serving: rows of servers. The bench itself, `make bench-serving`, starts servers of other makers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from benches.serving import compare, servers
from distilrt.bench import findings
from distilrt.bench.findings import Findings
from distilrt.bench.scenarios import Plan
from distilrt.bench.statistics import parse_slo


def test_missing_program(classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed before anything is converted for it."""
    monkeypatch.setattr(servers, "INFINITY", tmp_path)
    monkeypatch.setattr(servers, "artefact", lambda folder, kind: pytest.fail("converted"))
    with (
        pytest.raises(RuntimeError, match=r"infinity-optimum is not installed: .*make .venv-infinity/stamp"),
        servers.serving("infinity-optimum", Path(classifier), 1),
    ):
        pass


@pytest.mark.whole
def test_a_comparison_and_its_rows(folder_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of this package beside its engine; one that is not installed is named."""
    folder = folder_of("DistilBertForSequenceClassification")
    monkeypatch.setattr(compare, "SHAPES", ("1x8", "1x16"))
    monkeypatch.setattr(servers, "INFINITY", Path("/nowhere"))
    plans = Plan("single", 0.2), Plan("offline", 0.2), Plan("peak", 0.3, 5, slo=parse_slo("p99=10s"))
    found = Findings(findings.facts(1, str(folder)), {})
    chosen = ["distilrt-float32", "distilrt-float32x2", "infinity-optimum"]
    compare.compare(chosen, plans, folder, 1, found, lambda *_: None)
    three = [(target, "single") for target in ("distilrt-float32", "distilrt-float32x2", "engine")]
    assert [(row["target"].split()[-1], row["scenario"]) for row in found.rows] == [
        *three, *three, ("engine", "offline"),
        ("distilrt-float32", "peak"), ("distilrt-float32x2", "peak")]  # fmt: skip
    assert all(row["max_difference"] < 1e-3 and row["start_s"] and row["peak_mb"] for row in found.rows)
    assert any("infinity-optimum is not installed" in line for line in found.left_out)


@pytest.mark.parametrize(("names", "file"), [("distilrt,distilrtx2", "replicas.csv"),
                                             ("distilrt,onnx-threads", "serving.csv")])  # fmt: skip
def test_replicas_have_a_file_of_their_own(names: str, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(compare, "carry_out", lambda found, seconds, work, files: seen.append(files.record))
    monkeypatch.setattr(compare, "model", lambda cache, texts: Path("served"))
    monkeypatch.setattr(findings, "facts", lambda *_: {})
    compare.main(names=names, seconds=1.0, record=True)
    assert seen == [compare.RESULTS / file]


def test_unknown_servers() -> None:
    with pytest.raises(typer.BadParameter, match=r"servers are distilrt, .*found apache"):
        compare.main(names="distilrt,apache")

"""engine/bench/__main__.py: what Ctrl-C leaves of each of its commands, and what they do not record then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from distilrt.bench import __main__ as commands
from distilrt.bench import artefacts, compare, distillation, ptx, roofline, startup, workloads
from distilrt.bench.compare import Engine, Timing
from distilrt.bench.ptx import Cost, Row
from distilrt.model.config import DistilBertConfig

RESULTS = ["--record", "--results"]


@pytest.fixture(autouse=True)
def quick(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are tiny, and peaks known."""
    config: DistilBertConfig = tiny()
    monkeypatch.setattr(commands, "make_checkpoint", lambda folder: artefacts.make_checkpoint(folder, config))
    monkeypatch.setattr(roofline, "measure", lambda threads, cache: roofline.Roofline({"float32": 1e12}, None))


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(commands.app, list(arguments), catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(found: compare.Comparison, checkpoint: Path, engines: Any, chosen: Any, **given: Any) -> None:
        timing = Timing(workloads.parse("1x8"), Engine("float32", "distilrt"), "1.0", 1e-6, estimate=0.01)
        timing.turns = [[0.01] * timing.runs]
        found.timings.append(timing)
        if given["time_box"] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(compare, "compare", measured)
    file = tmp_path / "rows.csv"
    given = ["compare", "--cache", str(tmp_path), "--time-box", "1", *RESULTS, str(file)]
    code, out, err = run(*given)
    assert (code, file.exists()) == (130, False)
    assert "distilrt" in out
    assert "broken off" in err
    assert "measuring peaks" in err
    given[4] = "2"
    assert run(*given)[0] == 0
    assert file.exists()


def test_startup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(name: str, dtype: str, *given: Any) -> startup.Startup:
        if name == "onnxruntime":
            raise KeyboardInterrupt
        return startup.Startup(name, dtype, 0.5, 100.0, times=3)

    monkeypatch.setattr(startup, "measure", measured)
    file = tmp_path / "rows.csv"
    code, out, err = run("startup", "--peers", "distilrt,onnxruntime", "--dtypes", "float32", "--cache", str(tmp_path),
                         *RESULTS, str(file))  # fmt: skip
    assert (code, file.exists()) == (130, False)
    assert "distilrt" in out
    assert "nothing was recorded" in err


def test_distillation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*given: Any) -> Iterator[dict[str, Any]]:
        yield {"workload": "1x8", "dtype": "float32", "distilbert_ms": 1.0, "bert_ms": 2.0}
        raise KeyboardInterrupt

    monkeypatch.setattr(distillation, "measure", measured)
    file = tmp_path / "rows.csv"
    code, out, _ = run("distillation", "--cache", str(tmp_path), *RESULTS, str(file))
    assert (code, file.exists()) == (130, False)
    assert "+100%" in out


@pytest.mark.parametrize("stopped", [True, False])
def test_ptx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool) -> None:
    def rows(chip: int, dtype: str, only: str) -> Iterator[Row]:
        yield Row(chip, dtype, "a kernel", 4, Cost(32, 0, 0, 0, "", "", True, 0, 8), ("no tensor cores",))
        if stopped:
            raise KeyboardInterrupt

    assert run("ptx", "--chips", "17")[0] == 2
    monkeypatch.setattr(ptx, "rows", rows)
    monkeypatch.setattr(ptx, "count", lambda *given: 1)
    page = tmp_path / "page.md"
    code, out, err = run("ptx", "--chips", "90", "--dtypes", "float32", "--only", "pack", "--out", str(page))
    assert (code, page.exists()) == (130 if stopped else 1, not stopped)
    assert "sm_90 float32 a kernel: no tensor cores" in out
    assert ("broken off" in err) == stopped


def test_changes_of_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where there are none
    code, _, err = run("changes", "a.json,b.json", "c.json", "--peer", "x")
    assert code == 2
    assert "a.json" in err

"""engine/bench/gpu and its two scripts: the whole flow in Triton's interpreter, and what happens without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distilrt.backends.cuda.devices import why_not_cuda
from distilrt.bench import findings
from distilrt.bench.gpu import runs, suite
from distilrt.bench.gpu.timing import Ceilings, Clock, Times, floor_us
from distilrt.model import models

BENCHES = Path(__file__).parents[2] / "benches"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script as a user starts it, from another folder."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(BENCHES / script), *arguments]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", ["gpu_suite.py", "gpu_probe.py"])
def test_without_a_gpu(script: str) -> None:
    if why_not_cuda() is None:
        pytest.skip("this machine has a GPU")
    done = run(script)
    assert done.returncode == 2
    assert done.stdout.startswith("no CUDA device: ")
    assert not done.stderr


@pytest.mark.whole
def test_the_suite_tests_itself(tmp_path: Path) -> None:
    done = run("gpu_suite.py", "--self-test", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.iterdir()
    found = findings.read(path)
    assert found.plan["self_test"]
    assert found.complete
    assert {(row["target"], row["form"]) for row in found.rows} == {
        ("distilrt", "graph"), ("distilrt", "tensors"), ("distilrt", "arrays"), ("kernel", ""),
        ("transformers", "eager"), ("transformers", "tensors"), ("transformers", "graph"),
        ("torch.compile", "max-autotune"),
    }  # fmt: skip
    assert all(row["p50_ms"] > 0 for row in found.rows)
    assert {"commit", "device", "copy_tb_s", "versions"} <= set(found.facts)
    assert "SELF-TEST" in done.stdout


def test_the_probe_tests_itself(tmp_path: Path) -> None:
    done = run("gpu_probe.py", "--self-test", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.iterdir()
    rows = findings.read(path).rows
    for word in ("copy", "matmul bfloat16", "kernel in a graph", "barrier", "L2 read"):
        assert any(row["what"].startswith(word) for row in rows)
    assert all(row["value"] > 0 for row in rows)


def test_a_file_is_named_by_the_device(tmp_path: Path) -> None:
    suite.write(findings.Findings({"device": "NVIDIA H200 (MIG)"}, {}), "gpu_suite", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_suite_nvidia-h200-mig.json"]


def test_clock_and_floor() -> None:
    clock = Clock(torch.device("cpu"), 0.01)
    calls: list[int] = []
    for times in (clock.back_to_back(lambda: calls.append(1)), clock.one_by_one(lambda: calls.append(1))):
        assert isinstance(times, Times)
        assert 0 <= times.low <= times.median <= times.high
    assert len(calls) == 6
    most = Ceilings(4e12, {"bfloat16": 8e14})
    assert floor_us(8e10, 85_000_000, "bfloat16", most) == pytest.approx(100)
    assert floor_us(1.36e9, 84_900_000, "bfloat16", most) == pytest.approx(84.9 / 4)


def test_dependent_launch_is_compared_where_there_is_any(monkeypatch: pytest.MonkeyPatch) -> None:
    config = suite.TINY
    model: Any = models.DistilBertForSequenceClassification(config, backend="cuda")
    encoder, clock = model.backend.encoder, Clock(torch.device("cpu"), 0.01)
    loads = runs.workloads(config, tiny=True)[:1]
    assert not list(runs.without_dependent_launch(model, clock, loads))
    seen: list[bool] = []
    launch = encoder.launch

    def watched(*given: Any, **options: Any) -> Any:
        seen.append(encoder.pdl)
        return launch(*given, **options)

    monkeypatch.setattr(encoder, "launch", watched)
    encoder.pdl = True
    (row,) = runs.without_dependent_launch(model, clock, loads)
    assert (row["form"], row["workload"]) == ("no-dependent-launch", "1x4")
    assert set(seen) == {False}
    assert encoder.pdl

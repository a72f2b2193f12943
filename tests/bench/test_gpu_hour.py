"""engine/bench/gpu and its script: the whole flow in Triton's interpreter, and what happens without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton

from distilrt.backends.cuda.devices import why_not_cuda
from distilrt.bench.artefacts import make_checkpoint
from distilrt.bench.gpu import hour, runs, steps
from distilrt.bench.gpu.timing import Ceilings, Clock, Times, floor_us
from distilrt.model import models

SCRIPT = Path(__file__).parents[2] / "benches" / "gpu_hour.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script as a user starts it, from another folder."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


def test_without_a_gpu(tmp_path: Path) -> None:
    if why_not_cuda() is None:
        pytest.skip("this machine has a GPU")
    done = run("--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout.startswith("no CUDA device: ")
    assert not done.stderr


def interpreter_fault() -> str | None:
    """Why Triton's interpreter can't run here: of 3.6 it takes arrays for numbers, which NumPy refuses since 2.4."""
    versions = (tuple(map(int, each.__version__.split(".")[:2])) for each in (triton, np))
    old, new = next(versions) < (3, 7), next(versions) >= (2, 4)
    return f"Triton {triton.__version__}'s interpreter fails with NumPy {np.__version__}" if old and new else None


@pytest.mark.whole
def test_the_hour_tests_itself(tmp_path: Path) -> None:
    """Every step, in Triton's interpreter at a tiny scale."""
    if reason := interpreter_fault():
        pytest.skip(reason)
    done = run("--self-test", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[Any]] = {}
    for line in (tmp_path / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row.pop("step"), []).append(row)
    first, *ended = found.pop("hour")
    assert first["self_test"]
    assert {row["what"]: row["ended"] for row in ended} == {step.name: "done" for step in hour.TINY_STEPS}
    assert set(found) == {step.name for step in hour.TINY_STEPS}
    about, *measured = found["probe"]
    assert {"commit", "device", "versions"} <= set(about)
    for word in ("copy", "matmul bfloat16", "kernel in a graph", "barrier", "L2 read"):
        assert any(row["what"].startswith(word) for row in measured)
    assert all(row["ok"] for step in ("checks", "tests") for row in found[step])
    for step, forms in (
        ("ours-bfloat16", {"graph", "tensors", "arrays"}),
        ("sdpa-float32", {"eager", "tensors", "graph"}),
        ("compiled-1x4", {"max-autotune"}),
    ):
        times = [row for row in found[step] if "form" in row]
        assert {row["form"] for row in times} == forms
        assert all(row["p50_ms"] > 0 for row in times)
    assert [row["workload"] for row in found["tuned"][1:]] == [row["workload"] for row in found["ours-bfloat16"][1:]]
    assert {row["key"][0] for row in found["tune"]} == {"narrow", "attention"}
    assert len(list(tmp_path.glob("*.log"))) == sum(step.processes for step in hour.TINY_STEPS)


def test_a_step_that_fails_or_does_not_end_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes are ended with those that they started, and what it found stays."""
    folders = hour.Folders(tmp_path, tmp_path, tmp_path)
    folders.keep("checks", {"ok": False})
    folders.keep("tune", {"key": [1, "a"]})
    assert list(folders.rows("tune")) == [{"step": "tune", "key": [1, "a"]}]
    assert hour.run(hour.Step("none", 60, 2), folders, 60) == "2 failed"
    assert "KeyError: 'none'" in (tmp_path / "none.1.log").read_text()
    assert hour.run(hour.Step("probe", 60), folders, 1.5) == "1 ran out of time"
    assert hour.run(hour.Step("probe", 60), folders, 0.5) == "left out: no time was left"


def test_the_time_of_all_steps() -> None:
    """No limit is longer than the whole, and without the last ones all fit."""
    assert hour.SECONDS < 600
    assert sum(step.seconds for step in hour.STEPS[:-5]) < hour.SECONDS


@pytest.mark.whole
def test_what_a_load_launches_is_known_without_a_device() -> None:
    """In a process that compiles, since in the interpreter nothing is recorded."""
    program = (
        "from distilrt.bench.gpu.steps import model_launches\n"
        "from distilrt.bench.launches import distinct\n"
        "from distilrt.kernels.tiles import H200\n"
        "from distilrt.model.config import DistilBertConfig\n"
        "found = distinct(model_launches(DistilBertConfig(n_layers=2), ['bfloat16'], H200))\n"
        "print(*sorted({each.name for each in found}))\n"
        "print(all(each.options.get('launch_pdl') for each in found), len(found))\n"
    )
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    names, counts = done.stdout.splitlines()
    assert set(names.split()) == {
        "_attention_kernel", "_embed_kernel", "_layer_norm_kernel", "_linear_kernel", "_narrow_linear_kernel",
        "_row_attention_kernel",
    }  # fmt: skip
    assert int(counts.split()[1]) > 40


def test_logits_that_are_a_little_off_are_found(tmp_path: Path) -> None:
    """By the root of the mean of squares over a batch, which torch's luck with one logit can't move."""
    checkpoint = make_checkpoint(tmp_path, steps.TINY)
    make: Any = models.DistilBertForSequenceClassification.from_pretrained
    model = make(checkpoint, backend="cuda", dtype="float32")
    assert runs.relative_error(checkpoint, model, torch.device("cpu")) < 1e-5
    model.backend.encoder.linears["classifier"][1].add_(1e-3)
    with pytest.raises(ArithmeticError, match="logits of the timed model in float32 are off"):
        runs.relative_error(checkpoint, model, torch.device("cpu"))


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
    config = steps.TINY
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

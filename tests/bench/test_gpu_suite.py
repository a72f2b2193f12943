"""engine/bench/gpu and its two scripts: the whole flow in Triton's interpreter, and what happens without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distilrt.backends.cuda.devices import why_not_cuda
from distilrt.bench.artefacts import make_checkpoint
from distilrt.bench.gpu import kernel_checks, report, runs, stress, suite
from distilrt.bench.gpu.kernel_checks import TINY
from distilrt.bench.gpu.timing import Ceilings, Clock, Times, floor_us
from distilrt.kernels import gather
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
def test_the_timed_part(tmp_path: Path) -> None:
    """What it writes, in this process; the flow of all parts is in the whole self-test."""
    checkpoint, result = make_checkpoint(tmp_path / "checkpoint", suite.TINY), tmp_path / "part.json"
    arguments = ["--self-test", "--part", "ours", "--checkpoint", str(checkpoint), "--result", str(result)]
    assert suite.main([*arguments, "--seconds", "600"]) == 0
    found = json.loads(result.read_text())
    assert not found["cut"]
    assert all(check["ok"] for check in found["checks"]), found["checks"]
    names = " ".join(check["name"] for check in found["checks"])
    for words in ("timed model", "no allocation", "two models, four threads", "the same bits", "without memory"):
        assert words in names
    assert {row["engine"] for row in found["rows"]} == {"distilrt", "kernel"}


@pytest.mark.whole
def test_the_suite_tests_itself(tmp_path: Path) -> None:
    done = run("gpu_suite.py", "--self-test", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    assert found["self_test"]
    assert not found["problems"]
    assert all(check["ok"] for check in found["checks"])
    names = " ".join(check["name"] for check in found["checks"])
    for word in (
        "linear", "linear_split", "norm_linear", "embed", "attention", "row_attention", "gather", "pack", "unpack",
        "TokenClassification", "MultipleChoice", "bad ids", "timed model", "no allocation", "threads",
        "tf32", "without memory",
    ):  # fmt: skip
        assert word in names
    engines = {row["engine"] for row in found["rows"]}
    assert engines == {
        "distilrt",
        "kernel",
        "transformers-sdpa",
        "transformers-sdpa-graph",
        "torch.compile-max-autotune",
    }
    assert not any("failed" in row for row in found["rows"])
    assert {"torch", "triton", "commit", "driver", "device"} <= set(found["environment"])
    assert "SELF-TEST" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("mixed")


def test_the_probe_tests_itself(tmp_path: Path) -> None:
    done = run("gpu_probe.py", "--self-test", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.iterdir()
    rows = json.loads(path.read_text())["rows"]
    for word in ("copy", "matmul bfloat16", "kernel in a graph", "barrier", "L2 read"):
        assert any(row["what"].startswith(word) for row in rows)
    assert all(row["value"] > 0 for row in rows)


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by a little, another answer each time, a row too far: each is seen."""

    def check() -> Any:
        return next(kernel_checks.kernels(torch.device("cpu"), "float32", TINY, 0, only="gather"))

    right, calls = gather.gather, []
    assert check()["ok"]

    def off(out: Any, *arguments: Any, **options: Any) -> None:
        right(out, *arguments, **options)
        out += 1e-3

    def moving(out: Any, *arguments: Any, **options: Any) -> None:
        right(out, *arguments, **options)
        calls.append(1)
        out[0, 0] *= 1 + 1e-6 * len(calls)

    def too_far(out: Any, *arguments: Any, **options: Any) -> None:
        right(out, *arguments, **options)
        out[-1] = 0

    for wrong, good in ((off, {"steady", "untouched"}), (moving, {"untouched"}), (too_far, {"steady"})):
        monkeypatch.setattr(gather, "gather", wrong)
        found = check()
        assert not found["ok"]
        assert {name for name in ("steady", "untouched") if found[name]} == good
        assert (found["error"] > found["bound"]) == (wrong is not too_far)


def test_summary_names_what_is_wrong_and_compares() -> None:
    def row(engine: str, microseconds: float, **more: Any) -> dict[str, Any]:
        times = {"median": microseconds, "low": 0.0, "high": 0.0}
        return {"engine": engine, "workload": "1x16", "dtype": "bfloat16", "gpu_us": times, "wall_tensors_us": times,
                "wall_arrays_us": times, **more}  # fmt: skip

    found: dict[str, Any] = {
        "environment": {"device": "NVIDIA H200"}, "self_test": False, "facts": {"copy": "4.3 TB/s"},
        "checks": [{"name": "good", "ok": True}, {"name": "bad one", "ok": False}], "problems": ["sdpa: exit code 1"],
        "rows": [row("distilrt", 100.0, floor_us=20.0, share_of_floor=0.2), row("transformers-sdpa", 900.0),
                 row("torch.compile-max-autotune", 250.0),
                 {"engine": "transformers-sdpa-graph", "workload": "1x16", "dtype": "bfloat16", "failed": "why"}],
    }  # fmt: skip
    text = "\n".join(report.summary(found))
    for words in ("NVIDIA H200", "1 of 2 checks", "WRONG", "bad one", "PROBLEM sdpa: exit code 1", "copy: 4.3 TB/s"):
        assert words in text
    assert report.summary(found)[-1].split() == ["1x16", "bfloat16", "100.0", "20.0", "20%", "100.0", "100.0", "900.0",
                                                 "-", "250.0", "2.50"]  # fmt: skip


def test_a_part_that_fails_or_hangs_is_a_problem(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for code, message in (("import time; time.sleep(60)", "did not end in time"), ("1 / 0", "exit code 1: ZeroDiv")):
        with log.open("wb") as file:
            process = subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file)
        assert str(suite._finish(process, log, 0.0 if "sleep" in code else float("inf"))).startswith(message)
    assert report.file_name("gpu_suite", {"device": "NVIDIA H200 (MIG)"}) == "gpu_suite_nvidia-h200-mig.json"


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
    assert (row["engine"], row["workload"]) == ("distilrt-no-dependent-launch", "1x4")
    assert set(seen) == {False}
    assert encoder.pdl


def test_sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tool; and with one that finds something, that finds nothing, and that takes too long."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stress.sanitized("memcheck", tmp_path, 5) == (True, "not run: compute-sanitizer is not installed")
    tool = tmp_path / "compute-sanitizer"
    for script, expected in (
        ("echo '========= ERROR SUMMARY: 2 errors'; exit 9", (False, "========= ERROR SUMMARY: 2 errors")),
        ('echo "$@"; exit 0', (True, f"--tool racecheck --error-exitcode 9 {sys.executable} -m "
                                     f"distilrt.bench.gpu.stress {tmp_path}")),
        ("exec /bin/sleep 20", (True, "not finished in 1 s")),
    ):  # fmt: skip
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert stress.sanitized("racecheck", tmp_path, 1) == expected


def test_what_a_sanitizer_watches_runs(tmp_path: Path) -> None:
    stress.tiny_forward(make_checkpoint(tmp_path / "checkpoint", suite.TINY))

"""benches/gpu_hour.py and the benches of the GPU: the whole flow in Triton's interpreter, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton

from benches import bench_gpu_model, gpu_hour
from distilrt.backends.cuda.devices import why_not_cuda
from distilrt.bench.artefacts import make_checkpoint
from distilrt.model import models

SCRIPT = Path(gpu_hour.__file__)
WITHOUT_INTERPRETER = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script as a user starts it, from another folder."""
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], env=WITHOUT_INTERPRETER, cwd="/",
                          capture_output=True, text=True, check=False)  # fmt: skip


@pytest.mark.skipif(why_not_cuda() is None, reason="there is a GPU")
def test_without_a_gpu(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout.startswith("no CUDA device: ")
    assert not done.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "benches/bench_kernels.py", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=WITHOUT_INTERPRETER, cwd=SCRIPT.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no CUDA device" in done.stdout


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
        found.setdefault(row.pop("bench"), []).append(row)
    steps = [step.name for step in gpu_hour.STEPS if step.tiny]
    assert {row["step"]: row["ended"] for row in found.pop("hour")} == dict.fromkeys(steps, "done")
    assert set(found) == {"gpu_device", "gpu_model", "kernels"}
    assert all({"commit", "cpu", "versions"} <= set(row) for rows in found.values() for row in rows)
    for word in ("copy", "matmul bfloat16", "barrier"):
        assert any(row.get("what", "").startswith(word) for row in found["gpu_device"])
    timed = [row for row in found["gpu_model"] if "form" in row]
    forms = {"distilrt": {"graph", "tensors", "arrays"}, "transformers": {"eager", "tensors", "graph"},
             "torch.compile": {"max-autotune"}}  # fmt: skip
    assert all({row["form"] for row in timed if row["target"] == target} == forms[target] for target in forms)
    assert all(row["p50_ms"] > 0 and (row["form"], row["target"]) for row in timed)
    ours = [row["workload"] for row in timed if (row["target"], row["dtype"]) == ("distilrt", "bfloat16")]
    assert len(ours) == 2 * 2 * 3, "with the usual tiles and with those found"
    assert {row["key"][0] for row in found["gpu_model"] if "key" in row} >= {"narrow", "linear", "attention", "encoder"}
    assert {path.stem for path in tmp_path.glob("*.log")} == set(steps)


def test_a_step_that_fails_or_does_not_end(tmp_path: Path) -> None:
    """Its processes are ended with those that they started."""

    def ended(words: str, seconds: float) -> str:
        return gpu_hour.run("step", ["bash", "-c", words], tmp_path, tmp_path, dict(os.environ), seconds)

    assert ended("echo no; exit 3", 60) == "failed"
    assert (tmp_path / "step.log").read_text() == "no\n"
    assert ended("sleep 600 & echo $!; wait", 1.5) == "ran out of time"
    child = Path("/proc", (tmp_path / "step.log").read_text().strip(), "status")
    end = time.monotonic() + 30  # The system ends a killed process when it next gives it time.
    while child.exists() and "zombie" not in child.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert ended("true", 0.5) == "left out: no time was left"


@pytest.mark.whole
def test_what_a_load_launches_is_known_without_a_device() -> None:
    """In a process that compiles, since in the interpreter nothing is recorded."""
    program = (
        "from tests.gpu.test_compile import of_load\n"
        "from tests.kernels.launches import distinct\n"
        "from distilrt.kernels.tiles import H200\n"
        "from distilrt.model.config import DistilBertConfig\n"
        "found = distinct(of_load(DistilBertConfig(n_layers=2), ['bfloat16'], H200))\n"
        "print(*sorted({each.name for each in found}))\n"
        "print(all(each.options.get('launch_pdl') for each in found), len(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=WITHOUT_INTERPRETER, cwd=SCRIPT.parents[1],
                          capture_output=True, text=True, check=True)  # fmt: skip
    names, counts = done.stdout.splitlines()
    assert set(names.split()) == {
        "_attention_kernel", "_embed_kernel", "_layer_norm_kernel", "_linear_kernel", "_narrow_linear_kernel",
        "_persistent_linear_kernel", "_row_attention_kernel",
    }  # fmt: skip
    assert int(counts.split()[1]) > 40


def test_logits_that_are_a_little_off_are_found(tmp_path: Path) -> None:
    """By the root of the mean of squares over a batch, which torch's luck with one logit can't move."""
    checkpoint = make_checkpoint(tmp_path, bench_gpu_model.TINY)
    make: Any = models.DistilBertForSequenceClassification.from_pretrained
    model = make(checkpoint, backend="cuda", dtype="float32")
    bench_gpu_model.check(checkpoint, model, torch.device("cpu"))
    model.backend.encoder.linears["classifier"][1].add_(1e-3)
    with pytest.raises(AssertionError, match="logits of the timed model in float32 are off"):
        bench_gpu_model.check(checkpoint, model, torch.device("cpu"))

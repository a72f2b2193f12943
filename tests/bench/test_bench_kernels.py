"""engine/bench/gpu/ops.py and benches/bench_kernels.py: the launches are right, in Triton's interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distilrt.backends.cuda.devices import why_not_cuda
from distilrt.bench.gpu.ops import examples, time_example
from distilrt.bench.gpu.timing import Clock
from distilrt.kernels.op import all_ops
from distilrt.model.config import DistilBertConfig
from tests.gpu.checks import checked

ROOT = Path(__file__).parents[2]
CONFIG = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=50, max_position_embeddings=16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_op_of_a_model_is_right(dtype: torch.dtype) -> None:
    """Few rows run `norm_linear` in half precision, and `linear_split` in float32."""
    for op in all_ops():
        made = list(examples(CONFIG, 5, dtype, torch.device("cpu"), tiny=True, only=op.name))
        assert bool(made) == (op.name != ("linear_split" if dtype == torch.bfloat16 else "norm_linear"))
        for example in made:
            assert all(check["ok"] for check in checked(example, runs=1).values()), example.label
            assert example.nbytes >= next(iter(example.outputs.values())).tensor.nbytes


def test_bytes_and_operations() -> None:
    made = {example.label: example for example in examples(CONFIG, 40, torch.float32, torch.device("cpu"), tiny=True)}
    linear, attention = made["linear 40x32x64 gelu"], made["attention 40 head_dim 16 up to 40"]
    assert linear.flops == 2 * 40 * 64 * 32
    assert linear.nbytes == 4 * (40 * 32 + 40 * 64 + 64 * 32)
    assert attention.flops == 4 * 40 * 40 * 32
    row = time_example(attention, Clock(torch.device("cpu"), 0.01))
    assert row["gb_per_s"] == pytest.approx(attention.nbytes / row["p50_ms"] * 1e-6)
    assert row["p25_ms"] <= row["p50_ms"] <= row["p75_ms"]


@pytest.mark.skipif(why_not_cuda() is None, reason="there is a GPU")
def test_without_a_gpu_the_bench_says_why() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "benches/bench_kernels.py", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no CUDA device" in done.stdout
    assert "skipped" in done.stdout

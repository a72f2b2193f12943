"""engine/bench/gpu/ops.py and benches/bench_kernels.py: the launches are right, in Triton's interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distilrt.backends.cuda.devices import why_not_cuda
from distilrt.bench.gpu.ops import NAMES, ops, time_op
from distilrt.bench.gpu.timing import Clock
from distilrt.model.config import DistilBertConfig

ROOT = Path(__file__).parents[2]
CONFIG = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, vocab_size=50, max_position_embeddings=16)


@pytest.mark.parametrize(("tokens", "dtype"), [(5, torch.bfloat16), (40, torch.bfloat16), (3, torch.float32)])
def test_every_kernel_writes_all_of_its_output(tokens: int, dtype: torch.dtype) -> None:
    found = set()
    for op in ops(CONFIG, tokens, dtype, torch.device("cpu"), tiny=True):
        found.add(op.name)
        op.out.fill_(torch.nan if op.out.is_floating_point() else -77)
        op.work()
        assert torch.isfinite(op.out).all()
        assert (op.out != -77).all()
        assert op.nbytes >= op.out.nbytes
    assert found == set(NAMES) - {"linear_split" if (tokens, dtype) == (5, torch.bfloat16) else "norm_linear"}


def test_bytes_and_operations() -> None:
    made = {op.name: op for op in ops(CONFIG, 40, torch.float32, torch.device("cpu"), tiny=True)}
    assert made["linear ffn_in"].flops == 2 * 40 * 64 * 32
    assert made["linear ffn_in"].nbytes == 4 * (40 * 32 + 40 * 64 + 64 * 32)
    assert made["attention"].flops == 4 * 40 * 40 * 32
    assert made["gather"].nbytes == 2 * 4 * 32
    row = time_op(made["gather"], Clock(torch.device("cpu"), 0.01))
    assert row["gb_per_s"] == pytest.approx(made["gather"].nbytes / row["us"] * 1e-3)
    assert row["low"] <= row["us"] <= row["high"]


@pytest.mark.skipif(why_not_cuda() is None, reason="there is a GPU")
def test_without_a_gpu_the_bench_says_why() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "benches/bench_kernels.py", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no CUDA device" in done.stdout
    assert "skipped" in done.stdout

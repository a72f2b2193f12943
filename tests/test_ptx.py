"""The kernels compiled ahead of time, a few of them; `make ptx` does all. Each in a process without the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def _bench(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    return subprocess.run(
        [sys.executable, "-m", "distilrt.bench", *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("chip", "instruction", "kernel"),
    [
        ("90", "HGMMA", "linear n 3072, k 768, 128×256×64, gelu"),
        ("90", "HMMA", "narrow_linear n 2304, k 768, 16×16×32, norm"),
        ("90", "HGMMA", "attention head_dim 64, 64×128, one block"),
        ("90", "", "layer_norm width 768, segments 1, residual"),
        ("80", "HMMA", "attention head_dim 64, 128×64"),
        ("80", "HMMA", "linear n 768, k 3072, 128×128×64, residual"),
    ],
)
def test_kernels_compile_to_tensor_cores_without_spills(
    chip: str, instruction: str, kernel: str, tmp_path: Path
) -> None:
    page = tmp_path / "kernels.md"
    done = _bench("ptx", "--chips", chip, "--dtypes", "bfloat16", "--only", kernel, "--out", str(page))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| sm_")]
    assert rows
    for row in rows:
        assert kernel in row
        _, _, _, _, _, _, spills, _, found, _ = (cell.strip() for cell in row.split("|"))
        assert spills == "0"
        assert found == instruction
    assert "\n".join(rows) in page.read_text()


def test_bad_arguments() -> None:
    done = _bench("ptx", "--chips", "75")
    assert done.returncode == 2
    assert "the chip must be one of 80, 89, 90, 100" in " ".join(done.stderr.replace("│", " ").split())
    done = _bench("ptx", "--chips", "90", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "unset TRITON_INTERPRET" in " ".join(done.stderr.replace("│", " ").split())

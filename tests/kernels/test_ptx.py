"""The kernels compiled ahead of time, a few of them; `make ptx` does all. Each in a process without the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPILING = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], env=COMPILING, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("chip", "dtype", "instruction", "copies", "kernel"),
    [
        ("90", "bfloat16", "HGMMA", "cp.async", "linear n 3072, k 768, 128×256×64, gelu"),
        pytest.param(
            "90", "tf32", "HGMMA", "cp.async", "linear n 3072, k 768, 128×128×32, gelu", marks=pytest.mark.whole
        ),
        ("90", "bfloat16", "HGMMA", "TMA, TMA out", "persistent_linear n 3072, k 768, 128×256×64, gelu, stream"),
        ("90", "float16", "HGMMA", "TMA, TMA out", "persistent_linear n 768, k 3072, 128×128×64, 1536 of k, stream"),
        pytest.param(
            "90",
            "bfloat16",
            "HGMMA",
            "TMA, TMA out",
            "persistent_linear n 2304, k 768, 128×256×64",
            marks=pytest.mark.whole,
        ),
        pytest.param(
            "100",
            "bfloat16",
            "UTCHMMA",
            "TMA, TMA out",
            "persistent_linear n 3072, k 768, 64×64×64, gelu, stream",
            marks=pytest.mark.whole,
        ),
        ("90", "float8", "QGMMA", "TMA, TMA out", "persistent_linear n 3072, k 768, 128×256×128, gelu, stream"),
        pytest.param(
            "90", "float8", "HMMA", "cp.async", "narrow_linear n 2304, k 768, 16×16×32, norm", marks=pytest.mark.whole
        ),
        pytest.param(
            "90",
            "int8",
            "IGMMA",
            "TMA, TMA out",
            "persistent_linear n 3072, k 768, 128×256×128, gelu, stream",
            marks=pytest.mark.whole,
        ),
        pytest.param(
            "89", "float8", "QMMA", "cp.async", "linear n 3072, k 768, 128×128×64, gelu", marks=pytest.mark.whole
        ),
        pytest.param(
            "80", "int8", "IMMA", "cp.async", "linear n 3072, k 768, 128×128×128, gelu", marks=pytest.mark.whole
        ),
        ("90", "bfloat16", "HMMA", "cp.async", "narrow_linear n 2304, k 768, 16×16×32, norm"),
        (
            "90",
            "bfloat16",
            "HMMA",
            "cp.async",
            "whole_encoder head_dim 64, rows 16, wide 16, narrow 8, 16×16, gelu, few rows",
        ),
        ("90", "bfloat16", "HGMMA", "", "attention head_dim 64, 64×128"),
        pytest.param("90", "bfloat16", "", "", "layer_norm width 768, segments 1, residual", marks=pytest.mark.whole),
        pytest.param("90", "bfloat16", "", "", "row_attention head_dim 64, 128", marks=pytest.mark.whole),
        pytest.param(
            "80", "bfloat16", "HMMA", "cp.async", "attention head_dim 64, 64×64, many blocks", marks=pytest.mark.whole
        ),
        ("80", "bfloat16", "HMMA", "cp.async", "linear n 768, k 3072, 128×128×64, residual"),
    ],
)
def test_kernels_compile_to_tensor_cores_without_spills(
    chip: str, dtype: str, instruction: str, copies: str, kernel: str, tmp_path: Path
) -> None:
    page = tmp_path / "kernels.md"
    done = run("-m", "tests.kernels.ptx", "--chips", chip, "--dtypes", dtype, "--only", kernel, "--out", str(page))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| sm_")]
    assert rows
    for row in rows:
        assert kernel in row
        _, _, _, _, _, _, spills, _, programs, *found, _ = (cell.strip() for cell in row.split("|"))
        assert spills == "0"
        assert int(programs) >= 1
        assert found == [instruction, copies]
    assert "\n".join(rows) in page.read_text()


def faults_of(tmp_path: Path, module: str) -> list[str]:
    """What a module prints; Triton takes kernels of files alone."""
    file = tmp_path / "wrong.py"
    file.write_text(module)
    done = run("-c", f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(file)!r})")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_loads_that_do_not_run_ahead_are_seen(tmp_path: Path) -> None:
    """A barrier in the loop keeps Triton from overlapping it: the page fails and says so."""
    faults = faults_of(tmp_path, """
import triton, triton.language as tl
from distilrt.kernels import persistent_linear
from tests.kernels import ptx

@triton.jit
def _multiply(acc, x_desc, weight_desc, row, col, step, BLOCK_K: tl.constexpr):
    x = x_desc.load([row, step * BLOCK_K])
    weight = weight_desc.load([col, step * BLOCK_K])
    tl.debug_barrier()
    return tl.dot(x, tl.trans(weight), acc)

persistent_linear._multiply = _multiply
for row in ptx.rows(90, "bfloat16", "persistent_linear n 768, k 3072, 128×128×64, 1536 of k, stream"):
    print(row["faults"])
""")  # fmt: skip
    assert faults == ["['2 loads ahead of the first product, not 6']"]


def test_what_comes_before_the_wait_is_seen(tmp_path: Path) -> None:
    """Kernels that read, or write, before they wait for the one before: the page fails and says so."""
    faults = faults_of(tmp_path, """
import torch, triton, triton.language as tl
from tests.kernels import launches, ptx
from distilrt.kernels.launch import await_previous

@triton.jit
def _early_load_kernel(x_ptr, PDL: tl.constexpr):
    x = tl.load(x_ptr)
    await_previous(PDL)
    tl.store(x_ptr, x + 1)

@triton.jit
def _early_store_kernel(x_ptr, PDL: tl.constexpr):
    tl.store(x_ptr, 1)
    await_previous(PDL)

@triton.jit
def _right_kernel(x_ptr, PDL: tl.constexpr):
    await_previous(PDL)
    tl.store(x_ptr, tl.load(x_ptr) + 1)

x = torch.empty(4, device="meta")
ptx.launches = lambda *_: [
    launches.Launch(kernel, kernel.__name__, {"x_ptr": x, "PDL": True}, {"launch_pdl": True})
    for kernel in (_early_load_kernel, _early_store_kernel, _right_kernel)
]
for row in ptx.rows(90, "float32"):
    print(row["faults"])
""")  # fmt: skip
    assert faults == ["['1 loads before the wait for the kernel before']", "['no wait for the kernel before']", "[]"]

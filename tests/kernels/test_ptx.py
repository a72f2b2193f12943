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
        ("90", "bfloat16", "HMMA", "cp.async", "narrow_linear n 2304, k 768, 16×16×32, norm"),
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


def test_what_comes_before_the_wait_is_seen(tmp_path: Path) -> None:
    """Kernels that read, or write, before they wait for the one before: the page fails and says so."""
    module = tmp_path / "wrong.py"
    module.write_text("""
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
""")
    done = run("-c", f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(module)!r})")
    assert done.stdout.splitlines() == [
        "['1 loads before the wait for the kernel before']", "['no wait for the kernel before']", "[]",
    ], done.stderr  # fmt: skip

"""An AVX-512 copy of a shared inline function would kill older CPUs: per-ISA objects may share nothing.

Each per-ISA object must export its one table and nothing weak that the linker could pick for other code.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMON = ["-std=c++20", "-O2", "-fPIC", "-fno-math-errno", "-Wno-psabi"]
FLAGS: dict[str, list[str]] = {"generic": [], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}
ISAS = list(FLAGS) if platform.machine() in ("x86_64", "AMD64") else ["generic"]


@pytest.mark.parametrize("isa", ISAS)
def test_one_symbol_out_and_none_weak(isa: str, tmp_path: Path) -> None:
    target = tmp_path / "kernels.o"
    command = ["g++", *COMMON, f"-DISA={isa}", *FLAGS[isa], "-c", "csrc/kernels.cpp", "-o", str(target)]
    subprocess.run(command, check=True, cwd=ROOT)
    lines = subprocess.run(["nm", "-C", str(target)], check=True, capture_output=True, text=True).stdout.splitlines()
    symbols = [(line[17], line[19:]) for line in lines]
    exported = [name for kind, name in symbols if kind.isupper() and kind != "U"]
    assert exported == [f"distilrt::{isa}_kernels"]
    assert not [name for kind, name in symbols if kind in "vVwW"]
    undefined = {name.split("@")[0] for kind, name in symbols if kind == "U"}
    assert undefined <= {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}

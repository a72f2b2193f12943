"""Every source compiles without a warning by g++; `make wheels` holds clang to the same for every system."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pybind11
import pytest

from csrc.flags import COMMON, FOLDER, KERNELS, SOURCES, instruction_sets

pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++"),
]


def compile_quietly(source: str, flags: list[str], folder: Path) -> None:
    made = folder / "made.o"
    done = subprocess.run(
        ["g++", *COMMON, "-O2", "-g0", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags, "-isystem",
         sysconfig.get_path("include"), "-isystem", pybind11.get_include(), "-c", str(FOLDER / source),
         "-o", str(made)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert made.stat().st_size > 0


@pytest.mark.parametrize("isa", instruction_sets(platform.machine()))
def test_kernels(isa: str, tmp_path: Path) -> None:
    # g++ 12 finds fault with its own intrinsics (GCC bug 105593).
    compile_quietly(KERNELS, [*instruction_sets(platform.machine())[isa], "-Wno-maybe-uninitialized"], tmp_path)


@pytest.mark.parametrize("source", SOURCES)
def test_sources(source: str, tmp_path: Path) -> None:
    compile_quietly(source, [], tmp_path)

"""Every source compiles without a warning: by g++ here, and by clang for the systems whose wheels are made elsewhere.

Nothing is optimized, which takes seconds: of warnings that optimizing gives, `make wheels` has clang's.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pybind11
import pytest

from csrc import wheels
from csrc.flags import COMMON, FOLDER, KERNELS, SOURCES, instruction_sets, spelled_for_zig

pytestmark = pytest.mark.whole
NEEDS_GCC = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
NEEDS_ZIG = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="`make test-portable` installs it")


def check_by_gcc(source: str, flags: list[str]) -> None:
    done = subprocess.run(
        ["g++", *COMMON, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *flags, "-isystem",
         sysconfig.get_path("include"), "-isystem", pybind11.get_include(), str(FOLDER / source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@NEEDS_GCC
@pytest.mark.parametrize("isa", instruction_sets(platform.machine()))
def test_kernels(isa: str) -> None:
    check_by_gcc(KERNELS, instruction_sets(platform.machine())[isa])


@NEEDS_GCC
@pytest.mark.parametrize("source", SOURCES)
def test_sources(source: str) -> None:
    check_by_gcc(source, [])


def elsewhere() -> list[tuple[str, str, str]]:
    """Target, source and, of kernels, instruction set."""
    found = []
    for name, architecture in (("macosx_11_0_arm64", "aarch64"), ("win_amd64", "x86_64")):
        found += [(name, KERNELS, isa) for isa in instruction_sets(architecture)]
        found += [(name, source, "") for source in SOURCES]
    return found


@NEEDS_ZIG
@pytest.mark.parametrize(("name", "source", "isa"), elsewhere())
def test_other_systems(name: str, source: str, isa: str, tmp_path: Path) -> None:
    target = wheels.TARGETS[name]
    flags = spelled_for_zig(instruction_sets(target.zig.split("-")[0])[isa] if isa else [])
    if source in wheels.BINDINGS:
        python = next(iter(wheels.pythons([Path(sysconfig.get_path("include"))]).values()))
        headers = wheels.headers_for(python, target, tmp_path)
        flags += ["-isystem", str(headers), "-isystem", pybind11.get_include()]
    assert wheels.compiled(target, source, [*flags, "-O0"], tmp_path / "made.o").stat().st_size > 0

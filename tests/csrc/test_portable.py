"""Every source compiles without a warning: by g++ for this machine, and by clang for each system that is supported.

clang is the one of the package ziglang, which brings the headers of the systems. Nothing is linked or run.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
import pytest

CSRC = Path(__file__).parents[2] / "csrc"
TARGETS = ["x86_64-linux-gnu", "aarch64-linux-gnu", "aarch64-macos", "x86_64-windows-gnu"]
ROWS = re.findall(r'^(\w+)\((\w+),\s[^"]*"([^"]*)"\)$', (CSRC / "isas.h").read_text(), re.MULTILINE)
KERNELS = "kernels.cpp"
SOURCES = sorted(path.name for path in CSRC.glob("*.cpp") if path.name != KERNELS)
# These include Python.h, and nothing here has the one of Windows, which differs. That of Linux serves for macOS too.
NOT_ON_WINDOWS = {"bindings.cpp", *(name for name in SOURCES if name.startswith("bind_"))}
# As setup.py has them.
FLAGS = ["-std=c++20", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-g0"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
INCLUDE = [part for path in (sysconfig.get_path("include"), pybind11.get_include()) for part in ("-isystem", path)]

pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="`make test-portable` installs ziglang"),
]


def isas_of(architecture: str) -> list[str]:
    return [isa for of, isa, _ in ROWS if of in (architecture.upper(), "ANY")]


def kernel_flags(isa: str) -> list[str]:
    [flags] = [flags for _, of, flags in ROWS if of == isa]
    return [f"-DISA={isa}", f'-DISA_HEADER="isas/{isa}.h"', *flags.split()]


def as_zig_spells(flags: list[str]) -> list[str]:
    """An architecture and its features as zig's `-mcpu`, for zig takes no other."""
    [march] = [flag.removeprefix("-march=") for flag in flags if flag.startswith("-march=")] or ["baseline"]
    features = [flag.removeprefix("-m") for flag in flags if re.match("-m(avx|amx)", flag)]
    if arm := re.fullmatch(r"armv8(?:\.(\d))?-a\+?(.*)", march):
        march, features = "generic", [*([f"v8_{arm[1]}a"] if arm[1] else []), *filter(None, arm[2].split("+"))]
    rest = [flag for flag in flags if not re.match("-m(arch=|avx|amx)|-fno-schedule-insns", flag)]
    return ["-mcpu=" + "+".join([march, *features]).replace("-", "_"), *rest]


def compile_by(command: list[str], source: str, flags: list[str], folder: Path) -> None:
    made = folder / "made.o"
    # zig would answer from its cache, which is as large as what was compiled.
    environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [*command, *FLAGS, *WARNINGS, *INCLUDE, *flags, "-c", str(CSRC / source), "-o", str(made)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert made.stat().st_size > 0


def clang(target: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", "c++", "-target", target, "-O3"]


@pytest.mark.parametrize(
    ("target", "isa"), [(target, isa) for target in TARGETS for isa in isas_of(target.split("-")[0])]
)
def test_kernels(target: str, isa: str, tmp_path: Path) -> None:
    compile_by(clang(target), KERNELS, as_zig_spells(kernel_flags(isa)), tmp_path)


@pytest.mark.parametrize(
    ("target", "source"),
    [(to, name) for to in TARGETS for name in SOURCES if "windows" not in to or name not in NOT_ON_WINDOWS],
)
def test_sources(target: str, source: str, tmp_path: Path) -> None:
    compile_by(clang(target), source, [], tmp_path)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("isa", isas_of(platform.machine()))
def test_kernels_by_gcc(isa: str, tmp_path: Path) -> None:
    # g++ 12 finds fault with its own intrinsics (GCC bug 105593).
    compile_by(["g++", "-O2"], KERNELS, [*kernel_flags(isa), "-Wno-maybe-uninitialized"], tmp_path)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("source", SOURCES)
def test_sources_by_gcc(source: str, tmp_path: Path) -> None:
    compile_by(["g++", "-O2", "-fPIC"], source, [], tmp_path)

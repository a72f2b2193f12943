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
# As setup.py has them.
FLAGS = ["-std=c++20", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-g0"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
PYTHON = Path(sysconfig.get_path("include"))
# Python's headers are the same on every system but for pyconfig.h. That of Linux serves for macOS too; of the one of
# Windows, which is not here, the others need this:
WINDOWS = {
    **dict.fromkeys(["MS_WINDOWS", "MS_WIN32", "MS_WIN64", "NT_THREADS", "WITH_THREAD", "STDC_HEADERS"], 1),
    **dict.fromkeys(["HAVE_STDDEF_H", "HAVE_STDINT_H", "HAVE_INTTYPES_H", "HAVE_SYS_STAT_H", "HAVE_SYS_TYPES_H"], 1),
    **dict.fromkeys(["HAVE_STDARG_PROTOTYPES", "HAVE_DECL_ISNAN", "HAVE_SSIZE_T"], 1),
    **dict.fromkeys(["SIZEOF_INT", "SIZEOF_LONG", "SIZEOF_FLOAT"], 4),
    **dict.fromkeys(["SIZEOF_LONG_LONG", "SIZEOF_VOID_P", "SIZEOF_SIZE_T", "SIZEOF_TIME_T", "SIZEOF_DOUBLE"], 8),
    **dict.fromkeys(["SIZEOF_SHORT", "SIZEOF_WCHAR_T"], 2),
    "ALIGNOF_MAX_ALIGN_T": 8,
}

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


@pytest.fixture(scope="module")
def windows_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Python's headers for Windows."""
    folder = tmp_path_factory.mktemp("python") / "include"
    shutil.copytree(PYTHON, folder)
    (folder / "pyconfig.h").write_text("".join(f"#define {name} {value}\n" for name, value in WINDOWS.items()))
    return folder


def compile_by(command: list[str], source: str, flags: list[str], folder: Path, python: Path = PYTHON) -> None:
    made = folder / "made.o"
    # zig would answer from its cache, which is as large as what was compiled.
    environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [*command, *FLAGS, *WARNINGS, *flags, "-isystem", str(python), "-isystem", pybind11.get_include(),
         "-c", str(CSRC / source), "-o", str(made)],
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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_sources(target: str, source: str, tmp_path: Path, windows_python: Path) -> None:
    compile_by(clang(target), source, [], tmp_path, windows_python if "windows" in target else PYTHON)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("isa", isas_of(platform.machine()))
def test_kernels_by_gcc(isa: str, tmp_path: Path) -> None:
    # g++ 12 finds fault with its own intrinsics (GCC bug 105593).
    compile_by(["g++", "-O2"], KERNELS, [*kernel_flags(isa), "-Wno-maybe-uninitialized"], tmp_path)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("source", SOURCES)
def test_sources_by_gcc(source: str, tmp_path: Path) -> None:
    compile_by(["g++", "-O2", "-fPIC"], source, [], tmp_path)

"""The tables of kernels to test: this CPU's, and AMX's kernels with arrays for tiles, which any CPU with AVX2 runs."""

from __future__ import annotations

import fcntl
import importlib.util
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import pybind11

from distilrt import _C

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = Path(__file__).parent / "amx"
STAND_IN = "amx_stand_in"
TABLES = [*_C.available_isas(), *([STAND_IN] if "avx2" in _C.available_isas() and shutil.which("g++") else [])]
FLAGS = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]


def kernels_of(table: str, dtype: str = "float32") -> _C.Kernels:
    """The native ops of one table."""
    module = stand_in() if table == STAND_IN else _C
    kernels: _C.Kernels = module.Kernels(table, dtype)
    return kernels


def dtypes_of(table: str) -> list[str]:
    return ["float32", "bfloat16", "int8"] if table == STAND_IN else _C.dtypes(table)


@cache
def stand_in() -> Any:
    """The module `amx_stand_in`, compiled again only when a source has changed."""
    folder = CSRC.parent / "build" / STAND_IN
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{STAND_IN}{sysconfig.get_config_var('EXT_SUFFIX')}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Tests run in several processes, and the first of them compiles.
        sources = [path for top in (CSRC, SOURCES) for path in top.rglob("*") if path.suffix in (".cpp", ".h")]
        sources.append(Path(__file__))
        if not library.exists() or library.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            compile_to(library, folder)
    spec = importlib.util.spec_from_file_location(STAND_IN, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_to(library: Path, folder: Path) -> None:
    include = [f"-I{path}" for path in (CSRC, sysconfig.get_path("include"), pybind11.get_include())]
    steps = {
        SOURCES / "module.cpp": ["-O0"],
        CSRC / "system.cpp": ["-O0"],
        CSRC / "kernels.cpp": ["-O1", "-fexpensive-optimizations", "-march=x86-64-v3",  "-include", "stdexcept",
                               "-DISA=amx_stand_in", f'-DISA_HEADER="{SOURCES}/stand_in.h"'],
    }  # fmt: skip
    objects = {source: folder / f"{source.stem}.o" for source in steps}
    running = [
        subprocess.Popen(["g++", *FLAGS, *include, *flags, "-c", str(source), "-o", str(objects[source])])
        for source, flags in steps.items()
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    unfinished = library.with_suffix(".unfinished")
    subprocess.run(["g++", "-shared", *map(str, objects.values()), "-o", str(unfinished)], check=True)
    unfinished.rename(library)

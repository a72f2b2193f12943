"""`make wheels`: wheels for every system and Python from one machine, without an interpreter of either.

zig compiles and links for each target and brings its C library; the C++ library is linked in. Sources without Python's
headers are compiled once a target, the bindings and the extension once a target and Python. A wheel's bytes follow
from the sources, zig and SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch).
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pybind11
from wheel.wheelfile import WheelFile

from csrc.flags import COMMON, KERNELS, SOURCES, instruction_sets, is_current, spelled_for_zig

BUILD = Path("build/wheels").absolute()
BINDINGS = [name for name in SOURCES if name.startswith("bind")]
OLDEST = (3, 10)  # the oldest Python that there are wheels for
FREE_THREADS = (3, 14)  # the first whose form without the GIL gets wheels, too
EARLIEST = "315532800"  # 1980, the earliest time that a zip file knows


class Target(NamedTuple):
    """A system: zig's name of it, the wheel's tags, and the end of the extension's file name."""

    zig: str
    tags: Sequence[str]
    suffix: str


def _linux(zig: str, *tags: str) -> Target:
    architecture, _, library = zig.split(".")[0].split("-")
    return Target(zig, tags, f"cpython-{{}}-{architecture}-linux-{library}.so")


TARGETS = {
    target.tags[0]: target
    for target in (
        _linux("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
        _linux("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
        _linux("x86_64-linux-musl", "musllinux_1_2_x86_64"),
        _linux("aarch64-linux-musl", "musllinux_1_2_aarch64"),
        Target("x86_64-macos.11.0", ["macosx_11_0_x86_64"], "cpython-{}-darwin.so"),
        Target("aarch64-macos.11.0", ["macosx_11_0_arm64"], "cpython-{}-darwin.so"),
        Target("x86_64-windows-gnu", ["win_amd64"], "cp{}-win_amd64.pyd"),
    )
}


class Python(NamedTuple):
    """A CPython: its version without the dot, with a `t` where threads are free, and its headers."""

    version: str
    headers: Path

    @property
    def tags(self) -> str:
        return f"cp{self.version.removesuffix('t')}-cp{self.version}"


def pythons(folders: Iterable[Path]) -> dict[str, Python]:
    """The CPythons whose headers lie in these folders; the first of a version counts.

    Python's headers are the same on every system, and with and without the GIL, but for pyconfig.h, which is made here.
    """
    found: dict[str, Python] = {}
    for folder in folders:
        if (folder / "patchlevel.h").exists():
            parts = re.findall(r"define PY_M(?:AJOR|INOR)_VERSION\s+(\d+)", (folder / "patchlevel.h").read_text())
            number = tuple(map(int, parts))
            for threads in ("", "t") if number >= FREE_THREADS else ("",) if number >= OLDEST else ():
                found.setdefault("".join(parts) + threads, Python("".join(parts) + threads, folder))
    return found


def usual_folders() -> list[Path]:
    """Where this interpreter, pyenv, uv and Debian keep headers."""
    places = (".pyenv/versions", ".local/share/uv/python")
    kept = [path for place in places for path in sorted((Path.home() / place).glob("*/include/python3.*"))]
    return [Path(sysconfig.get_path("include")), *kept, *sorted(Path("/usr/include").glob("python3.*"))]


def _defined(names: str, value: int) -> dict[str, int]:
    return dict.fromkeys(names.split(), value)


_PYCONFIG = (
    _defined("WITH_THREAD STDC_HEADERS HAVE_STDDEF_H HAVE_STDINT_H HAVE_INTTYPES_H HAVE_SYS_STAT_H HAVE_SYS_TYPES_H", 1)
    | _defined("HAVE_STDARG_PROTOTYPES HAVE_DECL_ISNAN HAVE_SSIZE_T HAVE_BUILTIN_ATOMIC HAVE_STD_ATOMIC", 1)
    | _defined("SIZEOF_LONG_LONG SIZEOF_VOID_P SIZEOF_SIZE_T SIZEOF_TIME_T SIZEOF_DOUBLE", 8)
    | {"SIZEOF_INT": 4, "SIZEOF_FLOAT": 4, "SIZEOF_SHORT": 2, "ALIGNOF_MAX_ALIGN_T": 16}
)
_PYCONFIG_WINDOWS = _defined(
    "MS_WINDOWS MS_WIN32 MS_WIN64 NT_THREADS HAVE_DECLSPEC_DLL Py_ENABLE_SHARED", 1
) | {"SIZEOF_LONG": 4, "SIZEOF_WCHAR_T": 2}  # fmt: skip
_PYCONFIG_UNIX = _defined("HAVE_PTHREAD_H HAVE_UNISTD_H HAVE_ERRNO_H HAVE_SYS_TIME_H", 1) | {
    "SIZEOF_LONG": 8,
    "SIZEOF_WCHAR_T": 4,
}


def headers_for(python: Python, target: Target, build: Path = BUILD) -> Path:
    """A folder of Python's headers with the pyconfig.h of the target, as far as the bindings need it."""
    folder = build / target.tags[0] / f"python{python.version}"
    shutil.copytree(python.headers, folder, dirs_exist_ok=True)
    chosen = _PYCONFIG | (_PYCONFIG_WINDOWS if "windows" in target.zig else _PYCONFIG_UNIX)
    if python.version.endswith("t"):
        chosen["Py_GIL_DISABLED"] = 1
    (folder / "pyconfig.h").unlink()  # Debian's is a link
    (folder / "pyconfig.h").write_text("".join(f"#define {name} {value}\n" for name, value in chosen.items()))
    return folder


def zig(command: str, *arguments: str | Path) -> None:
    """One of zig's commands; what it says, a warning too, is an error."""
    # zig would answer from its cache, which is as large as what was compiled.
    environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(BUILD / "zig")}
    done = subprocess.run(
        [sys.executable, "-m", "ziglang", *command.split(), *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    if done.returncode or done.stderr:
        raise SystemExit(f"zig {command} {' '.join(map(str, arguments))}\n{done.stderr or done.returncode}")


def compiled(target: Target, source: str, flags: Sequence[str], made: Path) -> Path:
    """The object of a source."""
    if not is_current(made):
        made.parent.mkdir(parents=True, exist_ok=True)
        unfinished, common = made.with_suffix(".unfinished.o"), [*COMMON, "-Wall", "-Wextra", "-g0", "-fPIC"]
        zig("c++", "-target", target.zig, *common, *flags, "-c", f"csrc/{source}", "-o", unfinished)
        unfinished.replace(made)
    return made


def compile_for(target: Target, pool: ThreadPoolExecutor) -> list[Path]:
    """The objects of a target that know nothing of Python: each instruction set's kernels, and the encoder.

    Kernels ask nothing of the C library, so that all of one system share them.
    """
    architecture, system, *_ = target.zig.split("-")
    shared, own = BUILD / f"{architecture}-{system}", BUILD / target.tags[0]
    kernels = [pool.submit(compiled, target, KERNELS, spelled_for_zig(flags), shared / f"{isa}.o")
               for isa, flags in instruction_sets(architecture).items()]  # fmt: skip
    others = [pool.submit(compiled, target, source, spelled_for_zig([]), own / f"{source}.o")
              for source in SOURCES if source not in BINDINGS]  # fmt: skip
    return [task.result() for task in [*kernels, *others]]


def extension(target: Target, python: Python, objects: Sequence[Path], pool: ThreadPoolExecutor) -> Path:
    """`_C` of a target and Python."""
    headers = headers_for(python, target)
    flags = [*spelled_for_zig([]), "-isystem", str(headers), "-isystem", pybind11.get_include()]
    bindings = [pool.submit(compiled, target, source, flags, headers / f"{source}.o") for source in BINDINGS]
    made = headers / f"_C.{target.suffix.format(python.version)}"
    if "macos" in target.zig:  # not -x, by which zig 0.17 makes a wrong table of indirect symbols
        own = ["-Wl,-undefined,dynamic_lookup", f"-Wl,-install_name,@rpath/{made.name}"]
    elif "windows" in target.zig:
        own = ["-Wl,-s", str(import_library(python, headers))]
    else:
        shown = headers / "shown.map"  # of the C++ library inside, nothing
        shown.write_text("{ global: PyInit__C; local: *; };")
        own = ["-Wl,-s", f"-Wl,--version-script={shown}"]
    done = [task.result() for task in bindings]
    zig("c++", "-target", target.zig, "-shared", "-O3", "-g0", *objects, *done, *own, "-o", made)
    return made


def import_library(python: Python, headers: Path) -> Path:
    """What tells the linker which names Windows' python3X.dll has: every one that the headers declare."""
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(headers.rglob("*.h")))
    names = sorted(set(re.findall(r"PyAPI_(FUNC|DATA)\([^)]*\)\s*(\w+)", text)))
    definition, library = headers / "python.def", headers / "python.lib"
    lines = [f"{name}{' DATA' if kind == 'DATA' else ''}" for kind, name in names]
    definition.write_text("\n".join([f'LIBRARY "python{python.version}.dll"', "EXPORTS", *lines, ""]))
    zig("dlltool", "-m", "i386:x86-64", "-d", definition, "-l", library)
    return library


def pure() -> Path:
    """A folder of everything in a wheel but the extension and WHEEL, as setuptools makes it."""
    folder = BUILD / "pure"
    shutil.rmtree(folder, ignore_errors=True)
    metadata = f"from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel({str(folder)!r})"
    for command in (["setup.py", "-q", "build_py", "--build-lib", str(folder)], ["-c", metadata]):
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    for beside in folder.glob("*.egg-info"):
        shutil.rmtree(beside)
    return folder


def assemble(target: Target, python: Python, library: Path, files: Path, out: Path) -> Path:
    """The wheel of a target and Python."""
    stage = BUILD / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(files, stage)
    shutil.copyfile(library, stage / "distilrt" / library.name)
    [about] = stage.glob("*.dist-info")
    tags = "".join(f"Tag: {python.tags}-{tag}\n" for tag in target.tags)
    (about / "WHEEL").write_text(f"Wheel-Version: 1.0\nGenerator: distilrt\nRoot-Is-Purelib: false\n{tags}")
    for path in stage.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.name == library.name else 0o644)
    made = out / f"{about.stem}-{python.tags}-{'.'.join(target.tags)}.whl"
    with WheelFile(made, "w") as wheel:
        wheel.write_files(stage)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Build wheels for other systems.")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the wheels")
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated: %(default)s")
    parser.add_argument("--pythons", default="", help="comma-separated, as in 310,314t: those whose headers are found")
    parser.add_argument("--headers", type=Path, action="append", default=[], help="a folder with Python.h; repeatable")
    arguments = parser.parse_args()
    known = pythons([*arguments.headers, *usual_folders()])
    wanted = list(filter(None, arguments.pythons.split(","))) or sorted(known)
    if unknown := [*(set(wanted) - known.keys()), *(set(arguments.targets.split(",")) - TARGETS.keys())]:
        raise SystemExit(
            f"{', '.join(unknown)}: there are headers of Python {', '.join(sorted(known))} (name others' folders by "
            f"--headers), and targets are {', '.join(TARGETS)}"
        )
    os.environ.setdefault("SOURCE_DATE_EPOCH", EARLIEST)
    logging.getLogger("wheel").setLevel(logging.WARNING)  # which names every file
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = pure()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for target in (TARGETS[name] for name in arguments.targets.split(",")):
            objects = compile_for(target, pool)
            for python in (known[version] for version in wanted):
                made = assemble(target, python, extension(target, python, objects, pool), files, arguments.out)
                print(f"{made.stat().st_size / 1e6:5.2f} MB  {made}", flush=True)


if __name__ == "__main__":
    main()

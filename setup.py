"""Builds `distilrt._C`: kernels.cpp once per instruction set, everything else for the baseline CPU.

Metadata is in pyproject.toml. Strict editable mode: it is the only one in which tools see a package made of two root
folders (run the install again after adding a file).
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

# Rows of the list that csrc/dispatch.cpp compiles: architecture, instruction set, features, flags.
ISA_ROW = re.compile(r'^(\w+)\((\w+),\s[^"]*"([^"]*)"\)$', re.MULTILINE)
MACHINE = platform.machine().replace("AMD64", "x86_64").replace("arm64", "aarch64")
ISA_FLAGS = {
    isa: flags.split()
    for architecture, isa, flags in ISA_ROW.findall(Path("csrc/isas.h").read_text())
    if architecture in ("ANY", MACHINE.upper())
}
# NaN and infinity keep their meaning: nothing of -ffast-math beyond these two.
COMMON_FLAGS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
# g++ 12 finds fault with its own intrinsics (GCC bug 105593); clang does not know that warning, nor all flags of rows.
KERNEL_FLAGS = [
    *COMMON_FLAGS,
    "-g0",
    *("-Wno-maybe-uninitialized", "-Wno-unknown-warning-option", "-Wno-ignored-optimization-argument"),
]
# DISTILRT_SANITIZE=address,undefined (or thread) builds for a sanitizer run; see `make sanitize`.
SANITIZE = os.environ.get("DISTILRT_SANITIZE")
# -O1 alone would not form FMAs, and int8 rounding with and without them differs at ties.
SANITIZE_FLAGS = (
    [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1", "-fexpensive-optimizations"] if SANITIZE else []
)

SOURCES = sorted(str(path) for path in Path("csrc").glob("*.cpp") if path.name != "kernels.cpp")
HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.h"))


class BuildKernels(build_ext):
    """Compiles one kernels object per ISA, in place of one set of flags for every source.

    Objects and the extension get their names when they are whole: an interrupted build leaves nothing that the next one
    would take for built.
    """

    def build_extension(self, ext: Pybind11Extension) -> None:
        ext.extra_objects = [self.kernels_object(isa, flags) for isa, flags in ISA_FLAGS.items()]
        link = self.compiler.link_shared_object

        def link_whole(objects: list[str], path: str, *args: object, **options: object) -> None:
            link(objects, f"{path}.unfinished", *args, **options)
            os.replace(f"{path}.unfinished", path)

        self.compiler.link_shared_object = link_whole
        super().build_extension(ext)

    def kernels_object(self, isa: str, flags: list[str]) -> str:
        # Not in build_temp, which an editable install throws away: these are the slow ones.
        folder = Path("build", f"kernels-{platform.machine()}{'-' + SANITIZE if SANITIZE else ''}", isa)
        newest = max(Path(name).stat().st_mtime for name in ["csrc/kernels.cpp", "setup.py", *HEADERS])
        target = folder / "csrc" / "kernels.o"
        if not target.exists() or target.stat().st_mtime < newest:
            [unfinished] = self.compiler.compile(
                ["csrc/kernels.cpp"],
                output_dir=str(folder / "unfinished"),
                macros=[("ISA", isa), ("ISA_HEADER", f'"isas/{isa}.h"')],
                extra_postargs=[*KERNEL_FLAGS, *SANITIZE_FLAGS, *flags],
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished, target)
        return str(target)


setup(
    ext_modules=[
        Pybind11Extension(
            "distilrt._C",
            sources=SOURCES,
            depends=["setup.py", "csrc/kernels.cpp", *HEADERS],
            extra_compile_args=[*COMMON_FLAGS, *SANITIZE_FLAGS],
            extra_link_args=["-pthread", *SANITIZE_FLAGS],
            cxx_std=20,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"editable_wheel": {"mode": "strict"}},
)

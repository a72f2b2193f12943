"""Builds `distilrt._C`: kernels.cpp once per instruction set, everything else for the baseline CPU.

Metadata is in pyproject.toml. Strict editable mode: it is the only one in which tools see a package made of two root
folders (run the install again after adding a file).
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import errors, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))  # a build from the sdist does not look here
from csrc import flags

MACHINE = platform.machine().replace("AMD64", "x86_64").replace("arm64", "aarch64")
# g++ 12 finds fault with its own intrinsics (GCC bug 105593); clang does not know that warning, nor all flags of rows.
KERNEL_FLAGS = [
    *flags.COMMON,
    "-g0",
    *("-Wno-maybe-uninitialized", "-Wno-unknown-warning-option", "-Wno-ignored-optimization-argument"),
]
# DISTILRT_SANITIZE=address,undefined (or thread) builds for a sanitizer run; see `make sanitize`.
SANITIZE = os.environ.get("DISTILRT_SANITIZE")
# -O1 alone would not form FMAs, and int8 rounding with and without them differs at ties.
SANITIZE_FLAGS = (
    [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1", "-fexpensive-optimizations"] if SANITIZE else []
)

SOURCES = [f"csrc/{name}" for name in flags.SOURCES]
HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.h"))


class BuildKernels(build_ext):
    """Compiles one kernels object per ISA, in place of one set of flags for every source.

    Objects and the extension get their names when they are whole: an interrupted build leaves nothing that the next one
    would take for built.
    """

    def run(self) -> None:
        try:
            super().run()
        except (errors.CompileError, errors.ExecError, errors.LinkError, errors.PlatformError) as error:
            python = f"{platform.python_implementation()} {platform.python_version()}, {sysconfig.get_platform()}"
            raise SystemExit(
                f"distilrt could not be compiled: {error}\nThere is no wheel of it for this Python ({python}), and "
                "to build one takes a compiler of C++20, g++ 12 or newer (Debian: apt-get install g++) or clang 14 or "
                "newer (macOS: xcode-select --install), and Python's headers (Debian: apt-get install python3-dev)"
            ) from None

    def build_extension(self, ext: Pybind11Extension) -> None:
        isas = flags.instruction_sets(MACHINE)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(self.kernels_object, isas, isas.values()))
        link = self.compiler.link_shared_object

        def link_whole(objects: list[str], path: str, *args: object, **options: object) -> None:
            link(objects, f"{path}.unfinished", *args, **options)
            os.replace(f"{path}.unfinished", path)

        self.compiler.link_shared_object = link_whole
        super().build_extension(ext)

    def kernels_object(self, isa: str, wanted: list[str]) -> str:
        # Not in build_temp, which an editable install throws away: these are the slow ones.
        folder = Path("build", f"kernels-{platform.machine()}{'-' + SANITIZE if SANITIZE else ''}", isa)
        target = folder / "csrc" / "kernels.o"
        if not flags.is_current(target):
            [unfinished] = self.compiler.compile(
                ["csrc/kernels.cpp"],
                output_dir=str(folder / "unfinished"),
                extra_postargs=[*KERNEL_FLAGS, *SANITIZE_FLAGS, *wanted],
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished, target)
        return str(target)


ParallelCompile().install()  # The other sources are compiled on all cores, too.
setup(
    ext_modules=[
        Pybind11Extension(
            "distilrt._C",
            sources=SOURCES,
            depends=["setup.py", "csrc/flags.py", "csrc/kernels.cpp", *HEADERS],
            extra_compile_args=[*flags.COMMON, *SANITIZE_FLAGS],
            extra_link_args=["-pthread", *SANITIZE_FLAGS],
            cxx_std=20,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"editable_wheel": {"mode": "strict"}},
)

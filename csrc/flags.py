"""How every source is compiled: the flags of each instruction set, by g++, by clang, and as zig spells them."""

from __future__ import annotations

import re
from pathlib import Path

# Rows of the list that dispatch.cpp compiles: architecture, instruction set, features, flags.
_ROW = re.compile(r'^(\w+)\((\w+),\s[^"]*"([^"]*)"\)$', re.MULTILINE)
FOLDER = Path(__file__).parent
KERNELS = "kernels.cpp"  # compiled once for each instruction set
SOURCES = sorted(path.name for path in FOLDER.glob("*.cpp") if path.name != KERNELS)
# NaN and infinity keep their meaning: nothing of -ffast-math beyond these two.
COMMON = ["-std=c++20", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]


def instruction_sets(architecture: str) -> dict[str, list[str]]:
    """The flags of kernels.cpp for each instruction set of an architecture, as in x86_64 or aarch64."""
    rows = _ROW.findall((FOLDER / "isas.h").read_text())
    return {
        isa: [f"-DISA={isa}", f'-DISA_HEADER="isas/{isa}.h"', *flags.split()]
        for of, isa, flags in rows
        if of in ("ANY", architecture.upper())
    }


def is_current(made: Path) -> bool:
    """Whether an object is there and newer than all sources and flags, any of which it may come of."""
    files = [*FOLDER.rglob("*.h"), *FOLDER.glob("*.cpp"), Path(__file__), FOLDER.parent / "setup.py"]
    return made.exists() and made.stat().st_mtime > max(path.stat().st_mtime for path in files)


def spelled_for_zig(flags: list[str]) -> list[str]:
    """An architecture and its features as zig's `-mcpu`, for zig takes no other; the other flags as they are."""
    [march] = [flag.removeprefix("-march=") for flag in flags if flag.startswith("-march=")] or ["baseline"]
    features = [flag.removeprefix("-m") for flag in flags if re.match("-m(avx|amx)", flag)]
    if arm := re.fullmatch(r"armv8(?:\.(\d))?-a\+?(.*)", march):
        march, features = "generic", [*([f"v8_{arm[1]}a"] if arm[1] else []), *filter(None, arm[2].split("+"))]
    cpu = "+".join([march, *features]).replace("-", "_")
    others = " ".join(flag for flag in flags if not re.match("-m(arch=|avx|amx)", flag))
    return [f"-mcpu={cpu}", *others.replace("-fno-schedule-insns", "-mllvm -enable-misched=false").split()]

"""csrc/amx-inl.h as it was compiled: the loops over the depth hold tiles in registers and do little else.

Looks at the object that the build (`make dev`) left behind. native_tables.py has arrays for tiles, to test numbers.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

OBJECT = Path(__file__).parents[2] / "build" / f"kernels-{platform.machine()}" / "avx512_amx" / "csrc" / "kernels.o"
SHAPES = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)]  # tiles of A and of B
PRODUCTS = {"DotInt8": "tdpbusd", "DotBf16": "tdpbf16ps", "DotOf": "tdpbf16ps"}  # DotOf: attention


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86-64's")
@pytest.mark.parametrize(("dot", "product"), PRODUCTS.items())
@pytest.mark.parametrize(("tall", "wide"), SHAPES)
def test_loop_over_the_depth(dot: str, product: str, tall: int, wide: int) -> None:
    loop = inner_loop(function(rf"AmxTile<[^,\n]*::{dot}\b[^\n]*::sums<{tall}, {wide}>"), product)
    counts = Counter(line.split()[0] for line in loop)
    assert counts[product] == tall * wide
    assert counts["tileloadd"] == tall + wide
    assert {name for name in counts if "til" in name} == {"tileloadd"}
    assert not [line for line in loop if "mm" in line and ("%rsp" in line or "%rbp" in line)]
    assert len(loop) <= 20 + 3 * tall * wide  # beside them addresses, and weights to ask for


@cache
def disassembly() -> str:
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(OBJECT)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def function(name: str) -> dict[int, str]:
    """The instructions of one function by their addresses; `name` is an expression that fits a part of its name."""
    [body] = re.findall(rf"^[0-9a-f]+ <[^\n]*{name}[^\n]*:\n(.*?)\n\n", disassembly(), re.MULTILINE | re.DOTALL)
    return {int(at, 16): code for at, code in re.findall(r"^ *([0-9a-f]+):\t([^<\n]*)", body, re.MULTILINE)}


def inner_loop(lines: dict[int, str], instruction: str) -> list[str]:
    """The shortest run of lines between a jump back and where it leads to that has the instruction."""
    ends = [(int(jump[1], 16), at) for at, code in lines.items() if (jump := re.match(r"j\w+ +([0-9a-f]+) ", code))]
    runs = [[line for at, line in lines.items() if first <= at <= last] for first, last in ends if first <= last]
    return min((run for run in runs if any(instruction in line for line in run)), key=len)

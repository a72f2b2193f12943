"""csrc/amx-inl.h as it was compiled: the loops over the depth hold tiles in registers and do little else.

Looks at the object that the build (`make dev`) left behind. native_tables.py has arrays for tiles, to test numbers.
"""

from __future__ import annotations

import platform
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.csrc.native_tables import STAND_IN, TABLES, stand_in
from tests.machine_code import Lines, functions, loops

OBJECT = Path(__file__).parents[2] / "build" / f"kernels-{platform.machine()}" / "avx512_amx" / "csrc" / "kernels.o"
SHAPES = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)]  # tiles of A and of B
PRODUCTS = {"DotInt8": "tdpbusd", "DotBf16": "tdpbf16ps", "DotOf": "tdpbf16ps"}  # DotOf: attention


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86-64's")
@pytest.mark.parametrize(("dot", "product"), PRODUCTS.items())
@pytest.mark.parametrize(("tall", "wide"), SHAPES)
def test_loop_over_the_depth(dot: str, product: str, tall: int, wide: int) -> None:
    loop = inner_loop(rf"AmxTile<[^,]*::{dot}\b.*::sums<{tall}, {wide}>", product)
    counts = Counter(line.split()[0] for line in loop)
    assert counts[product] == tall * wide
    assert counts["tileloadd"] == tall + wide
    assert {name for name in counts if "til" in name} == {"tileloadd"}
    assert not [line for line in loop if "mm" in line and ("%rsp" in line or "%rbp" in line)]
    assert len(loop) <= 20 + 3 * tall * wide  # beside them addresses, and weights to ask for


@pytest.mark.skipif(STAND_IN not in TABLES, reason="needs AVX2 and g++")
def test_stand_in_finds_a_release_too_many() -> None:
    with pytest.raises(RuntimeError, match="tiles were released that were not configured"):
        stand_in().release_too_often()


@cache
def compiled() -> list[tuple[str, Lines]]:
    return functions(OBJECT)


def inner_loop(name: str, instruction: str) -> list[str]:
    """The shortest loop with the instruction in the one function whose name the expression fits a part of."""
    [lines] = [lines for function, lines in compiled() if re.search(name, function)]
    return min((loop for loop in loops(lines).values() if any(instruction in line for line in loop)), key=len)

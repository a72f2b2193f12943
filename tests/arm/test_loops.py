"""Multiply-adds an instruction of the inner loops of ARM's kernels, counted in objects: in g++'s, which `make test-arm`
built, and in clang's, where `make test-portable` made them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from csrc.flags import is_current
from tests.machine_code import functions, innermost

BUILD = Path(__file__).parents[2] / "build"
OBJECTS = {"g++": "kernels-aarch64/{}/csrc/kernels.o", "clang": "wheels/aarch64-linux/{}.o"}
TOOLS = BUILD / "arm" / "tools" / "usr"  # where the system has no compiler for ARM

# An sadalp adds what an smull and an smull2 multiplied.
PRODUCTS = {"fmla": 4, "sadalp": 16, "sdot": 16, "usdot": 16, "sudot": 16, "bfdot": 8, "usmmla": 32, "bfmmla": 16}
# What the largest tile of each table and instruction does at least, of all instructions of its loop.
BOUNDS = [
    ("neon", "fmla", 2.3),
    ("neon", "sadalp", 3),
    ("neon_dotprod", "fmla", 2.3),
    ("neon_dotprod", "sdot", 8),
    ("neon_i8mm_bf16", "fmla", 2.3),
    ("neon_i8mm_bf16", "sudot", 8),
    ("neon_i8mm_bf16", "bfdot", 4),
    ("neon_i8mm_bf16", "usmmla", 16),
    ("neon_i8mm_bf16", "bfmmla", 8),
]

pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(not (BUILD / "kernels-aarch64").exists(), reason="`make test-arm` builds what is counted here"),
    pytest.mark.parametrize("compiler", OBJECTS),
]


@cache
def inner_loops(isa: str, compiler: str) -> list[list[list[str]]]:
    """The loops without a loop inside them, of each function that sums a tile."""
    made = BUILD / OBJECTS[compiler].format(isa)
    if compiler == "clang" and not is_current(made):
        pytest.skip("`make test-portable` makes what is counted here")
    path, libraries = f"{TOOLS / 'bin'}:{os.environ['PATH']}", str(TOOLS / "lib" / "x86_64-linux-gnu")
    environment = {**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries}
    found = functions(made, "aarch64-linux-gnu-objdump", environment)
    return [innermost(lines) for name, lines in found if "Tile<" in name]


def products(loop: list[str], names: Iterable[str] = PRODUCTS) -> int:
    return sum(PRODUCTS[name] for line in loop if (name := line.split()[0]) in names)


@pytest.mark.parametrize(("isa", "name", "bound"), BOUNDS)
def test_multiply_adds_an_instruction(isa: str, name: str, bound: float, compiler: str) -> None:
    """In the largest tiles' loops over whole groups of lanes; what is left of the depth has a loop of its own."""
    found = [[(products(loop, [name]), len(loop)) for loop in of_one] for of_one in inner_loops(isa, compiler)]
    best = [max(loops, key=lambda loop: loop[0] / loop[1]) for loops in found if loops]
    largest = max(count for count, _ in best)
    assert largest > 0
    assert min(count / size for count, size in best if count == largest) >= bound


@pytest.mark.parametrize("isa", ["neon", "neon_dotprod", "neon_i8mm_bf16"])
def test_loops_leave_the_stack_alone(isa: str, compiler: str) -> None:
    summing = [loop for of_one in inner_loops(isa, compiler) for loop in of_one if products(loop)]
    assert len(summing) > 20
    for loop in summing:
        assert not [line for line in loop if "[sp" in line]

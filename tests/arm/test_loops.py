"""Multiply-adds an instruction of the inner loops of ARM's kernels, counted in objects that `make test-arm` built."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build"
OBJECTS = BUILD / "kernels-aarch64"
TOOLS = BUILD / "arm" / "tools" / "usr"  # where the system has no compiler for ARM

PRODUCTS = {"fmla": 4, "sdot": 16, "usdot": 16, "sudot": 16, "bfdot": 8, "usmmla": 32, "bfmmla": 16}
# What the largest tile of each table and instruction does at least, of all instructions of its loop.
BOUNDS = [
    ("neon", "fmla", 2.3),
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
    pytest.mark.skipif(not OBJECTS.exists(), reason="`make test-arm` builds what is counted here"),
]


def disassembly(isa: str) -> str:
    path, libraries = f"{TOOLS / 'bin'}:{os.environ['PATH']}", str(TOOLS / "lib" / "x86_64-linux-gnu")
    command = ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", "-C", str(OBJECTS / isa / "csrc" / "kernels.o")]
    environment = {**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries}
    return subprocess.check_output(command, text=True, env=environment)


def functions(isa: str) -> Iterator[list[list[str]]]:
    """Of each function that sums a tile the innermost loops: what lies from the target of a jump back to the jump."""
    for function in disassembly(isa).split("\n\n"):
        if "Tile<" not in function.partition("\n")[0]:
            continue
        found = re.findall(r"^ +([0-9a-f]+):\t(.*)$", function, re.MULTILINE)
        lines = [(int(at, 16), instruction) for at, instruction in found]
        jumps = [(int(to[1], 16), at) for at, line in lines if (to := re.match(r"[bct]\S*\s.*?\b([0-9a-f]+) <", line))]
        back = {(start, end) for start, end in jumps if start <= end}
        inner = [x for x in back if not any(x[0] <= y[0] and y[1] <= x[1] for y in back - {x})]
        yield [[line for at, line in lines if start <= at <= end] for start, end in inner]


def products(loop: list[str], names: Iterable[str] = PRODUCTS) -> int:
    return sum(PRODUCTS[name] for line in loop if (name := line.split()[0]) in names)


@pytest.mark.parametrize(("isa", "name", "bound"), BOUNDS)
def test_multiply_adds_an_instruction(isa: str, name: str, bound: float) -> None:
    """In the largest tiles' loops over whole groups of lanes; what is left of the depth has a loop of its own."""
    found = [[(products(loop, [name]), len(loop)) for loop in loops] for loops in functions(isa)]
    best = [max(loops, key=lambda loop: loop[0] / loop[1]) for loops in found if loops]
    largest = max(count for count, _ in best)
    assert largest > 0
    assert min(count / size for count, size in best if count == largest) >= bound


@pytest.mark.parametrize("isa", ["neon", "neon_dotprod", "neon_i8mm_bf16"])
def test_loops_leave_the_stack_alone(isa: str) -> None:
    summing = [loop for loops in functions(isa) for loop in loops if products(loop)]
    assert len(summing) > 20
    for loop in summing:
        assert not [line for line in loop if "[sp" in line]

"""The functions of a compiled object and the loops in them, as objdump shows them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

Lines = dict[int, str]  # instructions by their addresses


def functions(
    file: Path, objdump: str = "objdump", environment: Mapping[str, str] | None = None
) -> list[tuple[str, Lines]]:
    """Each function's name, demangled, and its instructions."""
    command = [objdump, "-d", "-C", "--no-show-raw-insn", str(file)]
    found = []
    for block in subprocess.check_output(command, text=True, env=environment).split("\n\n"):
        if head := re.match(r"\s*[0-9a-f]+ <(.*)>:\n", block):
            lines = re.findall(r"^ *([0-9a-f]+):\t(.*)$", block, re.MULTILINE)
            found.append((head[1], {int(at, 16): instruction for at, instruction in lines}))
    return found


def loops(lines: Lines) -> dict[tuple[int, int], list[str]]:
    """The instructions between each jump back within a function and where it leads to, both included."""
    jumps = [(int(jump[1], 16), at) for at, line in lines.items()
             if (jump := re.match(r"(?:j|b|cb|tb)\S* .*?\b([0-9a-f]+) <", line.replace("\t", " ")))]  # fmt: skip
    back = {(start, end) for start, end in jumps if min(lines) <= start <= end}
    return {span: [line for at, line in lines.items() if span[0] <= at <= span[1]] for span in back}


def innermost(lines: Lines) -> list[list[str]]:
    """The loops without a loop inside them."""
    found = loops(lines)
    return [loop for (start, end), loop in found.items()
            if not any(start <= first and last <= end for first, last in found.keys() - {(start, end)})]  # fmt: skip

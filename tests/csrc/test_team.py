"""csrc/team.* and thread_pool.*: every item of a phase is done once, and after all of the phase before, on up to 64
threads, which are eight groups."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
PROGRAM = Path(__file__).parent / "pool" / "program.cpp"
SOURCES = [PROGRAM, *(CSRC / f"{name}.cpp" for name in ("fork_lock", "system", "team", "thread_pool"))]


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("setarch") is None, reason="needs g++ and setarch")
@pytest.mark.parametrize("flags", [["-O2"], ["-O1", "-g", "-fsanitize=thread"]], ids=["plain", "sanitized"])
def test_phases_follow_one_another(tmp_path: Path, flags: list[str]) -> None:
    program = tmp_path / "program"
    build = ["g++", "-std=c++20", "-pthread", *flags, f"-I{CSRC}", *map(str, SOURCES), "-o", str(program)]
    subprocess.run(build, check=True)
    threads = ["2", "3", "8", "9", "17", "32", "64"]
    # ThreadSanitizer needs fixed addresses, and no other sanitizer beside it.
    alone = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = ["setarch", "-R", str(program), *threads]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stdout + done.stderr

"""An AVX-512 copy of a shared inline function would kill older CPUs: per-ISA objects may share nothing.

Each object must export its one table and nothing weak that the linker could pick for other code. Looks at the objects
that the build (`make dev`) left behind.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

OBJECTS = sorted((Path(__file__).parents[2] / "build" / f"kernels-{platform.machine()}").glob("*/csrc/kernels.o"))


def test_there_are_objects() -> None:
    assert OBJECTS, "the build left no objects; run `make dev` first"


@pytest.mark.parametrize("target", OBJECTS, ids=lambda path: path.parts[-3])
def test_one_symbol_out_and_none_weak(target: Path) -> None:
    lines = subprocess.run(["nm", "-C", str(target)], check=True, capture_output=True, text=True).stdout.splitlines()
    symbols = [(line[17], line[19:]) for line in lines]
    exported = [name for kind, name in symbols if kind.isupper() and kind != "U"]
    assert exported == [f"distilrt::{target.parts[-3]}_kernels"]
    assert not [name for kind, name in symbols if kind in "vVwW"]
    undefined = {name.split("@")[0] for kind, name in symbols if kind == "U"}
    assert undefined <= {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}

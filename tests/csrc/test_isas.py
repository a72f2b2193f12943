"""csrc/isas.h: each row has a header, and this CPU runs what it has the features for."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from distilrt import _C

CSRC = Path(__file__).parents[2] / "csrc"
ROWS = re.findall(r"^(\w+)\((\w+), ", (CSRC / "isas.h").read_text(), re.MULTILINE)
# As the kernel calls what a set needs.
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
FLAGS = {
    "avx512_bf16": AVX512 | {"avx512_vnni", "avx512_bf16"},
    "avx512_vnni": AVX512 | {"avx512_vnni"},
    "avx512": AVX512,
    "avx2_vnni": {"avx2", "fma", "avx_vnni"},
    "avx2": {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"},
    "generic": set(),
}


def test_a_row_is_a_header() -> None:
    assert {path.stem for path in (CSRC / "isas").glob("*.h")} == {isa for _, isa in ROWS}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the rows are for x86-64")
def test_this_cpu_runs_what_it_has_the_features_for() -> None:
    found = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert found is not None
    flags = set(found[1].split())
    assert _C.available_isas() == [isa for _, isa in ROWS if FLAGS[isa] <= flags]

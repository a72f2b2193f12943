"""csrc/isas.h: each row has a header, this CPU runs what it has the features for, and says what it lacks."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from distilrt import _C
from distilrt.isas import why_not_the_best

CSRC = Path(__file__).parents[2] / "csrc"
ROWS = re.findall(r"^(\w+)\((\w+),\s", (CSRC / "isas.h").read_text(), re.MULTILINE)
HERE = [isa for architecture, isa in ROWS if architecture in ("ANY", platform.machine().upper())]
# As the kernel calls what a set needs.
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
FLAGS = {
    "avx512_amx": AVX512 | {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
    "avx512_bf16": AVX512 | {"avx512_vnni", "avx512_bf16"},
    "avx512_vnni": AVX512 | {"avx512_vnni"},
    "avx512": AVX512,
    "avx2_vnni": {"avx2", "fma", "avx_vnni"},
    "avx2": {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"},
    "neon_i8mm_bf16": {"asimddp", "i8mm", "bf16"},
    "neon_dotprod": {"asimddp"},
    "neon": {"asimd"},
    "generic": set(),
}


def test_a_row_is_a_header() -> None:
    assert {path.stem for path in (CSRC / "isas").glob("*.h")} == {isa for _, isa in ROWS}


def test_this_cpu_runs_what_it_has_the_features_for() -> None:
    found = re.search(r"^(?:flags|Features)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert found is not None
    flags = set(found[1].split())
    if platform.machine() == "aarch64" and "asimd" not in flags:
        pytest.skip("an emulator shows its host's features; `make test-arm` says which table each CPU must get")
    assert _C.available_isas() == [isa for isa in HERE if FLAGS[isa] <= flags]


def test_no_table_is_passed_over_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    best, missing = _C.available_isas()[0], _C.missing_features()
    assert list(missing) == list(HERE)
    assert [isa for isa, features in missing.items() if not features] == _C.available_isas()
    for isa in list(HERE)[: list(HERE).index(best)]:
        assert f"{isa} needs {' and '.join(missing[isa])}" in why_not_the_best(best)
    # A worse one that the CPU lacks is no reason.
    monkeypatch.setattr(_C, "missing_features", lambda: {best: [], "worse": ["something"]})
    assert why_not_the_best(best) == ""
    assert why_not_the_best("generic").endswith(f"as DISTILRT_FORCE_ISA says; the best here is {best}")

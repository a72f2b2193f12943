"""csrc/isas.h: each row has a header, this CPU runs what it has the features for, and says what it lacks."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distilrt import _C
from distilrt.isas import why_not_the_best
from tests.csrc.tiles import may_use_tiles

CSRC = Path(__file__).parents[2] / "csrc"
ROWS = re.findall(r"^(\w+)\((\w+),\s", (CSRC / "isas.h").read_text(), re.MULTILINE)
HERE = [isa for architecture, isa in ROWS if architecture in ("ANY", platform.machine().upper())]
# As the kernel calls what a set needs.
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
FLAGS = {
    "avx512_amx": AVX512 | {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "permission"},
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


def cpu_flags() -> set[str]:
    found = re.search(r"^(?:flags|Features)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert found is not None
    return set(found[1].split())


def run_alone(lines: str, isa: str = "") -> str:
    """What a process of its own prints; this one has asked for the permission to use tiles already."""
    environment = {**os.environ, "DISTILRT_FORCE_ISA": isa}
    command = [sys.executable, "-c", "from tests.csrc.tiles import *\n" + lines]
    return subprocess.check_output(command, text=True, env=environment, cwd=CSRC.parent).strip()


needs_amx = pytest.mark.skipif(
    not FLAGS["avx512_amx"] - {"permission"} <= cpu_flags() or "avx512_amx" not in _C.available_isas(),
    reason="this CPU has no AMX, or this process may not use it",
)


def test_a_row_is_a_header() -> None:
    assert {path.stem for path in (CSRC / "isas").glob("*.h")} == {isa for _, isa in ROWS}


def test_this_cpu_runs_what_it_has_the_features_for() -> None:
    available = _C.available_isas()
    flags = cpu_flags() | ({"permission"} if platform.machine() == "x86_64" and may_use_tiles() else set())
    if platform.machine() == "aarch64" and "asimd" not in flags:
        pytest.skip("an emulator shows its host's features; `make test-arm` says which table each CPU must get")
    assert available == [isa for isa in HERE if FLAGS[isa] <= flags]


@needs_amx
def test_tiles_that_linux_refuses() -> None:
    found = run_alone(
        "make_linux_refuse()\n"
        "from distilrt import _C\n"
        "print(_C.available_isas(), _C.missing_features()['avx512_amx'], may_use_tiles())"
    )
    assert found == f"{_C.available_isas()[1:]} ['amx_permission'] False"


@needs_amx
@pytest.mark.parametrize(("isa", "asked"), [("avx2", False), ("avx512_amx", True), ("", True)])
def test_permission_is_asked_for_the_set_with_tiles_alone(isa: str, asked: bool) -> None:
    found = run_alone(
        "from tests.csrc.test_thread_pool import _backend, _batch\n"
        "_backend(1).forward(_batch(3))\n"
        "print(may_use_tiles())",
        isa,
    )
    assert found == str(asked)


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

"""engine/faster_dtypes.py: what is faster than what a model computes in, and never what is not there."""

from __future__ import annotations

from typing import Any

import pytest

from distilrt import _C
from distilrt.faster_dtypes import advice, faster_dtypes


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        ({"backend": "cpu", "dtype": "float32", "isa": "avx512_bf16"}, ["bfloat16", "int8"]),
        ({"backend": "cpu", "dtype": "bfloat16", "isa": "avx512_bf16"}, ["int8"]),
        ({"backend": "cpu", "dtype": "int8", "isa": "avx512_bf16"}, []),
        ({"backend": "cpu", "dtype": "float32", "isa": "avx512_vnni"}, ["int8"]),
        ({"backend": "cpu", "dtype": "float32", "isa": "avx2"}, ["int8"]),
        ({"backend": "cpu", "dtype": "float32", "isa": "avx512"}, []),
        ({"backend": "cpu", "dtype": "float32", "isa": "neon"}, []),
        ({"backend": "cpu", "dtype": "float32", "isa": "neon_dotprod"}, ["int8"]),
        ({"backend": "cuda", "dtype": "float32"}, []),
        ({"backend": "cuda", "dtype": "bfloat16"}, []),
        ({"backend": "reference", "dtype": "float64"}, []),
    ],
)
def test_faster(monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], names: list[str]) -> None:
    known = {"avx512_bf16": ["float32", "bfloat16", "int8"]}
    monkeypatch.setattr(_C, "dtypes", lambda isa: known.get(isa, ["float32", "int8"]))
    assert faster_dtypes(facts) == names
    words = advice(facts)
    assert all(name in words for name in names)
    assert bool(words) == bool(names)


def test_this_machine() -> None:
    for isa in _C.available_isas():
        assert set(faster_dtypes({"backend": "cpu", "dtype": "float32", "isa": isa})) <= set(_C.dtypes(isa))

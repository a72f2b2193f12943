"""Narrower dtypes in which this machine computes faster, and what they cost: for `info` and `serve` to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Mean cosine of all-MiniLM-L6-v2's sentence vectors with float32's: benches/results/quality.csv.
_COSINES = {"bfloat16": 0.99999, "int8": 0.9995}
_WIDTH = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_INT8 = ("vnni", "bf16", "amx")  # instruction sets that multiply int8 faster than float32


def faster(facts: Mapping[str, Any]) -> list[str]:
    """Dtypes in which a backend would be faster than it is, by its `describe()`; none on a GPU: not measured."""
    from distilrt import _C

    isa = facts.get("isa", "")
    known = [name for name in (_C.dtypes(isa) if isa else [])
             if name != "int8" or any(part in isa for part in _INT8)]  # fmt: skip
    return [name for name in known if _WIDTH.get(name, 4) < _WIDTH.get(facts["dtype"], 0)]


def advice(facts: Mapping[str, Any]) -> str:
    """The same in words with what each costs; empty where there is none."""
    names = [f"{name} (cosine {_COSINES[name]:g})" if name in _COSINES else name for name in faster(facts)]
    if not names:
        return ""
    return (f"faster here: {', '.join(names)}; cosines are of a sentence encoder's vectors with float32's, "
            "distilrt verify MODEL --dtype says what it is for yours")  # fmt: skip

"""The dtypes in which this machine computes faster than a model does, and what they cost in accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Mean cosine of all-MiniLM-L6-v2's sentence vectors with float32's; of int8 on AVX2 (docs/numerics.md).
_COSINES = {"bfloat16": 0.99999, "int8": 0.999}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
# Parts of the names of instruction sets that multiply int8 faster than float32.
_INT8 = ("vnni", "bf16", "amx", "dotprod", "avx2")


def faster_dtypes(facts: Mapping[str, Any]) -> list[str]:
    """The faster dtypes of a backend, by its `describe()`; none on a GPU, where they were not measured."""
    from distilrt import _C

    isa, dtype = facts.get("isa", ""), facts["dtype"]
    known = _C.dtypes(isa) if isa else []
    if not any(part in isa for part in _INT8):
        known = [name for name in known if name != "int8"]
    return [name for name in known if _BYTES.get(name, 4) < _BYTES.get(dtype, 0)]


def advice(facts: Mapping[str, Any]) -> str:
    """The same in words with what each costs; empty where there is none."""
    names = [f"{name} (cosine {_COSINES[name]:g})" if name in _COSINES else name for name in faster_dtypes(facts)]
    if not names:
        return ""
    return (
        f"faster here: {', '.join(names)}; cosines are of a sentence encoder's vectors with float32's, "
        "distilrt verify MODEL --dtype says what it is for yours"
    )

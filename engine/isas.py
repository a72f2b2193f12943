"""Why a CPU model does not run on the best instruction set of this build."""

from __future__ import annotations

from distilrt import _C, env


def why_not_the_best(isa: str) -> str:
    """A sentence for the instruction set that is used; empty where the build has no better one.

    A table is never passed over without a word: either it was not asked for, or the CPU or its system lacks something.
    """
    reasons = [f"{name} needs {' and '.join(missing)}" for name, missing in _C.missing_features().items()]
    if (best := _C.available_isas()[0]) != isa:
        return f"instruction set {isa}, as {env.force_isa.name} says; the best here is {best}"
    if not reasons:
        return ""
    return f"instruction set {isa}; this CPU or its system lacks what better ones need: {'; '.join(reasons)}"

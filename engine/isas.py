"""Why a CPU model does not run on the best instruction set of this build."""

from __future__ import annotations

from distilrt import _C, env


def why_not_the_best(isa: str) -> str:
    """A sentence for the instruction set that is used; empty where the build has no better one."""
    missing, best = _C.missing_features(), _C.available_isas()[0]
    if best != isa:
        return f"instruction set {isa}, as {env.force_isa.name} says; the best here is {best}"
    better = list(missing)[: list(missing).index(best)]
    if not better:
        return ""
    reasons = "; ".join(f"{name} needs {' and '.join(missing[name])}" for name in better)
    return f"instruction set {isa}; this CPU or its system lacks what better ones need: {reasons}"

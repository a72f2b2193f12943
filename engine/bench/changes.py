"""Two runs of the same command compared: by how much each target became faster or slower beside the same peer.

A machine's speed changes from minute to minute, and both targets of a run meet it; their ratio is what two runs share.
Two runs of the same thing also differ by where their processes' memory happened to lie, one or two per cent that no
statistic of one run shows. So a change counts where it is nearer to 5 % than to none, and not by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from distilrt.bench import ratios
from distilrt.bench.findings import Findings, Row
from distilrt.bench.ratios import Estimate

_Key = tuple[str, str]  # scenario, workload and rate; target and dtype


@dataclass(frozen=True, slots=True)
class Change:
    """One target on one workload: the factor by which its speed beside the peer's changed; above 1 is faster.

    `steady` says that both targets of both runs were: ratios of restless ones depend on what else the machine did.
    """

    what: str
    factor: Estimate
    steady: bool

    @property
    def verdict(self) -> str:
        """`same`, `CHANGED`, or `unclear` where noise could hide 5 % or make them."""
        if not self.steady:
            return "unclear"
        if self.factor.changed:
            return "CHANGED"
        return "same" if self.factor.sharp else "unclear"

    def __str__(self) -> str:
        low, high = (_percent(factor) for factor in self.factor.interval)
        known = f" (95 %: {low} to {high})" if self.factor.half < 1 else ""
        restless = "" if self.steady else ", not steady"
        return f"{self.what}: {_percent(self.factor.ratio)}{known} {self.verdict}{restless}"


def _percent(factor: float) -> str:
    return f"{round(factor - 1, 4) + 0.0:+.1%}"  # no -0.0


def changes(before: Findings, after: Findings, peer: str) -> list[Change]:
    """Every target but `peer`, named as in the tables (`onnxruntime int8`), where both runs have valid rows of both.

    Raises:
        ValueError: the runs have no such rows in common.
    """
    first, second = (_rows(findings) for findings in (before, after))
    found = []
    for place, target in second:
        rows = [run.get(key) for run in (first, second) for key in ((place, target), (place, peer))]
        if target != peer and all(rows):
            whole = [row for row in rows if row]
            found.append(Change(f"{place}, {target}", _factor(*whole), all(row["steady"] for row in whole)))
    if not found:
        known = sorted({target for _, target in (*first, *second)})
        raise ValueError(
            f"the two runs have no target beside {peer!r} in common; they have {', '.join(known) or 'none'}"
        )
    return found


def _factor(own: Row, other: Row, own_after: Row, other_after: Row) -> Estimate:
    if own["scenario"] != "peak":
        return ratios.change((own["rounds_ms"], other["rounds_ms"]), (own_after["rounds_ms"], other_after["rounds_ms"]))
    # A search leaves a bracket, from the rate that held to the next that did not; the true ratio is anywhere in them.
    log = math.log(own_after["rate"] * other["rate"] / (other_after["rate"] * own["rate"]))
    return Estimate(log, sum(_bracket(row) for row in (own, other, own_after, other_after)) / 2)


def _bracket(row: Row) -> float:
    """The width of what a peak search left open, as a logarithm; infinite where no rate failed."""
    failed = [probe["rate"] for probe in row["probes"] if not probe["met"] and probe["rate"] > row["rate"]]
    return math.log(min(failed) / row["rate"]) if failed else math.inf


def _rows(findings: Findings) -> Mapping[_Key, Row]:
    """What can be compared."""
    return {(_place(row), f"{row['target']} {row['dtype']}"): row for row in findings.rows
            if row["valid"] and (row["scenario"] != "peak" or row["rate"])}  # fmt: skip


def _place(row: Row) -> str:
    rate = f" {row['rate']:g}/s" if row["scenario"] == "server" else ""
    return f"{row['scenario']} {row['workload']}{rate}"

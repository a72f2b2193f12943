"""Runs of the same command compared: by how much each target became faster or slower beside the same peer.

A machine's speed changes from moment to moment, and both targets of a run meet it in their short turns; their ratio is
what runs share. A neighbour that stays for minutes shifts even that, by two per cent where one engine waits for memory
and the other computes, and no statistic of a single run shows it (docs/log.md). So a change counts where it is nearer
to 5 % than to none, and not by chance; what chance is, several runs of each kind, taken in turns, tell best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distilrt.bench import statistics
from distilrt.bench.findings import Findings, Row, named
from distilrt.bench.statistics import Estimate
from distilrt.errors import InvalidParameter

_Key = tuple[str, str]  # scenario, workload and rate; target and dtype
_Pair = tuple[Row, Row]  # a target's and the peer's


@dataclass(frozen=True, slots=True)
class Change:
    """One target on one workload: the factor by which its speed beside the peer's changed; above 1 is faster."""

    what: str
    factor: Estimate

    @property
    def verdict(self) -> str:
        """`same`, `CHANGED`, or `unclear` where noise could hide 5 % or make them."""
        if self.factor.changed:
            return "CHANGED"
        return "same" if self.factor.sharp else "unclear"

    def __str__(self) -> str:
        low, high = (_percent(factor) for factor in self.factor.interval)
        known = f" (95 %: {low} to {high})" if self.factor.half < 1 else ""
        return f"{self.what}: {_percent(self.factor.ratio)}{known} {self.verdict}"


def _percent(factor: float) -> str:
    return f"{round(factor - 1, 4) + 0.0:+.1%}"  # no -0.0


def changes(before: Sequence[Findings], after: Sequence[Findings], peer: str) -> list[Change]:
    """Every target but `peer`, named as in the tables (`onnxruntime int8`), where all runs have valid rows of both.

    Raises:
        InvalidParameter: the runs have no such rows in common.
    """
    runs = [_rows(findings) for findings in (*before, *after)]
    found = []
    for place, target in runs[-1]:
        pairs = [(run.get((place, target)), run.get((place, peer))) for run in runs]
        whole = [(own, other) for own, other in pairs if own and other]
        if target != peer and len(whole) == len(runs):
            factor = _factor(whole[: len(before)], whole[len(before) :])
            found.append(Change(f"{place}, {target}", factor))
    if not found:
        known = sorted({target for run in runs for _, target in run})
        raise InvalidParameter(
            f"the runs have no target beside {peer!r} in common; they have {', '.join(known) or 'none'}"
        )
    return found


def _factor(before: Sequence[_Pair], after: Sequence[_Pair]) -> Estimate:
    first, second = ([_log(*pair) for pair in run] for run in (before, after))
    if len(first) + len(second) > 2:
        return statistics.change_of_many(first, second)
    ((own, other),), ((own_after, other_after),) = before, after
    if own["scenario"] != "peak":
        rounds = [row["rounds_ms"] for row in (own, other, own_after, other_after)]
        return statistics.change((rounds[0], rounds[1]), (rounds[2], rounds[3]))
    # A search leaves a bracket, from the rate that held to the next that did not; the true ratio is anywhere in them.
    half = sum(_bracket(row) for row in (own, other, own_after, other_after)) / 2
    return Estimate(second[0] - first[0], half)


def _log(own: Row, other: Row) -> float:
    """Of how many times as fast own is."""
    if own["scenario"] == "peak":
        return math.log(own["rate"] / other["rate"])
    return statistics.beside(own["rounds_ms"], other["rounds_ms"]).log


def _bracket(row: Row) -> float:
    """The width of what a peak search left open, as a logarithm; infinite where no rate failed."""
    failed = [probe["rate"] for probe in row["probes"] if not probe["met"] and probe["rate"] > row["rate"]]
    return math.log(min(failed) / row["rate"]) if failed else math.inf


def _rows(findings: Findings) -> Mapping[_Key, Row]:
    """What can be compared."""
    return {(_place(row), named(row)): row for row in findings.rows
            if row["valid"] and (row["scenario"] != "peak" or row["rate"])}  # fmt: skip


def _place(row: Row) -> str:
    rate = f" {row['rate']:g}/s" if row["scenario"] == "server" else ""
    return f"{row['scenario']} {row['workload']}{rate}"

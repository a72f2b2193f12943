"""Two runs of the same command compared: by how much each target became faster or slower beside the same peer.

A machine's speed changes from minute to minute, and both targets of a run meet it; their ratio is what two runs share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distilrt.bench.findings import Findings, Row

ALLOWED = 0.05  # of a ratio, between two runs of the same thing
_FIGURES = {"single": ("p50_ms", True), "multi": ("p50_ms", True), "server": ("p50_ms", True),
            "offline": ("samples_per_s", False), "peak": ("rate", False)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One target on one workload: its speed relative to the peer's, before and after; more is faster."""

    what: str
    before: float
    after: float

    @property
    def relative(self) -> float:
        """0.05 where it became 5 % faster beside the peer."""
        return self.after / self.before - 1

    @property
    def changed(self) -> bool:
        """Whether that is more than two runs of the same thing differ by."""
        return abs(self.relative) > ALLOWED


def changes(before: Findings, after: Findings, peer: str) -> list[Change]:
    """Every target but `peer`, named as in the tables (`onnxruntime int8`), where both runs have valid rows of both.

    Raises:
        ValueError: the runs have no such rows in common.
    """
    first, second = (_speeds(findings) for findings in (before, after))
    found = []
    for key, speed in second.items():
        place, target = key
        rivals = [speeds.get((place, peer)) for speeds in (first, second)]
        if target != peer and key in first and rivals[0] and rivals[1]:
            found.append(Change(f"{place}, {target}", first[key] / rivals[0], speed / rivals[1]))
    if not found:
        known = sorted({target for _, target in (*first, *second)})
        raise ValueError(
            f"the two runs have no target beside {peer!r} in common; they have {', '.join(known) or 'none'}"
        )
    return found


def _speeds(findings: Findings) -> Mapping[tuple[str, str], float]:
    """Speed by scenario, workload and rate, and by target."""
    speeds: dict[tuple[str, str], float] = {}
    for row in findings.rows:
        field, is_time = _FIGURES[row["scenario"]]
        if row["valid"] and row.get(field):
            speeds[_place(row), f"{row['target']} {row['dtype']}"] = 1 / row[field] if is_time else row[field]
    return speeds


def _place(row: Row) -> str:
    rate = f" {row['rate']:g}/s" if row["scenario"] == "server" else ""
    return f"{row['scenario']} {row['workload']}{rate}"

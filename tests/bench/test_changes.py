"""engine/bench/changes.py: what two runs differ by beside the same peer, whatever the machine did meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distilrt.bench.changes import changes
from distilrt.bench.findings import Findings


def run(scenario: str = "single", machine: float = 1.0, **milliseconds: float) -> Findings:
    """Times of targets on a machine that is so much slower."""
    rows: list[dict[str, Any]] = []
    for name, value in milliseconds.items():
        time = value * machine
        rows.append({"target": name, "dtype": "int8", "scenario": scenario, "workload": "mixed", "rate": 1000 / time,
                     "valid": True, "p50_ms": time, "samples_per_s": 1000 / time})  # fmt: skip
    return Findings({}, {}, [], rows)


@pytest.mark.parametrize("scenario", ["single", "offline", "peak"])
@pytest.mark.parametrize(("slower", "changed"), [(1.0, False), (1.04, False), (1.06, True), (0.9, True)])
def test_a_slowed_engine_is_found_on_a_slowed_machine(scenario: str, slower: float, changed: bool) -> None:
    (change,) = changes(run(scenario, ours=2.0, peer=3.0), run(scenario, 1.7, ours=2.0 * slower, peer=3.0), "peer int8")
    assert change.what == f"{scenario} mixed, ours int8"
    assert change.relative == pytest.approx(1 / slower - 1)
    assert change.changed == changed


def test_rates_are_compared_with_themselves() -> None:
    before, after = (run("server", ours=2.0, peer=3.0) for _ in range(2))
    for findings in (before, after):
        for row in findings.rows:
            row["rate"] = 50.0
    assert [change.what for change in changes(before, after, "peer int8")] == ["server mixed 50/s, ours int8"]
    after.rows[0]["rate"] = 60.0
    with pytest.raises(ValueError, match="no target beside"):
        changes(before, after, "peer int8")


@pytest.mark.parametrize("peer", ["nobody", "ours int8"])
def test_nothing_in_common(peer: str) -> None:
    before, after = run(ours=2.0), run(ours=2.0, other=np.pi)
    with pytest.raises(ValueError, match="they have other int8, ours int8"):
        changes(before, after, peer)


def test_invalid_rows_do_not_count() -> None:
    before, after = run(ours=2.0, peer=3.0), run(ours=2.0, peer=3.0)
    after.rows[1]["valid"] = False
    with pytest.raises(ValueError, match="no target beside"):
        changes(before, after, "peer int8")

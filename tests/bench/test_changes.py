"""engine/bench/changes.py: what runs differ by beside the same peer, whatever the machine did meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from distilrt.bench.changes import changes
from distilrt.bench.findings import Findings

WOBBLE = np.exp(np.linspace(-0.02, 0.02, 12))  # the machine's, in every round


def run(scenario: str = "single", machine: float = 1.0, **milliseconds: float) -> Findings:
    """Times of targets on a machine that is so much slower."""
    rows: list[dict[str, Any]] = []
    for name, value in milliseconds.items():
        rate = 1000 / (value * machine)
        row = {"target": name, "dtype": "int8", "scenario": scenario, "workload": "mixed", "rate": rate, "valid": True}
        if scenario == "peak":
            row["probes"] = [{"rate": rate * factor, "met": factor < 1} for factor in (0.5, 1.01, 1.1)]
        else:
            row["rounds_ms"] = list(value * machine * WOBBLE)
        rows.append(row)
    return Findings({}, {}, [], rows)


@pytest.mark.parametrize("scenario", ["single", "offline", "peak"])
@pytest.mark.parametrize(("slower", "verdict"), [
    (1.0, "same"), (1.02, "same"), (1.05, "CHANGED"), (1 / 1.05, "CHANGED"), (0.9, "CHANGED"),
])  # fmt: skip
def test_a_slowed_engine_is_found_on_a_slowed_machine(scenario: str, slower: float, verdict: str) -> None:
    (change,) = changes(
        [run(scenario, ours=2.0, peer=3.0)], [run(scenario, 1.7, ours=2.0 * slower, peer=3.0)], "peer int8"
    )
    assert change.what == f"{scenario} mixed, ours int8"
    assert change.factor.ratio == pytest.approx(1 / slower)
    assert change.verdict == verdict
    assert str(change).startswith(f"{scenario} mixed, ours int8: {1 / slower - 1:+.1%} (95 %: ")
    assert str(change).endswith(verdict)


def test_noise_and_coarse_searches_are_unclear() -> None:
    before, after = run(ours=2.0, peer=3.0), run(ours=2.1, peer=3.0)
    for findings in (before, after):
        findings.rows[0]["rounds_ms"] = (np.array(findings.rows[0]["rounds_ms"]) * ([0.8, 1.25] * 6)).tolist()
    (change,) = changes([before], [after], "peer int8")
    assert change.verdict == "unclear"
    before, after = run("peak", ours=2.0, peer=3.0), run("peak", ours=2.1, peer=3.0)
    after.rows[0]["probes"] = [{"rate": 1.0, "met": True}]
    (change,) = changes([before], [after], "peer int8")
    assert change.verdict == "unclear"
    assert str(change) == "peak mixed, ours int8: -4.8% unclear"


@pytest.mark.parametrize("scenario", ["single", "peak"])
@pytest.mark.parametrize(("slower", "noise", "verdict"), [
    (1.0, 0.01, "same"), (1.05, 0.01, "CHANGED"), (1.05, 0.1, "unclear"), (1.0, 0.1, "unclear"),
])  # fmt: skip
def test_several_runs_tell_chance_from_change(scenario: str, slower: float, noise: float, verdict: str) -> None:
    """Each run's rounds agree with each other, and not with the next run's."""
    before, after = (
        [run(scenario, ours=2.0 * factor * (1 + noise * k), peer=3.0) for k in (-1, 0, 1, -1, 0, 1)]
        for factor in (1.0, slower)
    )
    (change,) = changes(before, after, "peer int8")
    assert change.verdict == verdict
    assert change.factor.ratio == pytest.approx(1 / slower, rel=1e-6)
    low, high = change.factor.interval
    logs = [-np.log(2.0 * (1 + noise * k)) for k in (-1, 0, 1, -1, 0, 1)]
    theirs = stats.ttest_ind(logs, logs).confidence_interval(0.95)
    assert high / low == pytest.approx(np.exp(theirs.high - theirs.low), rel=1e-3)


def test_rates_are_compared_with_themselves() -> None:
    before, after = (run("server", ours=2.0, peer=3.0) for _ in range(2))
    for findings in (before, after):
        for row in findings.rows:
            row["rate"] = 50.0
    assert [change.what for change in changes([before], [after], "peer int8")] == ["server mixed 50/s, ours int8"]
    after.rows[0]["rate"] = 60.0
    with pytest.raises(ValueError, match="no target beside"):
        changes([before], [after], "peer int8")


@pytest.mark.parametrize("peer", ["nobody", "ours int8"])
def test_nothing_in_common(peer: str) -> None:
    before, after = run(ours=2.0), run(ours=2.0, other=np.pi)
    with pytest.raises(ValueError, match="they have other int8, ours int8"):
        changes([before], [after], peer)


def test_invalid_rows_do_not_count() -> None:
    before, after = run(ours=2.0, peer=3.0), run(ours=2.0, peer=3.0)
    after.rows[1]["valid"] = False
    with pytest.raises(ValueError, match="no target beside"):
        changes([before], [after], "peer int8")

"""engine/bench/peak.py: searches find what a target holds; several take turns. test_scenarios has them in a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from distilrt.bench import peak
from distilrt.bench.load import Load
from distilrt.bench.statistics import Window, parse_slo

LOAD = Load("server", 3.0, 10, seed=7)
SLO = parse_slo("p99=20ms")


def window(load: Load, limit: float, lag: float = 0.0, failures: int = 0) -> Window:
    """Of a target that takes 100/s at most, and answers in time up to `limit`."""
    latency = 0.03 if load.rate > limit else 0.01
    return Window(np.full(100, latency), np.full(100, lag), 100, 1000, 1.0, +Counter({"HTTP 429": failures}))


def found(names: str, measure: Callable[[str, Load], Window | None], rows: peak.Rows[str]) -> peak.Rows[str]:
    """Rows of searches with these names."""
    searches = {name: peak.search(rows, name, LOAD, SLO, in_flight=8, retest=9.0) for name in names}
    peak.take_turns(searches, measure, rows)
    return rows


@pytest.mark.parametrize("limit", [12, 60, 99])
def test_what_is_asked(limit: float) -> None:
    asked: list[Load] = []

    def measure(name: str, load: Load) -> Window:
        asked.append(load)
        return window(load, limit)

    row = found("a", measure, {})["a"]
    flood, *probes = asked
    assert (flood.scenario, flood.size, flood.seconds) == ("flood", 8, 1.0)
    assert [load.seconds for load in probes] == [3.0] * peak.HALVINGS + [9.0] * peak.RETESTS
    seeds = [load.seed for load in probes]
    assert len(set(seeds)) == len(seeds)
    assert row["rate"] == pytest.approx(probes[-1].rate, abs=1e-3)
    assert limit - 110 / 2**peak.HALVINGS <= row["rate"] <= limit
    assert len(row["probes"]) == len(probes)


@pytest.mark.parametrize(("lag", "failures", "valid"), [(0.5, 0, False), (0.0, 10, True)])
def test_nothing_is_held_where_the_client_is_late_or_queries_fail(lag: float, failures: int, valid: bool) -> None:
    row = found("a", lambda name, load: window(load, 1000, lag, failures), {})["a"]
    assert (row["rate"], row["steady"], row["valid"]) == (0, False, valid)
    assert row["saturated_per_s"] == 100


def test_turns() -> None:
    order: list[str] = []

    def measure(name: str, load: Load) -> Window | None:
        order.append(name)
        return None if name == "b" and len(order) > 3 else window(load, 60 if name == "a" else 30)

    rows = found("abc", measure, {})
    assert list(rows) == ["a", "c"]
    assert "".join(order[:7]) == "abcabca"
    assert rows["c"]["rate"] <= 30 < rows["a"]["rate"] <= 60


@pytest.mark.parametrize(("windows", "rates"), [
    (0, {}), (1, {"a": 0.0}), (2, {"a": 0.0, "b": 0.0}), (4, {"a": 55.0, "b": 0.0}), (5, {"a": 55.0, "b": 0.0}),
    (6, {"a": 55.0, "b": 27.5}),
])  # fmt: skip
def test_ctrl_c_leaves_what_held_so_far(windows: int, rates: dict[str, float]) -> None:
    rows: peak.Rows[str] = {}
    asked: list[str] = []

    def measure(name: str, load: Load) -> Window:
        if len(asked) == windows:
            raise KeyboardInterrupt
        asked.append(name)
        return window(load, 60 if name == "a" else 30)

    with pytest.raises(KeyboardInterrupt):
        found("ab", measure, rows)
    assert {name: row["rate"] for name, row in rows.items()} == pytest.approx(rates)
    assert not any(row["steady"] for row in rows.values())

"""engine/bench/statistics.py: percentiles, steadiness, lateness and SLOs, on numbers made by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from distilrt.bench import statistics
from distilrt.bench.statistics import Window


def window(milliseconds: Sequence[float], lag: float = 0.0, samples: int | None = None, failed: int = 0) -> Window:
    values = np.array(milliseconds) / 1e3
    lags = np.full(len(values), lag)
    count = len(values) if samples is None else samples
    return Window(values, lags, count, 10 * count, 2.0, Counter({"HTTP 429": failed} if failed else {}))


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (90, 90), (99, 99), (99.9, 100), (100, 100)])
def test_percentile_is_a_value_that_came(percent: float, value: float) -> None:
    assert statistics.percentile(np.arange(1.0, 101.0)[::-1], percent) == value


def test_summary_pools_windows() -> None:
    found = statistics.summary([window([1, 2, 3]), window([4, 5], lag=1e-3, failed=2)])
    assert (found["queries"], found["failed"], found["failures"]) == (5, 2, {"HTTP 429": 2})
    assert (found["samples_per_s"], found["tokens_per_s"], found["seconds"]) == (1.25, 12.5, 4.0)
    assert (found["p50_ms"], found["p99_ms"], found["mean_ms"], found["max_ms"]) == (3, 5, 3, 5)
    assert found["lag_p99_ms"] == 1
    found = statistics.summary([window([])])
    assert (found["queries"], found["p50_ms"], found["mean_ms"]) == (0, None, None)


def test_rounds_make_windows() -> None:
    first, second = statistics.joined([window([1, 2]), window([3], lag=1e-3, failed=1), window([4]), window([5]),
                                      window([6])], 2)  # fmt: skip
    assert first.latencies.tolist() == [1e-3, 2e-3, 3e-3]
    assert (first.samples, first.tokens, first.seconds, first.failures) == (3, 30, 4.0, {"HTTP 429": 1})
    assert first.lags.tolist() == [0, 0, 1e-3]
    assert second.latencies.tolist() == [4e-3, 5e-3]


@pytest.mark.parametrize(("medians", "steady"), [
    ([10, 10], False), ([10, 10.9, 10], True), ([10, 11.1, 10], False), ([99, 10, 10, 10.5], True),
])  # fmt: skip
def test_steady_looks_at_the_last_three(medians: list[float], steady: bool) -> None:
    assert statistics.steady([window([value]) for value in medians], "latency") == steady
    assert statistics.steady([window([1], samples=round(1e5 / value)) for value in medians], "throughput") == steady


@pytest.mark.parametrize(("milliseconds", "lag", "late"), [
    ([1.0] * 100, 0.9e-3, False), ([1.0] * 100, 1.1e-3, True), ([50.0] * 100, 4e-3, False), ([50.0] * 100, 6e-3, True),
    ([], 0, False),
])  # fmt: skip
def test_late(milliseconds: list[float], lag: float, late: bool) -> None:
    assert statistics.late([window(milliseconds, lag)]) == late
    assert not statistics.late([window(milliseconds, lag)], within=100.0)


def test_slo() -> None:
    slo = statistics.parse_slo(" p90=20ms")
    assert (slo.percent, slo.seconds, str(slo)) == (90, 0.02, "p90=20ms")
    assert slo.met([window([20] * 9 + [21])])
    assert not slo.met([window([20] * 8 + [21] * 2)])
    assert slo.met([window([1] * 9, failed=1)])
    assert not slo.met([window([1] * 8 + [21], failed=1)])
    assert not slo.met([window([])])
    assert statistics.parse_slo("p99.9=500us").seconds == 5e-4
    assert statistics.parse_slo("p50=1.5s").seconds == 1.5


@pytest.mark.parametrize("text", ["", "20ms", "p99", "p99=20", "p99=ms", "p0=1ms", "p100=1ms", "p99=0ms", "p99=1ms,"])
def test_wrong_slo(text: str) -> None:
    with pytest.raises(ValueError, match="as in p99=20ms"):
        statistics.parse_slo(text)


def test_figures_are_of_the_queries_that_all_answered() -> None:
    assert statistics.figures([window([2, 8]), window([1, 4, 999])]) == pytest.approx([4e-3, 2e-3])


def test_beside() -> None:
    random = np.random.default_rng()
    machine, noise = random.uniform(1, 3, 20), random.normal(0, 0.02, 20)
    found = statistics.beside(list(machine / 2 * np.exp(noise)), list(machine))
    assert found.ratio == pytest.approx(2, rel=0.08)
    low, high = found.interval
    assert low < found.ratio < high
    assert low * high == pytest.approx(found.ratio**2)
    spoilt = machine.copy()
    spoilt[:4] *= 5  # a fifth of the rounds
    assert statistics.beside(list(machine / 2), list(spoilt)).log == pytest.approx(math.log(2))


@pytest.mark.parametrize("rounds", [[], [1.0]])
def test_too_few_rounds(rounds: list[float]) -> None:
    found = statistics.beside(rounds, rounds)
    assert found.half == math.inf
    assert not found.sharp
    assert found.interval == (0.0, math.inf)

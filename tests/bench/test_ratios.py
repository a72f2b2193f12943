"""engine/bench/ratios.py: the statistic of two targets' rounds, on rounds made by hand and drawn at random."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from distilrt.bench import ratios
from distilrt.bench.latencies import Window


def window(milliseconds: list[float]) -> Window:
    values = np.array(milliseconds) / 1e3
    return Window(values, np.zeros(0), len(values), 1, 1.0)


def test_figures_are_of_the_queries_that_all_answered() -> None:
    assert ratios.figures([window([2, 8]), window([1, 4, 999])]) == pytest.approx([4e-3, 2e-3])


def test_student() -> None:
    """scipy's quantiles, to a thousandth."""
    for degrees in (1, 2, 3.3, 5, 7.5, 11, 14, 25, 45, 200, 1e9):
        if degrees >= 3:
            assert ratios._t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.01)
        if degrees in ratios._DEGREES:
            assert ratios._t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-3)


@pytest.mark.parametrize("counts", [(3, 3), (9, 12), (18, 36)])
def test_change_is_yuens_test(counts: tuple[int, int]) -> None:
    random = np.random.default_rng()
    before, after = (random.normal(0.3, 0.05, count) for count in counts)
    found = ratios.change(*((list(np.exp(-logs)), [1.0] * len(logs)) for logs in (before, after)))
    theirs = stats.ttest_ind(after, before, equal_var=False, trim=ratios.TRIM)
    low, high = theirs.confidence_interval(0.95)
    assert found.log == pytest.approx((low + high) / 2, abs=1e-9)
    assert found.half == pytest.approx((high - low) / 2, rel=0.02)


def test_beside() -> None:
    random = np.random.default_rng()
    machine, noise = random.uniform(1, 3, 20), random.normal(0, 0.02, 20)
    found = ratios.beside(list(machine / 2 * np.exp(noise)), list(machine))
    assert found.ratio == pytest.approx(2, rel=0.08)
    low, high = found.interval
    assert low < found.ratio < high
    assert low * high == pytest.approx(found.ratio**2)
    spoilt = machine.copy()
    spoilt[:4] *= 5  # a fifth of the rounds
    assert ratios.beside(list(machine / 2), list(spoilt)).log == pytest.approx(math.log(2))


@pytest.mark.parametrize("rounds", [[], [1.0]])
def test_too_few_rounds(rounds: list[float]) -> None:
    for found in (ratios.beside(rounds, rounds), ratios.change((rounds, rounds), ([1.0, 2.0], [1.0, 1.0]))):
        assert found.half == math.inf
        assert not found.sharp
        assert not found.changed
        assert found.interval == (0.0, math.inf)


def runs(random: Any, slower: float, noise: float, count: int = 18) -> ratios.Estimate:
    """Two runs on a machine that wanders by a half and stalls at times; own is `slower` in the second."""
    made = []
    for factor in (1.0, slower):
        machine = np.exp(np.cumsum(random.normal(0, 0.1, count)))
        own, other = (machine * time * np.exp(random.normal(0, noise, count)) for time in (2.0 * factor, 3.0))
        own[random.integers(count)] *= 3
        other[random.integers(count)] *= 2
        made.append((list(own), list(other)))
    return ratios.change(*made)


def test_five_percent_is_told_from_none() -> None:
    """Rounds that scatter by 1 %: the standard error of the difference is 0.6 %, the threshold four of them away."""
    random = np.random.default_rng()
    for _ in range(20):
        same, slowed = runs(random, 1.0, 0.01), runs(random, 1.05, 0.01)
        assert not same.changed
        assert same.sharp
        assert slowed.changed
        assert slowed.log < 0


def test_noise_that_could_hide_it_is_said_to() -> None:
    """Rounds that scatter by 30 % cannot tell: nearly always neither sharp nor changed."""
    random = np.random.default_rng()
    found = [runs(random, 1.05, 0.3) for _ in range(40)]
    assert not any(each.sharp for each in found)
    assert sum(each.changed for each in found) < 15

"""engine/bench/load.py: schedules are Poisson, latency counts from the intended time, every query is counted once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from distilrt.bench import load, statistics
from distilrt.bench.load import Load, TargetError

LENGTHS = (3, 5, 7, 11)


class Target(load.Target):
    """Answers after `seconds`, in which it waits, or where it `blocks` computes; and notes what it was asked."""

    async def prepare(self, samples: Any) -> None: ...

    def __init__(self, seconds: float = 0.0, *, blocks: bool = False, refuse: int = 0) -> None:
        self._seconds, self._refuse, self._blocks = seconds, refuse, blocks
        self.asked: list[list[int]] = []
        self.under_way = self.most = 0

    async def answer(self, indices: Sequence[int]) -> list[Any]:
        self.asked.append(list(indices))
        if self._refuse and len(self.asked) % self._refuse == 0:
            raise TargetError("HTTP 429")
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self._blocks:
            time.sleep(self._seconds)
        else:
            await asyncio.sleep(self._seconds)
        self.under_way -= 1
        return list(indices)

    async def answer_all(self, indices: Sequence[int]) -> list[Any]:
        return await self.answer(indices)


def run(target: Target, wanted: Load) -> statistics.Window:
    loop = load.new_loop()
    try:
        return loop.run_until_complete(load.measure(target, LENGTHS, wanted))
    finally:
        loop.close()


def test_arrivals_are_poisson() -> None:
    """Mean and variance of 10,000 gaps, within 5 standard deviations, for ten seeds."""
    for seed in range(10):
        times = load.arrivals(100.0, 100.0, 1, seed)
        gaps = np.diff(times, prepend=0)
        assert (gaps > 0).all()
        assert abs(len(times) - 10_000) < 5 * 100
        assert abs(gaps.mean() - 0.01) < 5 * 0.01 / 100
        assert abs(gaps.std() - 0.01) < 5 * 0.01 * 8**0.5 / 2 / 100
        assert 99 < times[-1] < 100
        np.testing.assert_array_equal(times, load.arrivals(100.0, 100.0, 1, seed))
    assert len(load.arrivals(1.0, 0.1, 50, 0)) == 50


@pytest.mark.parametrize(("scenario", "size", "asked", "most"), [("single", 1, 1, 1), ("multi", 3, 3, 1),
                                                                 ("offline", 1, 4, 1), ("flood", 2, 1, 2)])  # fmt: skip
def test_closed_loop(scenario: str, size: int, asked: int, most: int) -> None:
    target = Target(1e-3)
    window = run(target, Load(scenario, 0.0, 6, size=size))
    assert (len(window.latencies), window.samples, target.most) == (6, 6 * asked, most)
    assert {len(indices) for indices in target.asked} == {asked}
    assert window.tokens == sum(LENGTHS[i] for indices in target.asked for i in indices)
    assert (window.latencies >= 1e-3).all()
    assert window.seconds >= window.latencies.sum() / most
    assert not len(window.lags)


def test_lead_does_not_count() -> None:
    """Nor does it change what is asked after it."""
    asked = []
    for lead in (0.0, 0.02, 0.04):
        target = Target(1e-3)
        window = run(target, Load("single", 0.0, 3, seed=5, lead=lead))
        assert len(window.latencies) == 3
        assert (len(target.asked) > 3) == bool(lead)
        assert window.seconds < 0.02
        asked.append(target.asked[-3:])
    assert asked[0] == asked[1] == asked[2]
    assert sum(run(Target(refuse=1), Load("single", 0.0, 3, lead=1e-6)).failures.values()) == 3


def test_all_samples_are_asked_in_an_order_of_the_seed() -> None:
    assert run(Target(1e-3), Load("single", 0.05, 1)).seconds >= 0.05  # its order goes on as long as that takes
    orders = []
    for seed in (0, 0, 1):
        target = Target()
        run(target, Load("single", 0.0, 400, seed=seed))
        orders.append([i for (i,) in target.asked])
        assert all(sorted(orders[-1][k : k + 4]) == [0, 1, 2, 3] for k in range(0, 400, 4))
    assert orders[0] == orders[1] != orders[2]


def test_latency_counts_from_the_intended_time() -> None:
    """The target blocks the loop that it should not block: what was to be sent meanwhile is late, counts as such, and
    the generator says so. One at a time and 40 times too slow, the last query waits for all others."""
    target = Target(0.02, blocks=True)
    window = run(target, Load("server", 0.0, 30, rate=2000.0))
    assert (len(window.latencies), window.samples, len(window.lags)) == (30, 30, 30)
    sent, done = load.arrivals(2000.0, 0.0, 30, 0), 0.02 * np.arange(1, 31)
    assert (np.sort(window.latencies) >= np.sort(done - sent) - 1e-4).all()
    assert window.lags.min() >= 0
    assert statistics.percentile(window.lags, 99) > 0.1
    assert statistics.late([window])
    target = Target(0.02)
    run(target, Load("server", 0.0, 30, rate=2000.0))
    assert target.most > 1


@pytest.mark.parametrize("scenario", ["single", "server", "flood"])
def test_failures_are_counted_by_reason(scenario: str) -> None:
    window = run(Target(refuse=3), Load(scenario, 0.0, 12, rate=5000.0))
    assert window.failures == {"HTTP 429": 4}
    assert (len(window.latencies), window.samples) == (8, 8)


def test_unanswered_queries_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "DRAIN", 0.05)
    window = run(Target(30.0), Load("server", 0.0, 5, rate=5000.0))
    assert (sum(window.failures.values()), len(window.latencies)) == (5, 0)
    assert "no answer in" in next(iter(window.failures))

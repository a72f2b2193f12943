"""MLPerf's own load generator (package mlcommons-loadgen) beside `distilrt bench` on one engine, in turns.

Both measure single, server and offline on the same texts. Two things must agree:

- *on the same queries*, LoadGen's percentiles and this package's, of what each clock saw of one run (not of server,
  where LoadGen's counts from the schedule, which only it knows);
- *in turns*, the figures of both generators: they disagree where the rounds say so with certainty (the 95 % interval
  of their ratio, `distilrt.bench.statistics`) and by more than is allowed. A busy machine widens the interval.
"""

from __future__ import annotations

import asyncio
import math
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilrt.bench import load, samples, targets
from distilrt.bench.load import Load
from distilrt.bench.peers import OURS
from distilrt.bench.samples import Samples
from distilrt.bench.statistics import Window, beside, percentile
from distilrt.bench.targets import Spec

mlperf_loadgen = pytest.importorskip("mlperf_loadgen", reason="pip install mlcommons-loadgen")

SCENARIOS = {"single": "SingleStream", "server": "Server", "offline": "Offline"}
PERCENTILES = (50, 90, 99)
SAME = 0.05  # between two clocks on the same queries: the way from LoadGen's to this one's and back


@dataclass(frozen=True)
class Reported:
    """What LoadGen says of a run, and what its queries looked like from here."""

    seconds: float  # the figure as a time: the median latency, or offline the seconds of a text
    percentiles: dict[int, float]
    seen: Window


def by_loadgen(target: Any, given: Samples, wanted: Load) -> Reported:
    """One window by LoadGen."""
    lg: Any = mlperf_loadgen
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, SCENARIOS[wanted.scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1e3 * wanted.seconds)
    settings.min_query_count = wanted.count
    settings.sample_index_rng_seed = settings.schedule_rng_seed = settings.qsl_rng_seed = wanted.seed
    if wanted.scenario == "server":
        settings.server_target_qps = wanted.rate
        settings.server_target_latency_ns = 10**10
    if wanted.scenario == "offline":  # one query of all texts, as here
        settings.min_query_count, settings.offline_expected_qps, settings.min_duration_ms = len(given.inputs), 1e-3, 0
    loop, latencies = load.new_loop(), list[float]()

    def complete(ids: Sequence[int], since: float) -> None:
        latencies.append(time.perf_counter() - since)
        lg.QuerySamplesComplete([lg.QuerySampleResponse(each, 0, 0) for each in ids])

    def issue(batch: Sequence[Any]) -> None:
        ids, indices, since = [sample.id for sample in batch], [sample.index for sample in batch], time.perf_counter()
        if wanted.scenario == "server":  # LoadGen must go on with its schedule
            asyncio.run_coroutine_threadsafe(target.answer(indices), loop).add_done_callback(
                lambda _: complete(ids, since)
            )
        else:  # it waits anyway, and every thread in between would count
            loop.run_until_complete(target.answer_all(indices) if len(indices) > 1 else target.answer(indices))
            complete(ids, since)

    thread = threading.Thread(target=loop.run_forever)
    if wanted.scenario == "server":
        thread.start()
    sut = lg.ConstructSUT(issue, lambda: None)
    qsl = lg.ConstructQSL(len(given.inputs), len(given.inputs), lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        logs = lg.LogSettings()
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = False
        logs.enable_trace = False
        lg.StartTestWithLogSettings(sut, qsl, settings, logs)
        summary = Path(folder, "mlperf_log_summary.txt").read_text()
    if thread.is_alive():
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    loop.close()
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)

    def found(pattern: str) -> float:
        match = re.search(pattern + r"\s*:\s*([\d.]+)", summary)
        if match is None:
            raise RuntimeError(f"LoadGen's summary has no {pattern}: {summary}")
        return float(match[1])

    percentiles = {percent: found(rf"{percent}\.00 percentile latency \(ns\)") / 1e9 for percent in PERCENTILES}
    figure = 1 / found("Samples per second") if wanted.scenario == "offline" else percentiles[50]
    seen = Window(np.array(latencies), np.zeros(0), len(latencies), 0, sum(latencies))
    return Reported(figure, percentiles, seen)


def by_distilrt(target: Any, given: Samples, wanted: Load) -> float:
    """The same figure as `distilrt bench` finds it."""
    loop = load.new_loop()
    window = loop.run_until_complete(load.measure(target, given.lengths, wanted))
    loop.close()
    return window.seconds / window.samples if wanted.scenario == "offline" else percentile(window.latencies, 50)


def apart(model: str, workload: str, seconds: float, rounds: int, allowed: float) -> list[str]:
    """Measure with both, print what they find, and say in words where they are apart."""
    given = samples.make(workload, model)
    target = targets.DistilrtTarget(Spec(OURS, "float32", model, backend="cpu", threads=1))
    loop = load.new_loop()
    loop.run_until_complete(target.prepare(given))
    alone = loop.run_until_complete(load.measure(target, given.lengths, Load("single", 1.0, 10)))
    rate, found = 0.3 / percentile(alone.latencies, 50), list[str]()
    for scenario in SCENARIOS:
        ours, theirs, clocks = list[float](), list[float](), list[float]()
        for turn in range(rounds):
            wanted = Load(scenario, seconds, 10 if scenario != "offline" else 1, seed=turn,
                          rate=rate if scenario == "server" else 0.0)  # fmt: skip
            if turn % 2:
                ours.append(by_distilrt(target, given, wanted))
            reported = by_loadgen(target, given, wanted)
            theirs.append(reported.seconds)
            seen = reported.seen.latencies
            if scenario != "server":
                clocks += [theirs_at / percentile(seen, at) - 1 for at, theirs_at in reported.percentiles.items()]
            if not turn % 2:
                ours.append(by_distilrt(target, given, wanted))
        ratio = beside(theirs, ours)  # above 1: ours are longer
        clock = statistics.median(clocks or [0.0])
        low, high = (each - 1 for each in ratio.interval)
        print(f"{scenario:<8} LoadGen {1e3 * statistics.median(theirs):.4g} ms, distilrt bench "
                   f"{1e3 * statistics.median(ours):.4g} ms: {ratio.ratio - 1:+.1%} (95 %: {low:+.1%} to {high:+.1%})"
                   f"{f'; on the same queries {-clock:+.2%}' if clocks else ''}")  # fmt: skip
        if abs(ratio.log) - ratio.half > math.log1p(allowed):
            found.append(f"{scenario}: in turns, by {ratio.ratio - 1:+.1%}")
        if abs(clock) > SAME:
            found.append(f"{scenario}: on the same queries, by {-clock:+.1%}")
    loop.run_until_complete(target.close())
    loop.close()
    return found


@pytest.mark.whole
def test_both_find_the_same(sentence_encoder: Path) -> None:
    """Relative to the noise of the run itself: it fails where they differ by more than a tenth for certain."""
    assert apart(str(sentence_encoder), "1x32", 0.7, 8, 0.1) == []

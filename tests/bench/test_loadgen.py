"""MLPerf's own load generator (package mlcommons-loadgen) beside `distilrt bench` on one engine, in turns.

Both measure single, server and offline on the same texts. They disagree where the rounds say so with certainty (the
95 % interval of their ratio, `distilrt.bench.statistics`) and by more than is allowed. A busy machine widens the
interval.
"""

from __future__ import annotations

import asyncio
import math
import re
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distilrt.bench import load, samples, targets
from distilrt.bench.load import Load
from distilrt.bench.peers import OURS
from distilrt.bench.samples import Samples
from distilrt.bench.statistics import beside, percentile
from distilrt.bench.targets import Spec

lg: Any = pytest.importorskip("mlperf_loadgen", reason="pip install mlcommons-loadgen")

SCENARIOS = {"single": "SingleStream", "server": "Server", "offline": "Offline"}
ALLOWED = 0.1
SECONDS, ROUNDS = 0.7, 8


def by_loadgen(target: Any, given: Samples, wanted: Load) -> float:
    """One window by LoadGen: the median latency, or offline the seconds of a text."""
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
    loop = load.new_loop()

    def complete(batch: Sequence[Any]) -> None:
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in batch])

    def issue(batch: Sequence[Any]) -> None:
        batch = list(batch)
        indices = [sample.index for sample in batch]
        if wanted.scenario == "server":  # LoadGen must go on with its schedule
            answer = asyncio.run_coroutine_threadsafe(target.answer(indices), loop)
            answer.add_done_callback(lambda _: complete(batch))
        else:  # it waits anyway, and every thread in between would count
            loop.run_until_complete(target.answer_all(indices) if len(indices) > 1 else target.answer(indices))
            complete(batch)

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
    name = "Samples per second" if wanted.scenario == "offline" else r"50\.00 percentile latency \(ns\)"
    found = re.search(name + r"\s*:\s*([\d.]+)", summary)
    assert found, summary
    return 1 / float(found[1]) if wanted.scenario == "offline" else float(found[1]) / 1e9


def by_distilrt(target: Any, given: Samples, wanted: Load) -> float:
    """The same figure as `distilrt bench` finds it."""
    loop = load.new_loop()
    window = loop.run_until_complete(load.measure(target, given.lengths, wanted))
    loop.close()
    return window.seconds / window.samples if wanted.scenario == "offline" else percentile(window.latencies, 50)


@pytest.mark.whole
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_find_the_same(sentence_encoder: Path, scenario: str) -> None:
    """Relative to the noise of the run itself: it fails where they differ by more than a tenth for certain."""
    model = str(sentence_encoder)
    given = samples.make("1x32", model)
    target = targets.DistilrtTarget(Spec(OURS, "float32", model, backend="cpu", threads=1))
    loop = load.new_loop()
    loop.run_until_complete(target.prepare(given))
    alone = by_distilrt(target, given, Load("single", 1.0, 10))
    ours, theirs = list[float](), list[float]()
    for turn in range(ROUNDS):
        wanted = Load(scenario, SECONDS, 10 if scenario != "offline" else 1, seed=turn,
                      rate=0.3 / alone if scenario == "server" else 0.0)  # fmt: skip
        both = [(by_distilrt, ours), (by_loadgen, theirs)]
        for measure, found in both[:: 1 if turn % 2 else -1]:
            found.append(measure(target, given, wanted))
    loop.run_until_complete(target.close())
    loop.close()
    ratio = beside(theirs, ours)  # above 1: ours are longer
    assert abs(ratio.log) - ratio.half <= math.log1p(ALLOWED), f"by {ratio.ratio - 1:+.1%}"

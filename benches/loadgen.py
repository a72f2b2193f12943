"""MLPerf's own load generator (package mlcommons-loadgen) beside `distilrt bench` on one engine, in turns:

    python -m benches.loadgen --model FOLDER

Both measure single, server and offline on the same texts. The exit code is 1 where the medians of their figures are
further apart than `--allowed` and than the rounds of one of them (their quartiles).
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import mlperf_loadgen
import typer

from distilrt.bench import load, samples, targets
from distilrt.bench.latencies import percentile
from distilrt.bench.load import Load
from distilrt.bench.samples import Samples
from distilrt.bench.targets import Spec

# The line of LoadGen's summary that has the figure, in ns or texts per second; and whether it is a time.
FIGURES = {
    "single": ("SingleStream", r"50\.00 percentile latency \(ns\)\s*:\s*(\d+)", True),
    "server": ("Server", r"50\.00 percentile latency \(ns\)\s*:\s*(\d+)", True),
    "offline": ("Offline", r"Samples per second\s*:\s*([\d.]+)", False),
}


def by_loadgen(target: Any, given: Samples, wanted: Load) -> float:
    """The figure of one window: seconds, or texts per second, as LoadGen reports it."""
    lg: Any = mlperf_loadgen
    name, pattern, is_time = FIGURES[wanted.scenario]
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, name)
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = settings.max_duration_ms = int(1e3 * wanted.seconds)
    settings.min_query_count = wanted.count
    if wanted.scenario == "server":
        settings.server_target_qps = wanted.rate
        settings.server_target_latency_ns = 10**10
        settings.max_duration_ms = 0
    if wanted.scenario == "offline":
        settings.min_query_count = 1
        settings.offline_expected_qps = len(given.inputs) / wanted.seconds
    loop = load.new_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def issue(batch: Sequence[Any]) -> None:
        ids, indices = [sample.id for sample in batch], [sample.index for sample in batch]
        answering = target.answer_all(indices) if wanted.scenario == "offline" else target.answer(indices)
        asyncio.run_coroutine_threadsafe(answering, loop).add_done_callback(
            lambda _: lg.QuerySamplesComplete([lg.QuerySampleResponse(each, 0, 0) for each in ids])
        )

    sut = lg.ConstructSUT(issue, lambda: None)
    qsl = lg.ConstructQSL(len(given.inputs), len(given.inputs), lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        logs = lg.LogSettings()
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = False
        logs.enable_trace = False
        lg.StartTestWithLogSettings(sut, qsl, settings, logs)
        summary = Path(folder, "mlperf_log_summary.txt").read_text()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    match = re.search(pattern, summary)
    if match is None:
        raise RuntimeError(f"LoadGen's summary has no {pattern}: {summary}")
    return float(match[1]) / (1e9 if is_time else 1.0)


def by_distilrt(target: Any, given: Samples, wanted: Load) -> float:
    """The same figure as `distilrt bench` finds it."""
    loop = load.new_loop()
    window = loop.run_until_complete(load.measure(target, given.lengths, wanted))
    loop.close()
    return percentile(window.latencies, 50) if FIGURES[wanted.scenario][2] else window.samples / window.seconds


def _spread(values: Sequence[float]) -> float:
    """From quartile to quartile, relative to the median."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else (0.0, 1.0, 0.0)
    return (high - low) / middle


def main(
    model: Annotated[str, typer.Option("--model", "-m")],
    workload: str = "1x32",
    seconds: Annotated[float, typer.Option(help="Of a window.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    allowed: Annotated[float, typer.Option(help="Difference of medians, relative.")] = 0.1,
    threads: int = 2,
) -> None:
    """Measure with both."""
    sys.setswitchinterval(5e-4)  # as in a session of distilrt bench
    given = samples.make(workload, model)
    target = targets.Distilrt(Spec(targets.OURS, "float32", model, backend="cpu", threads=threads))
    loop = load.new_loop()
    loop.run_until_complete(target.prepare(given))
    alone = loop.run_until_complete(load.measure(target, given.lengths, Load("single", 1.0, 10)))
    loop.close()
    rate = 0.3 / percentile(alone.latencies, 50)
    apart = []
    for scenario in FIGURES:
        found: dict[str, list[float]] = {"LoadGen": [], "distilrt bench": []}
        for turn in range(rounds):
            wanted = Load(scenario, seconds, 10, rate=rate if scenario == "server" else 0.0, seed=turn)
            ways = [("LoadGen", by_loadgen), ("distilrt bench", by_distilrt)]
            for name, way in ways if turn % 2 else ways[::-1]:
                found[name].append(way(target, given, wanted))
        theirs, ours = (statistics.median(values) for values in found.values())
        noise = max(_spread(values) for values in found.values())
        typer.echo(f"{scenario:<8} LoadGen {theirs:.5g}, distilrt bench {ours:.5g}: {ours / theirs - 1:+.1%}, where "
                   f"rounds of one differ by {noise:.0%}")  # fmt: skip
        if abs(ours / theirs - 1) > max(allowed, noise):
            apart.append(scenario)
    if apart:
        typer.echo(f"further apart than noise: {', '.join(apart)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

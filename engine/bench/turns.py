"""One load on several targets, in turns: short rounds, each with the same queries for all, until they are steady.

A machine's speed wanders from second to second. Targets that take turns all meet it, the shorter the turns the more
alike: on a busy machine, rounds of 0.03 s told a ratio eight times as sharply as rounds of a second did in the same
time (docs/log.md). So a window, the unit of steadiness, is cut into rounds as short as a target's start allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distilrt.bench import statistics
from distilrt.bench.findings import Findings, Row
from distilrt.bench.load import Load
from distilrt.bench.progress import Say
from distilrt.bench.session import PeerError, Session
from distilrt.bench.statistics import Window, joined, late, steady, summary
from distilrt.bench.targets import Spec

WINDOWS = 3  # of a duration
MOST_WINDOWS = 6  # where targets do not get steady, or their ratios are not known to half of 5 %
MOST_ROUNDS = 200  # of a window
JUDGED = 3  # rounds, at most those of a window, that show who is far behind; in one alone a neighbour may
SHORTEST = 0.05  # seconds of a round
SHORTEST_OPEN = 2.0  # of `server`, whose queue starts empty in every round
LEAST_QUERIES = 3  # of a closed loop's round
# Seconds before a closed loop's round counts: caches are full of the last target's weights, and the threads of OpenMP
# spin for some milliseconds after their last work.
LEAD = 0.01


@dataclass(slots=True)
class Field:
    """The targets that can be measured.

    Attributes:
        sessions: of each; one that fails is removed, its reason in `findings.left_out`.
        findings, say: of the run.
    """

    sessions: dict[Spec, Session]
    findings: Findings
    say: Say

    def measure(self, spec: Spec, load: Load, words: str) -> Window | None:
        """One window; None: the target failed, and is removed."""
        self.say(words, load.seconds + load.lead)
        try:
            window = self.sessions[spec].window(load)
            if not len(window.latencies):
                raise PeerError(f"no query was answered: {', '.join(window.failures)}")
            return window
        except PeerError as reason:
            self.findings.left_out.append(f"{spec.named} ({load.scenario}): {reason}")
            del self.sessions[spec]
            return None


def rounds(load: Load, query_s: float) -> int:
    """Into how many rounds a window of `load` is cut, where the slowest target takes `query_s` seconds for a query."""
    least = LEAST_QUERIES if load.scenario in ("single", "multi") else 1
    shortest = max(SHORTEST_OPEN if load.scenario == "server" else SHORTEST, least * query_s)
    return max(1, min(MOST_ROUNDS, int(load.seconds / shortest)))


def take(
    field: Field, load: Load, query_s: float, workload: str, rows: dict[Spec, Row], *,
    most_windows: int = MOST_WINDOWS, behind: float = math.inf,
) -> None:  # fmt: skip
    """Measure every target.

    Args:
        field: the targets.
        load: of one window.
        query_s: see `rounds`.
        workload: its name.
        rows: filled at the end, for each target that did not fail, and where Ctrl-C comes before, of what there is.
        most_windows: of each, where they do not get steady.
        behind: how many times the time of the fastest other engine than the first target's another may take; one that
            takes more in the best of its first rounds has no further ones.
    """
    alive = field.sessions
    size = rounds(load, query_s)
    lead = LEAD if size > 1 and load.scenario in ("single", "multi") else 0.0
    part = replace(load, seconds=load.seconds / size, count=-(-load.count // size), lead=lead)
    windows: dict[Spec, list[Window]] = {spec: [] for spec in alive}
    times: dict[Spec, list[float]] = {spec: [] for spec in alive}
    figure = "throughput" if load.scenario == "offline" else "latency"
    at, again, left_behind = f" at {load.rate:g}/s" if load.rate else "", "", set[Spec]()
    try:
        for turn in range(most_windows * size):
            taking = [spec for spec in alive if spec not in left_behind]
            if not taking:
                break
            if turn % size == 0 and turn >= WINDOWS * size:
                again = ", not steady yet"
                if all(steady(joined(windows[spec], size), figure) for spec in taking):
                    again = ", for a sharper ratio"
                    if all(statistics.beside(times[spec], times[taking[0]]).sharp for spec in taking[1:]):
                        break
            first, found = turn % len(taking), dict[Spec, Window]()
            for spec in (*taking[first:], *taking[:first]):
                words = f"{workload}: {load.scenario}{at}, {spec.named}{again}"
                window = field.measure(spec, replace(part, seed=load.seed + turn), words)
                if window is not None:
                    found[spec] = window
            for (spec, window), time in zip(found.items(), statistics.figures(list(found.values())), strict=True):
                windows[spec].append(window)
                times[spec].append(time)
            if turn + 1 == min(JUDGED, size):
                others = [spec for spec in found if spec.name != next(iter(alive)).name]
                slowest = behind * min((min(times[spec]) for spec in others), default=0.0)
                left_behind = {spec for spec in others if min(times[spec]) > slowest}
    finally:
        for spec in alive:
            if windows[spec]:
                rows[spec] = _row(windows[spec], size, load, figure) | _beside(times[spec], times[next(iter(alive))])
        for spec in left_behind & set(rows):
            rows[spec]["steady"] = None


def _beside(own: Sequence[float], first: Sequence[float]) -> Row:
    """The rounds, and how many times as fast as the run's first target it is."""
    ratio = statistics.Estimate(0.0, 0.0) if own is first else statistics.beside(own, first)
    low, high = ratio.interval
    known = ratio.half < 1
    return {"rounds_ms": [round(1e3 * time, 4) for time in own], "ratio": round(ratio.ratio, 4),
            "ratio_low": round(low, 4) if known else None, "ratio_high": round(high, 4) if known else None}  # fmt: skip


def _row(windows: Sequence[Window], size: int, load: Load, figure: str) -> Row:
    return {"scenario": load.scenario, "batch": load.size, "rate": load.rate or None, **summary(windows),
            "steady": steady(joined(windows, size), figure), "valid": not late(windows)}  # fmt: skip

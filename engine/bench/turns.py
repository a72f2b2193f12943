"""One load on several targets, in turns: short rounds, each with the same queries for all, until they are steady.

A machine's speed wanders from second to second. Targets that take turns all meet it, the shorter the turns the more
alike; so a window, the unit of steadiness, is cut into as many rounds as leave each long enough to mean something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from distilrt.bench import ratios
from distilrt.bench.child import PeerError
from distilrt.bench.findings import Findings, Row
from distilrt.bench.latencies import Window, joined, late, steady, summary
from distilrt.bench.load import Load
from distilrt.bench.session import Session
from distilrt.bench.targets import Spec

WINDOWS = 3  # of a duration
MOST_WINDOWS = 6  # where targets do not get steady, or their ratios are not known to half of 5 %
MOST_ROUNDS = 8  # of a window
SHORTEST = 0.5  # seconds of a round
SHORTEST_OPEN = 2.0  # of `server`, whose queue starts empty in every round

Say = Callable[[str, float], None]  # what comes next, and the seconds that it is expected to take


def rounds(load: Load, query_s: float) -> int:
    """Into how many rounds a window of `load` is cut, where the slowest target takes `query_s` seconds for a query."""
    shortest = max(SHORTEST_OPEN if load.scenario == "server" else SHORTEST, query_s)
    return max(1, min(MOST_ROUNDS, int(load.seconds / shortest)))


def take(
    alive: dict[Spec, Session], load: Load, query_s: float, workload: str, findings: Findings, say: Say
) -> dict[Spec, Row]:
    """Measure every target of `alive`; the row of each that is alive at the end.

    Args:
        alive: those that can be measured; one that fails is removed, its reason in `findings.left_out`.
        load: of one window.
        query_s: see `rounds`.
        workload: its name, for `say`.
    """
    size = rounds(load, query_s)
    # A round's first query finds the caches full of another target's weights.
    lead = 1 if size > 1 and load.scenario in ("single", "multi") else 0
    part = replace(load, seconds=load.seconds / size, count=-(-load.count // size), lead=lead)
    windows: dict[Spec, list[Window]] = {spec: [] for spec in alive}
    times: dict[Spec, list[float]] = {spec: [] for spec in alive}
    figure = "throughput" if load.scenario == "offline" else "latency"
    for turn in range(MOST_WINDOWS * size):
        if not alive:
            break
        again = ""
        if turn >= WINDOWS * size:
            again = ", not steady yet"
            if turn % size == 0 and all(steady(joined(windows[spec], size), figure) for spec in alive):
                again = ", for a sharper ratio"
                if all(ratio.sharp for ratio in _ratios(alive, times)):
                    break
        first, found = turn % len(alive), dict[Spec, Window]()
        for spec in (*list(alive)[first:], *list(alive)[:first]):
            at = f" at {load.rate:g}/s" if load.rate else ""
            say(f"{workload}: {load.scenario}{at}, {spec.named}{again}", part.seconds)
            window = measure(alive, spec, replace(part, seed=load.seed + turn), findings)
            if window is not None:
                found[spec] = window
        for (spec, window), time in zip(found.items(), ratios.figures(list(found.values())), strict=True):
            windows[spec].append(window)
            times[spec].append(time)
    return {spec: _row(windows[spec], size, load, figure) | _beside(times[spec], times[next(iter(alive))])
            for spec in alive}  # fmt: skip


def measure(alive: dict[Spec, Session], spec: Spec, wanted: Load, findings: Findings) -> Window | None:
    """One round; a target that fails leaves `alive`."""
    try:
        window = alive[spec].window(wanted)
        if not len(window.latencies):
            raise PeerError(f"no query was answered: {', '.join(window.failures)}")
        return window
    except PeerError as reason:
        findings.left_out.append(f"{spec.named} ({wanted.scenario}): {reason}")
        del alive[spec]
        return None


def _ratios(alive: Mapping[Spec, Session], times: Mapping[Spec, Sequence[float]]) -> list[ratios.Estimate]:
    """Of every target but the first, beside it."""
    first, *others = alive
    return [ratios.beside(times[spec], times[first]) for spec in others]


def _beside(own: Sequence[float], first: Sequence[float]) -> Row:
    """The rounds, and how many times as fast as the run's first target it is."""
    ratio = ratios.beside(own, first)
    low, high = ratio.interval
    known = ratio.half < 1
    return {"rounds_ms": [round(1e3 * time, 4) for time in own], "ratio": round(ratio.ratio, 4),
            "ratio_low": round(low, 4) if known else None, "ratio_high": round(high, 4) if known else None}  # fmt: skip


def _row(windows: Sequence[Window], size: int, load: Load, figure: str) -> Row:
    return {"scenario": load.scenario, "batch": load.size, "rate": load.rate or None, **summary(windows),
            "steady": steady(joined(windows, size), figure), "valid": not late(windows)}  # fmt: skip

"""The search for the highest rate that keeps an SLO: found by halving, held in re-tests under other seeds."""

from __future__ import annotations

from collections.abc import Callable

from distilrt.bench.findings import Row
from distilrt.bench.latencies import Slo, Window, late, summary
from distilrt.bench.load import Load
from distilrt.bench.turns import WINDOWS, Say

SEARCH = 5  # halvings of the range of rates
RETESTS = 2  # with other seeds and twice the time: a short window flatters
RETEST_STEP = 0.93  # of the rate, where a re-test fails
MOST_RETESTS = 8


def seconds(duration: float) -> float:
    """What a search takes where no re-test fails, roughly."""
    return duration * (1 / WINDOWS + SEARCH + 2 * RETESTS)


def search(measure: Callable[[Load], Window | None], load: Load, slo: Slo, in_flight: int, say: Say) -> Row:
    """The row of one target.

    Args:
        measure: sends a load to the target; None where it failed, which ends the search.
        load: seconds and queries of a step, and the first seed.
        slo: what must be kept.
        in_flight: requests at a time that show the limit under which the search begins.
        say: told of every step.

    Returns:
        the held rate (0: none), all probes, and what it takes at its limit; empty where it failed.
    """
    probes = list[Row]()
    say("at its limit", load.seconds / WINDOWS)
    flood = measure(Load("flood", load.seconds / WINDOWS, load.count, size=in_flight, seed=load.seed))
    if flood is None:
        return {}

    def holds(rate: float, seed: int, seconds: float) -> Window | None:
        say(f"at {rate:.3g}/s", seconds)
        window = measure(Load("server", seconds, load.count, rate=rate, seed=seed))
        if window is None:
            return None
        valid = not late([window], slo.seconds)  # lag is part of the latencies, and counts against the target
        met = slo.met([window]) and valid
        probes.append({"rate": round(rate, 3), "met": met, "valid": valid, **summary([window])})
        return window if met else None

    low, high = 0.0, 1.1 * flood.samples / flood.seconds
    for step in range(SEARCH):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle, load.seed + step, load.seconds) else (low, middle)
    rate, kept, tries = low, list[Window](), 0
    while rate > 0 and len(kept) < RETESTS and tries < MOST_RETESTS:
        tries += 1
        window = holds(rate, load.seed + 1000 + tries, 2 * load.seconds)
        if window is None:
            kept, rate = [], rate * RETEST_STEP
        else:
            kept.append(window)
    held = len(kept) == RETESTS
    found = summary(kept) if held else {}
    valid = held or all(probe["valid"] for probe in probes)
    return {"scenario": "peak", "batch": 1, "rate": round(rate, 3) if held else 0.0, "slo": str(slo), **found,
            "steady": held, "valid": valid, "probes": probes,
            "saturated_per_s": round(flood.samples / flood.seconds, 3),
            "saturated_tokens_per_s": round(flood.tokens / flood.seconds, 1)}  # fmt: skip

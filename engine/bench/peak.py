"""The search for the highest rate that keeps an SLO: the range is halved, then the rate found is held in re-tests.

A search is a generator that asks for windows and is sent them; it has no target and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from distilrt.bench.load import Load
from distilrt.bench.statistics import Slo, Window, late, summary

HALVINGS = 5  # of the range of rates
RETESTS = 2  # with other seeds and more time: a short window flatters
RETEST_STEP = 0.93  # of the rate, where a re-test fails; the same for all, or who fails is set back further than he is
MOST_RETESTS = 14
FLOOD = 1 / 3  # of a window's seconds, to find the range

Search = Generator[Load, Window, dict[str, Any]]
_Key = TypeVar("_Key", bound=Hashable)


class Stopped(Exception):
    """Thrown into a search that must end where it is."""


def search(load: Load, slo: Slo, *, in_flight: int, retest: float) -> Search:
    """The row of a target whose windows it is sent.

    Args:
        load: of `server`, the seconds, count and seed of a window; its rate is what is searched.
        slo: what must be kept, with the generator on its schedule.
        in_flight: requests at a time while the target's limit is looked for.
        retest: seconds of a re-test.

    Returns:
        (of the generator) `rate` (1/s; 0 where none was held), the statistics of the re-tests, `saturated_per_s` and
        `saturated_tokens_per_s` with `in_flight` requests at a time, and every `probes`. Of a search that was stopped,
        `rate` is the highest that held so far, and `steady` False.

    Raises:
        Stopped: thrown in before there was anything to tell.
    """
    probes: list[dict[str, Any]] = []
    flood = yield Load("flood", FLOOD * load.seconds, load.count, size=in_flight, seed=load.seed)

    def met(rate: float, window: Window) -> bool:
        valid = not late([window], slo.seconds)  # lag is part of the latencies, and counts against the target
        kept = slo.met([window]) and valid
        probes.append({"rate": round(rate, 3), "met": kept, "valid": valid, **summary([window])})
        return kept

    low, high = 0.0, 1.1 * flood.samples / flood.seconds
    kept, tries, stopped = list[Window](), 0, False
    try:
        for step in range(HALVINGS):
            middle = (low + high) / 2
            window = yield replace(load, rate=middle, seed=load.seed + step)
            low, high = (middle, high) if met(middle, window) else (low, middle)
        while low > 0 and len(kept) < RETESTS and tries < MOST_RETESTS:
            tries += 1
            window = yield replace(load, rate=low, seed=load.seed + 1000 + tries, seconds=retest)
            if met(low, window):
                kept.append(window)
            else:
                kept, low = [], low * RETEST_STEP
    except Stopped:
        stopped = True
    held = len(kept) == RETESTS
    return {"scenario": "peak", "batch": 1, "rate": round(low, 3) if held or stopped else 0.0, "slo": str(slo),
            **(summary(kept) if held else {}), "steady": held,
            "valid": held or all(probe["valid"] for probe in probes), "probes": probes,
            "saturated_per_s": round(flood.samples / flood.seconds, 3),
            "saturated_tokens_per_s": round(flood.tokens / flood.seconds, 1)}  # fmt: skip


def take_turns(
    searches: Mapping[_Key, Search], measure: Callable[[_Key, Load], Window | None], rows: dict[_Key, dict[str, Any]]
) -> None:
    """Fill the rows of several searches, a window of each after the other, so that all meet the same noise.

    `measure` runs a window; None says that the target failed, which ends its search without a row. Where Ctrl-C comes
    before the end, the row has the highest rate that was held so far.
    """
    wanted = {key: next(each) for key, each in searches.items()}
    found: dict[_Key, dict[str, Any]] = {}

    def advance(key: _Key, step: Callable[[], Load]) -> None:
        try:
            wanted[key] = step()
        except StopIteration as end:
            found[key] = end.value

    try:
        while wanted:
            for key in list(wanted):
                window = measure(key, wanted[key])
                del wanted[key]
                if window is not None:
                    advance(key, partial(searches[key].send, window))
    finally:
        for key in wanted:  # none but after a Ctrl-C
            with suppress(Stopped):
                advance(key, partial(searches[key].throw, Stopped()))
        rows.update({key: found[key] for key in searches if key in found})

"""The search for the highest rate that keeps an SLO: the range is halved, then the rate found is held in re-tests.

A search asks for windows and is sent them; it has no target and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from distilrt.bench.load import Load
from distilrt.bench.statistics import Slo, Window, late, summary

HALVINGS = 5  # of the range of rates
RETESTS = 2  # with other seeds and more time: a short window flatters
RETEST_STEP = 0.93  # of the rate, where a re-test fails; the same for all, or who fails is set back further than he is
MOST_RETESTS = 14
FLOOD = 1 / 3  # of a window's seconds, to find the range

_Key = TypeVar("_Key", bound=Hashable)
Rows = dict[_Key, dict[str, Any]]
Search = Generator[Load, Window, None]


def search(rows: Rows[_Key], key: _Key, load: Load, slo: Slo, *, in_flight: int, retest: float) -> Search:
    """The windows that it asks for, each to be sent what it showed; `rows[key]` is what was found until then.

    The row has `rate` (1/s; the highest that held so far, at the end 0 where none was held), the statistics of the
    re-tests, `saturated_per_s` and `saturated_tokens_per_s` with `in_flight` requests at a time, and every probe.

    Args:
        rows, key: where the row goes.
        load: of `server`, the seconds, count and seed of a window; its rate is what is searched.
        slo: what must be kept, with the generator on its schedule.
        in_flight: requests at a time while the target's limit is looked for.
        retest: seconds of a re-test.
    """
    flood = yield Load("flood", FLOOD * load.seconds, load.count, size=in_flight, seed=load.seed)
    row = rows[key] = {
        "scenario": "peak", "batch": 1, "rate": 0.0, "slo": str(slo), "steady": False, "valid": True, "probes": [],
        "saturated_per_s": round(flood.samples / flood.seconds, 3),
        "saturated_tokens_per_s": round(flood.tokens / flood.seconds, 1),
    }  # fmt: skip
    held, high = 0.0, 1.1 * flood.samples / flood.seconds

    def met(rate: float, window: Window) -> bool:
        valid = not late([window], slo.seconds)  # lag is part of the latencies, and counts against the target
        kept = slo.met([window]) and valid
        row["probes"].append({"rate": round(rate, 3), "met": kept, "valid": valid, **summary([window])})
        row["valid"] &= valid
        return kept

    for step in range(HALVINGS):
        middle = (held + high) / 2
        if met(middle, (yield replace(load, rate=middle, seed=load.seed + step))):
            held = middle
            row["rate"] = round(held, 3)
        else:
            high = middle
    in_a_row: list[Window] = []
    for step in range(MOST_RETESTS if held else 0):
        window = yield replace(load, rate=held, seed=load.seed + 1001 + step, seconds=retest)
        if met(held, window):
            in_a_row.append(window)
            if len(in_a_row) == RETESTS:
                row |= summary(in_a_row) | {"steady": True, "valid": True}
                return
        else:
            in_a_row, held = [], held * RETEST_STEP
            row["rate"] = round(held, 3)
    row["rate"] = 0.0


def take_turns(
    searches: Mapping[_Key, Search], measure: Callable[[_Key, Load], Window | None], rows: Rows[_Key]
) -> None:
    """Carry out several searches, a window of each after the other, so that all meet the same noise.

    `measure` runs a window; None says that the target failed, which ends its search without a row.
    """
    wanted = {key: next(each) for key, each in searches.items()}
    while wanted:
        for key, load in list(wanted.items()):
            del wanted[key]
            window = measure(key, load)
            if window is None:
                rows.pop(key, None)
                continue
            with suppress(StopIteration):
                wanted[key] = searches[key].send(window)

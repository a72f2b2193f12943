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


class Search:
    """The search of one target.

    Args:
        load: of `server`, the seconds, count and seed of a window; its rate is what is searched.
        slo: what must be kept, with the generator on its schedule.
        in_flight: requests at a time while the target's limit is looked for.
        retest: seconds of a re-test.
    """

    def __init__(self, load: Load, slo: Slo, *, in_flight: int, retest: float) -> None:
        self._load, self._slo, self._in_flight, self._retest = load, slo, in_flight, retest
        self._flood: Window | None = None
        self._held = 0.0  # the highest rate that held so far
        self._kept: list[Window] = []  # re-tests at this rate, one after the other
        self._probes: list[dict[str, Any]] = []
        self._ended = False

    def steps(self) -> Generator[Load, Window, None]:
        """The windows that it asks for, each to be sent what it showed."""
        load, seed = self._load, self._load.seed
        flood = yield Load("flood", FLOOD * load.seconds, load.count, size=self._in_flight, seed=seed)
        self._flood, high = flood, 1.1 * flood.samples / flood.seconds
        for step in range(HALVINGS):
            middle = (self._held + high) / 2
            if self._met(middle, (yield replace(load, rate=middle, seed=seed + step))):
                self._held = middle
            else:
                high = middle
        for step in range(MOST_RETESTS if self._held else 0):
            window = yield replace(load, rate=self._held, seed=seed + 1001 + step, seconds=self._retest)
            if self._met(self._held, window):
                self._kept.append(window)
                if len(self._kept) == RETESTS:
                    break
            else:
                self._kept, self._held = [], self._held * RETEST_STEP
        self._ended = True

    def _met(self, rate: float, window: Window) -> bool:
        valid = not late([window], self._slo.seconds)  # lag is part of the latencies, and counts against the target
        kept = self._slo.met([window]) and valid
        self._probes.append({"rate": round(rate, 3), "met": kept, "valid": valid, **summary([window])})
        return kept

    def row(self) -> dict[str, Any] | None:
        """What was found; of a search that has not ended, the highest rate that held so far, not `steady`.

        Returns:
            `rate` (1/s; 0 where none was held), the statistics of the re-tests, `saturated_per_s` and
            `saturated_tokens_per_s` with `in_flight` requests at a time, and every `probes`; None: nothing yet.
        """
        if self._flood is None:
            return None
        held, flood = len(self._kept) == RETESTS, self._flood
        return {"scenario": "peak", "batch": 1, "rate": round(self._held, 3) if held or not self._ended else 0.0,
                "slo": str(self._slo), **(summary(self._kept) if held else {}), "steady": held,
                "valid": held or all(probe["valid"] for probe in self._probes), "probes": self._probes,
                "saturated_per_s": round(flood.samples / flood.seconds, 3),
                "saturated_tokens_per_s": round(flood.tokens / flood.seconds, 1)}  # fmt: skip


def take_turns(
    searches: Mapping[_Key, Search], measure: Callable[[_Key, Load], Window | None], rows: dict[_Key, dict[str, Any]]
) -> None:
    """Fill the rows of several searches, a window of each after the other, so that all meet the same noise.

    `measure` runs a window; None says that the target failed, which ends its search without a row. Where Ctrl-C comes
    before the end, the row has the highest rate that was held so far.
    """
    steps = {key: search.steps() for key, search in searches.items()}
    wanted, failed = {key: next(each) for key, each in steps.items()}, set[_Key]()
    try:
        while wanted:
            for key, load in list(wanted.items()):
                del wanted[key]
                window = measure(key, load)
                if window is None:
                    failed.add(key)
                    continue
                with suppress(StopIteration):
                    wanted[key] = steps[key].send(window)
    finally:
        found = {key: search.row() for key, search in searches.items() if key not in failed}
        rows.update({key: row for key, row in found.items() if row is not None})

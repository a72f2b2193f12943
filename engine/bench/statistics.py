"""What was measured in a stretch of time, and its statistics: percentiles, rates, steadiness; and how many times as
fast one target is as another of the same run, and how sure that is. No clock is here.

Targets take turns in short rounds with the same texts, and a round gives one ratio, in which what the machine did
meanwhile cancels. The mean of their logarithms without the lowest and highest fifth, and its interval of 95 %, are
Yuen's (Biometrika 61, 1974): a neighbour's bursts spoil some rounds altogether, which a plain mean would not survive.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.errors import InvalidParameter

Seconds = npt.NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99, 99.9)
STEADY = 0.1  # how far the last three windows may be apart
LATE = 1e-3  # seconds; a generator whose 99th percentile of lag is beyond it, and beyond `LATE_SHARE`, was too slow
LATE_SHARE = 0.1  # of the median latency, in which lag is counted anyway
SHARP = math.log(1.05) / 2  # of a ratio's logarithm; half the change that must be told from none
TRIM = 0.2
Rounds = Sequence[float]


@dataclass(slots=True)
class Window:
    """One stretch of measuring.

    Attributes:
        latencies: of each answered query, in order of their completion.
        lags: how long after its intended time each query was sent; empty where the next waits for the last.
        samples, tokens: answered.
        seconds: from the first query's time to the last answer.
        failures: queries without an answer, counted by reason.
    """

    latencies: Seconds
    lags: Seconds
    samples: int
    tokens: int
    seconds: float
    failures: Counter[str] = field(default_factory=Counter)


def percentile(values: Seconds, percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed; NaN of none."""
    return float(np.percentile(values, percent, method="inverted_cdf")) if len(values) else float("nan")


def joined(rounds: Sequence[Window], size: int) -> list[Window]:
    """Windows of `size` rounds each; what is left over at the end is left out."""
    found = []
    for first in range(0, len(rounds) - size + 1, size):
        parts = rounds[first : first + size]
        found.append(Window(
            np.concatenate([part.latencies for part in parts]), np.concatenate([part.lags for part in parts]),
            sum(part.samples for part in parts), sum(part.tokens for part in parts),
            sum(part.seconds for part in parts), sum((part.failures for part in parts), Counter()),
        ))  # fmt: skip
    return found


def steady(windows: Sequence[Window], figure: str) -> bool:
    """Whether the last three windows agree within `STEADY`; `figure` is `latency` (their medians) or `throughput`."""
    last = windows[-3:]
    if figure == "latency":
        values = [percentile(window.latencies, 50) for window in last]
    else:
        values = [window.samples / window.seconds for window in last]
    return len(last) == 3 and max(values) <= (1 + STEADY) * min(values)


def summary(windows: Sequence[Window]) -> dict[str, Any]:
    """Statistics of all windows together: rates in 1/s, times in ms."""
    (whole,) = joined(windows, len(windows))
    latencies, lags, seconds, failures = whole.latencies, whole.lags, whole.seconds, whole.failures
    found = {
        "queries": len(latencies),
        "failed": sum(failures.values()),
        "failures": dict(failures),
        "seconds": round(seconds, 3),
        "samples_per_s": round(whole.samples / seconds, 3),
        "tokens_per_s": round(whole.tokens / seconds, 1),
        **{f"p{percent:g}_ms": _ms(percentile(latencies, percent)) for percent in PERCENTILES},
        "mean_ms": _ms(float(latencies.mean()) if len(latencies) else float("nan")),
        "max_ms": _ms(percentile(latencies, 100)),
    }
    if len(lags):
        found["lag_p99_ms"] = _ms(percentile(lags, 99))
    return found


def late(windows: Sequence[Window], within: float | None = None) -> bool:
    """Whether the generator could not keep its schedule, so that the run says nothing of the target.

    `within`: the seconds that latencies are held to, of which lag may be `LATE_SHARE`; None: their median.
    """
    lags = np.concatenate([window.lags for window in windows])
    typical = percentile(np.concatenate([window.latencies for window in windows]), 50) if within is None else within
    allowed = max(LATE, LATE_SHARE * typical) if typical == typical else LATE
    return bool(len(lags)) and percentile(lags, 99) > allowed


@dataclass(frozen=True, slots=True)
class Slo:
    """What a target must keep: no more than `seconds` at a percentile."""

    percent: float
    seconds: float

    def met(self, windows: Sequence[Window]) -> bool:
        """Whether so many of all queries were answered in time; one that was refused or failed was not."""
        latencies = np.concatenate([window.latencies for window in windows])
        failed = sum(sum(window.failures.values()) for window in windows)
        return len(latencies) > 0 and percentile(np.append(latencies, [np.inf] * failed), self.percent) <= self.seconds

    def __str__(self) -> str:
        return f"p{self.percent:g}={1e3 * self.seconds:g}ms"


def parse_slo(text: str) -> Slo:
    """`p99=20ms`: a percentile and a bound in s, ms or us.

    Raises:
        InvalidParameter: written otherwise.
    """
    match = re.fullmatch(r"p(\d+(?:\.\d+)?)=(\d+(?:\.\d+)?)(us|ms|s)", text.strip())
    if not match or not 0 < float(match[1]) < 100 or float(match[2]) <= 0:
        raise InvalidParameter(
            f"an SLO is a percentile between 0 and 100 and a time in s, ms or us, as in p99=20ms; found {text!r}"
        )
    return Slo(float(match[1]), float(match[2]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[3]])


def _ms(seconds: float) -> float | None:
    return round(1e3 * seconds, 3) if seconds == seconds else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A logarithm of a ratio and its interval of 95 %; infinite where there are too few rounds to tell."""

    log: float
    half: float

    @property
    def ratio(self) -> float:
        """The ratio itself."""
        return math.exp(self.log)

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the ratio's interval of 95 %."""
        return math.exp(self.log - self.half), math.exp(self.log + self.half) if self.half < 700 else math.inf

    @property
    def sharp(self) -> bool:
        """Whether a change of 5 % could be told from none by it."""
        return self.half <= SHARP


def figures(windows: Sequence[Window]) -> list[float]:
    """One round of several targets as a time for each: the geometric mean of the latencies, in seconds.

    All were sent the same queries in the same order, and a faster one perhaps more; those that all answered count.
    """
    common = min(len(window.latencies) for window in windows) if windows else 0
    return [float(np.exp(np.log(np.maximum(window.latencies[:common], 1e-9)).mean())) for window in windows]


def beside(own: Rounds, other: Rounds) -> Estimate:
    """How many times as fast `own` is as `other`, by their times in the first rounds, which both have.

    Without scipy it is the median of the rounds, and the interval is infinite.
    """
    logs = [math.log(theirs / ours) for ours, theirs in zip(own, other, strict=False)]
    if len(logs) < 2 or find_spec("scipy") is None:
        return Estimate(float(np.median(logs)) if logs else 0.0, math.inf)
    from scipy.stats import mstats

    low, high = mstats.trimmed_mean_ci(logs, (TRIM, TRIM), alpha=0.05)
    return Estimate(float(low + high) / 2, float(high - low) / 2)

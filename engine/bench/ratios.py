"""How many times as fast one target is as another of the same run, how sure that is, and whether two runs differ in it.

Targets take turns in short rounds with the same texts, and a round gives one ratio, in which what the machine did
meanwhile cancels. The mean of their logarithms without the lowest and highest fifth, and its interval of 95 %, are
Yuen's (Biometrika 61, 1974): a neighbour's bursts spoil some rounds altogether, which a plain mean would not survive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distilrt.bench.latencies import Window

DETECTED = math.log(1.05)  # a change of the ratio that must be found
TRIM = 0.2
# Student's t, 97.5 %, by degrees of freedom; between them it is all but linear in their inverse.
_DEGREES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 60, math.inf)
_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.179, 2.131, 2.086, 2.042, 2.000,
              1.960)  # fmt: skip
Rounds = Sequence["float | None"]


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
        """Of the ratio."""
        return math.exp(self.log - self.half), math.exp(self.log + self.half) if self.half < 700 else math.inf

    @property
    def sharp(self) -> bool:
        """Whether a change of 5 % could be told from none by it."""
        return self.half <= DETECTED / 2

    @property
    def changed(self) -> bool:
        """Whether it is nearer to a change of 5 % (or beyond) than to none, and not by chance."""
        return abs(self.log) > max(DETECTED / 2, self.half)


def figures(windows: Sequence[Window]) -> list[float]:
    """One round of several targets as a time for each: the geometric mean of the latencies, in seconds.

    All were sent the same queries in the same order, and a faster one perhaps more; those that all answered count.
    """
    common = min(len(window.latencies) for window in windows) if windows else 0
    return [float(np.exp(np.log(np.maximum(window.latencies[:common], 1e-9)).mean())) for window in windows]


def beside(own: Rounds, other: Rounds) -> Estimate:
    """How many times as fast `own` is as `other`, by their times in the rounds that both have."""
    mean, variance, degrees = _trimmed(_logs(own, other))
    return Estimate(mean, _t(degrees) * math.sqrt(variance))


def change(before: tuple[Rounds, Rounds], after: tuple[Rounds, Rounds]) -> Estimate:
    """By what factor the ratio of two targets, own and other, changed from one run to another; above 1 is faster."""
    (first, of_first, few), (second, of_second, many) = (_trimmed(_logs(*run)) for run in (before, after))
    variance = of_first + of_second
    if not math.isfinite(variance):
        return Estimate(second - first, math.inf)
    degrees = variance**2 / (of_first**2 / few + of_second**2 / many) if variance else math.inf  # Welch's
    return Estimate(second - first, _t(degrees) * math.sqrt(variance))


def change_of_many(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """The same of several runs of each kind, by the logarithm of each run's ratio: Student's, with equal variances.

    What one run differs from the next by is in it, whereas the rounds of a single one know nothing of other minutes.
    """
    degrees = len(before) + len(after) - 2
    of_each = sum(float(np.var(logs)) * len(logs) for logs in (before, after)) / degrees
    half = _t(degrees) * math.sqrt(of_each * (1 / len(before) + 1 / len(after)))
    return Estimate(float(np.mean(after) - np.mean(before)), half)


def _logs(own: Rounds, other: Rounds) -> npt.NDArray[np.float64]:
    return np.array([math.log(b / a) for a, b in zip(own, other, strict=False) if a and b])


def _trimmed(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean without the outer fifths, its variance (of the values drawn in to the rest's ends), degrees of freedom."""
    count = len(values)
    if not count:
        return 0.0, math.inf, 1.0
    cut = int(TRIM * count)
    ordered = np.sort(values)
    kept = ordered[cut : count - cut]
    if count == 1:
        return float(kept[0]), math.inf, 1.0
    drawn_in = np.clip(ordered, kept[0], kept[-1])
    left = len(kept)
    return float(kept.mean()), float(drawn_in.var(ddof=1)) * (count - 1) / (left * (left - 1)), float(left - 1)


def _t(degrees: float) -> float:
    inverse = [1 / each for each in _DEGREES]
    return float(np.interp(1 / degrees, inverse[::-1], _QUANTILES[::-1]))

"""Histograms and counters."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from distilrt.runtime.counters import FINE_SECONDS, Counters, Histogram


@given(st.lists(st.integers(-5, 40)), st.lists(st.integers(0, 30), min_size=1, unique=True).map(sorted))
def test_a_histogram_counts_by_inclusive_upper_bounds(values: list[int], bounds: list[int]) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    below = [sum(value <= bound for value in values) for bound in bounds]
    assert [sum(histogram.counts[: i + 1]) for i in range(len(bounds))] == below
    assert sum(histogram.counts) == len(values)
    assert histogram.total == sum(values)


def test_a_batch_is_counted_with_the_padding_that_it_has_not() -> None:
    counters = Counters()
    counters.batch([3, 10, 1], 0.5)
    counters.batch([4], 0.25)
    assert counters.padding_avoided == 30 - 14
    assert (counters.batch_tokens.total, counters.batch_sequences.total, counters.batch_seconds.total) == (18, 4, 0.75)
    counters.request("ner", "shed")
    counters.request("ner", "shed")
    assert counters.requests == {("ner", "shed"): 2}


def test_fine_seconds_tell_values_a_tenth_apart_from_a_tenth_of_a_millisecond_to_half_a_minute() -> None:
    assert FINE_SECONDS[0] == 1e-4
    assert 28 < FINE_SECONDS[-1] < 32
    steps = [above / below for below, above in pairwise(FINE_SECONDS)]
    assert 1.098 < min(steps) <= max(steps) < 1.102
